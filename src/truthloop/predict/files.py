"""Which files of the blob store jobs, batches and their results name."""

from collections.abc import Collection, Iterator
from heapq import merge

from truthloop.blobs import is_key
from truthloop.predict.documents import JOBS, RESULTS
from truthloop.store.connection import Document, Store
from truthloop.store.in_order import in_order


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


def keys_of_jobs(store: Store) -> Iterator[str]:
    """The keys that jobs' images and stored results have, in order, each at least once; memory doesn't grow."""

    def keys(name: str, field: str) -> Iterator[str]:
        for document in in_order(store, name, field):
            key = document["image"]["blob"] if field == "image.blob" else document[field]
            # A job may be for an image whose id, given by another system, is no key.
            if is_key(key):
                yield key

    return merge(keys(JOBS, "image_id"), keys(JOBS, "image.blob"), keys(RESULTS, "blob"))


def job_with(store: Store, key: str) -> str | None:
    """The id of a job, or of a batch and its image, whose image or result has this key."""
    with store.errors():
        found = store[JOBS].find_one({"$or": [{"image_id": key}, {"image.blob": key}]}, {"_id": 1})
        found = found or store[RESULTS].find_one({"blob": {"$eq": key, "$type": "string"}}, {"_id": 1})
    return None if found is None else str(found["_id"])


def named_in(job: Document, result: Document | None) -> list[str]:
    """The keys that a job and its result name."""
    image, result = job["image"] or {}, result or {}
    found = (job["image_id"], image.get("blob"), result.get("blob"))
    return [*dict.fromkeys(key for key in found if key is not None)]
