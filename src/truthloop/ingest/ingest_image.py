"""Taking one image file into the workspace."""

import hashlib

from truthloop.blobs import Blobs
from truthloop.errors import ImageRefused
from truthloop.ingest.images import (
    IngestedImage,
    NewImage,
    RefusedByCollection,
    clean_name,
    ingested,
    known_image,
    store_image,
)
from truthloop.ingest.together import Entrance


def ingest_image(entrance: Entrance, blobs: Blobs, data: bytes, *, name: str | None = None) -> IngestedImage:
    """Takes an image file into the workspace; one that is there already changes nothing.

    Args:
        entrance: the way into the workspace's `metadata`.
        blobs: its blob store.
        data: the file.
        name: what people call the file.

    Raises:
        ImageRefused: it isn't one that is taken.
        Conflict: the workspace holds made-up sample data.
        StorageUnavailable, DatabaseUnavailable, DatabaseRefused, DiskFull: as their texts say.
    """
    store = entrance.store
    image_id = hashlib.sha256(data).hexdigest()
    known = known_image(store, blobs, image_id)  # then it need not be decoded again
    if known is not None:
        return known
    entrance.claim()
    image = store_image(blobs, store.settings, data)
    new = NewImage(image, clean_name(name))
    try:
        is_new = entrance.enter(new)
    except RefusedByCollection as error:
        raise ImageRefused(f"The collection metadata refuses the image: {error}.") from error
    if not is_new:  # somebody else was quicker by a moment
        known = known_image(store, blobs, image_id)
    return known or ingested(image, new.source, "new" if is_new else "already_there")
