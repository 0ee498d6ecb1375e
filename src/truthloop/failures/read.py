"""Reading what the comparison needs of the chosen images, all of it at one moment."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure

from truthloop.errors import InputRefused
from truthloop.failures.documents import escaped
from truthloop.monitor.read import Selector, is_image_id
from truthloop.store.connection import Store
from truthloop.store.migrations import SOURCE_INDEXES
from truthloop.versions import version_key

Document: TypeAlias = Mapping[str, Any]

# MongoDB's codes for a moment that can't be read: it isn't kept any longer, or a collection or an index was made
# or removed in it. The next moment can.
_MOMENT_GONE = (239, 246)
_ATTEMPTS, _PAUSE_SECONDS = 100, 0.05
_BATCH = 100_000
# An error names so many model versions at most.
_NAMED = 10
_FIELDS: Mapping[str, Mapping[str, int]] = {
    "metadata": {"_id": 0, "image_id": 1},
    "bbox.model": {"_id": 0, "image_id": 1, "model_version": 1, "bboxes": 1},
    # Whole, since equal annotations are one.
    "bbox.human_annotation": {"_id": 0},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDocuments:
    """What is stored about one image of `metadata`."""

    image_id: str
    predictions: Sequence[Document]  # of `bbox.model`
    annotations: Sequence[Document]  # of `bbox.human_annotation`


def read_images(store: Store, which: Selector) -> list[ImageDocuments]:
    """The chosen images of `metadata`, in the order of their ids.

    Everything is read at one moment, so an image whose annotations are being replaced has the old ones or the
    new ones.
    """
    with store.errors():
        for _ in range(_ATTEMPTS):
            try:
                return _read_images(store, which)
            except OperationFailure as error:
                if error.code not in _MOMENT_GONE:
                    raise
                time.sleep(_PAUSE_SECONDS)
        return _read_images(store, which)


def read_audits(store: Store, image_ids: Iterable[str]) -> dict[str, list[Document]]:
    """The audits of these images, by image."""
    found: dict[str, list[Document]] = defaultdict(list)
    with store.errors():
        for document in store["bbox.human_audit"].find({"image_id": {"$in": list(image_ids)}}, {"_id": 0}):
            found[document["image_id"]].append(document)
    return found


def check_model_versions(store: Store, model_versions: Collection[str]) -> None:
    """Nothing, if there is a prediction of each of these versions.

    Raises:
        InputRefused: there is none of one of them; the text names those that there are.
    """
    with store.errors():
        predictions = store["bbox.model"]
        unknown = [
            version
            for version in sorted(model_versions)
            if predictions.find_one({"model_version": version}) is None
        ]
        if not unknown:
            return
        stored = [version for version in predictions.distinct("model_version") if isinstance(version, str)]
    newest_first = sorted(stored, key=version_key, reverse=True)
    named = ", ".join(map(escaped, newest_first[:_NAMED])) + (", ..." if len(newest_first) > _NAMED else "")
    there_are = f"there are predictions of {named}" if stored else "there are no predictions"
    raise InputRefused(
        f'model_version is "{escaped(unknown[0][:100])}": {there_are}.',
        errors={"model_version": f"unknown: {there_are}"},
    )


def _read_images(store: Store, which: Selector) -> list[ImageDocuments]:
    with store.client.start_session(snapshot=True) as session:
        known = _by_image(store, "metadata", which, session)
        predictions = _by_image(store, "bbox.model", which, session)
        annotations = _by_image(store, "bbox.human_annotation", which, session)
    return [
        ImageDocuments(
            image_id=image_id,
            predictions=predictions.get(image_id, ()),
            annotations=annotations.get(image_id, ()),
        )
        for image_id in sorted(known)
    ]


def _by_image(store: Store, name: str, which: Selector, session: ClientSession) -> dict[str, list[Document]]:
    found: dict[str, list[Document]] = defaultdict(list)
    cursor = store[name].find(
        {"image_id": dict(which)},
        _FIELDS[name],
        hint=[(key, 1) for key in SOURCE_INDEXES[name]],
        batch_size=_BATCH,
        session=session,
    )
    for document in cursor:
        if is_image_id(image_id := document["image_id"]):
            found[image_id].append(document)
    return found
