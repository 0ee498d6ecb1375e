"""Reading what the comparison needs of the chosen images, all of it at one moment."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure

from truthloop.monitor.read import Selector, is_image_id
from truthloop.store.connection import Store
from truthloop.store.migrations import SOURCE_INDEXES

Document: TypeAlias = Mapping[str, Any]

# MongoDB's codes for a moment that can't be read: it isn't kept any longer, or a collection or an index was made
# or removed in it. The next moment can.
_MOMENT_GONE = (239, 246)
_ATTEMPTS, _PAUSE_SECONDS = 100, 0.05
_BATCH = 100_000
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
