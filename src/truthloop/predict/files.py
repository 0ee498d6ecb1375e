"""Which files of the blob store jobs, batches and their results name."""

from collections.abc import Collection

from truthloop.predict.documents import JOBS, RESULTS
from truthloop.store.connection import Document, Store


def named_by_jobs(store: Store, keys: Collection[str]) -> set[str]:
    """Those of the keys that a job's image has, upright or as it was received, or a stored result."""
    which = {"$in": [*keys]}
    with store.errors():
        # By `distinct`, since a million jobs may have the same image.
        named: set[str] = {
            *store[JOBS].distinct("image_id", {"image_id": which}),
            *store[JOBS].distinct("image.blob", {"image.blob": which}),
            # With the type, since the index holds texts alone: most results are small and have no file.
            *store[RESULTS].distinct("blob", {"blob": {**which, "$type": "string"}}),
        }
    return named


def named_in(job: Document, result: Document | None) -> list[str]:
    """The keys that a job and its result name."""
    image, result = job["image"] or {}, result or {}
    found = (job["image_id"], image.get("blob"), result.get("blob"))
    return [*dict.fromkeys(key for key in found if key is not None)]
