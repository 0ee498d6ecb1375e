"""Images: a file becomes a blob and an entry in `metadata`, each of them once."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import merge
from typing import Any, Literal

from bson.binary import Binary
from pydantic import Field
from pymongo import UpdateOne
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError

from truthloop.answers import Answer
from truthloop.blobs import Blobs, is_key
from truthloop.errors import ImageRefused, NotFound, StorageUnavailable
from truthloop.events.record import NewEvent, record_all
from truthloop.ingest.documents import ID_SUBTYPE, prepare
from truthloop.ingest.image_file import check
from truthloop.ingest.image_header import MEDIA_TYPES, media_type_of
from truthloop.settings import Settings
from truthloop.store.connection import Store
from truthloop.store.in_order import in_order

Document = dict[str, Any]

METADATA = "metadata"
# A file's name is for people; what a file system allows, and not more.
MAX_NAME = 255
_UNKNOWN = "application/octet-stream"
_NO_PIXELS = (
    "has no pixels here: only its documents were loaded. Bring files with `truthloop ingest FOLDER`; one whose "
    "SHA-256 is the image's id becomes its file, any other a new image."
)
_NO_SUCH_IMAGE = "No image has this id. `truthloop images` lists the ids."
_DUPLICATE_KEY, _VALIDATION_FAILED = 11000, 121


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image whose pixels are in the blob store."""

    image_id: str  # SHA-256 of the file as received, where this workspace has received it
    blob: str  # key of the upright file, which alone models, thumbnails and exports use
    original: str  # key of the file as received; the same where that is upright
    width: int  # upright
    height: int
    media_type: str  # of the upright file
    captured_at: float | None = None  # seconds since 1970


class ImageFacts(Answer):
    """An image of the workspace."""

    image_id: str = Field(
        description="SHA-256 of the file as it was received.",
        examples=["9d5e3ecf4ba1e6c8b1dbb0a4d1d8f2b5c0f9f7f2f6d2b7b4a1f0a6d3c2e1b0f9"],
    )
    width: int = Field(ge=1, description="Pixels, of the upright image.", examples=[512])
    height: int = Field(ge=1, description="Pixels, of the upright image.", examples=[600])
    media_type: str = Field(description="Of the upright file.", examples=["image/jpeg"])
    capture_timestamp: float | None = Field(
        description="When it was taken, in seconds since 1970, as the file says; null where it doesn't.",
        examples=[1681533506.925],
    )
    source: str | None = Field(description="The name under which it came first.", examples=["hopper.jpg"])


class IngestedImage(ImageFacts):
    """An image that was sent to the workspace."""

    state: Literal["new", "already_there"] = Field(
        description="Whether this request brought it, or it was in the workspace before.", examples=["new"]
    )


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """A file to be given out."""

    data: bytes
    key: str  # SHA-256 of the data
    media_type: str  # what the data are, whatever a document says


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image whose pixels are stored, on its way into `metadata`."""

    image: StoredImage
    source: str | None


class RefusedByCollection(Exception):
    """A validator or a unique index that the customer has made for `metadata` refuses an image."""


def store_image(blobs: Blobs, settings: Settings, data: bytes) -> StoredImage:
    """Checks an image file and puts it into the blob store; the database isn't touched.

    Args:
        blobs: where it goes; of a refused file nothing does.
        settings: `max_image_bytes` and `max_image_pixels` bound it.
        data: the file.

    Raises:
        ImageRefused: it isn't one that is taken.
        StorageUnavailable: it can't be stored.
    """
    checked = check(data, max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    original = blobs.put(data)
    blob = original if checked.upright is data else blobs.put(checked.upright)
    return StoredImage(
        image_id=checked.image_id,
        blob=blob,
        original=original,
        width=checked.width,
        height=checked.height,
        media_type=checked.media_type,
        captured_at=checked.captured_at.timestamp() if checked.captured_at else None,
    )


def known_image(store: Store, blobs: Blobs, image_id: str) -> IngestedImage | None:
    """An image that the workspace has, pixels and all; else None."""
    document = _with_pixels(store, image_id)
    image = _stored(document)
    if document is None or image is None or not (blobs.has(image.blob) and blobs.has(image.original)):
        return None
    return ingested(image, document.get("source"), "already_there")


def find_image(store: Store, image_id: str) -> StoredImage:
    """Where the pixels of an image of the workspace are.

    Raises:
        NotFound: no image has this id.
        ImageRefused: the image has no pixels here, since only its documents were loaded.
    """
    image = _stored(_with_pixels(store, image_id))
    if image is None:
        with store.errors():
            if store[METADATA].find_one({"image_id": {"$eq": image_id}}, {"_id": 1}) is None:
                raise _no_image(image_id)
        raise ImageRefused(_no_pixels(image_id))
    return image


def find_images(store: Store, image_ids: Sequence[str]) -> dict[str, StoredImage | str]:
    """As `find_image` for many at once, which reads them together.

    Returns:
        By id: where the pixels are, or why there are none, in words that don't name the id.
    """
    query = {"image_id": {"$in": [*image_ids]}}
    found: dict[str, StoredImage | str] = dict.fromkeys(image_ids, _NO_SUCH_IMAGE)
    with store.errors():
        for document in store[METADATA].find(query, {"_id": 0}):
            image_id = document["image_id"]
            if not isinstance(found.get(image_id), StoredImage):
                found[image_id] = _stored(document) or f"The image {_NO_PIXELS}"
    return found


def image_bytes(store: Store, blobs: Blobs, image_id: str, *, original: bool = False) -> ImageBytes:
    """The file of an image: upright, or as it was received.

    Raises:
        NotFound: no image has this id, or it has no pixels here.
        ImageRefused: what stands there is no image.
    """
    image = _findable(store, blobs, image_id)
    key = image.original if original else image.blob
    data = blobs.get(key)
    return ImageBytes(data, key, media_type_of(data))


def stored_key(store: Store, blobs: Blobs, image_id: str) -> str:
    """The key of an image's upright file.

    Raises:
        NotFound: no image has this id, or it has no pixels here.
    """
    return _findable(store, blobs, image_id).blob


def named_by_images(store: Store, keys: Collection[str]) -> set[str]:
    """Those of the keys of blobs under which an image's file lies, upright or as it was received."""
    which = {"$in": [*keys]}
    with store.errors():
        return {
            *store[METADATA].distinct("image_id", {"image_id": which}),
            # With the type, since the index holds texts alone: documents that were loaded have no file.
            *store[METADATA].distinct("blob", {"blob": {**which, "$type": "string"}}),
        }


def keys_of_images(store: Store) -> Iterator[str]:
    """The keys of the blobs under which images' files lie, in order, each at least once; memory doesn't grow."""

    def keys(field: str) -> Iterator[str]:
        # An id may look like a key, and its document have no pixels; or it is none, and the document has.
        has_pixels, fields = {"blob": {"$type": "string"}}, ("image_id", "blob", "width", "height")
        for document in in_order(store, METADATA, field, also=has_pixels, fields=fields):
            if is_key(document[field]) and "image_id" in document and _stored(document) is not None:
                yield document[field]

    return merge(keys("image_id"), keys("blob"))


def image_with(store: Store, key: str) -> str | None:
    """The id of an image that has a blob of this key, upright or as it was received."""
    either = {"$or": [{"image_id": key}, {"blob": key}], "blob": {"$type": "string"}}
    with store.errors():
        found = store[METADATA].find_one(either, {"_id": 0, "image_id": 1})
    return None if found is None else str(found.get("image_id"))


def image_of(store: Store, blobs: Blobs, image_id: str) -> ImageFacts:
    """What is known of an image with pixels.

    Raises:
        NotFound: no image has this id, or it has no pixels here.
    """
    document = _with_pixels(store, image_id)
    image = _stored(document)
    if document is None or image is None:
        image = _findable(store, blobs, image_id)
        document = {}
    return ImageFacts(**_facts(image, document.get("source")))


def record_images(store: Store, images: Sequence[NewImage]) -> list[bool]:
    """Enters images into `metadata`, all in one transaction, each new one with its event `image.ingested`.

    An event an image, also in a bulk: unlike a document of a load, an image is work of milliseconds beside which
    its event is cheap, others wait for just this one, and its subject's order begins here, with sequence 1.

    An image whose documents came first, without pixels, gets ours in addition to what it has.

    Args:
        store: the workspace.
        images: their pixels are stored already.

    Returns:
        For each whether it is new; of two with one id the first may be.

    Raises:
        RefusedByCollection: the customer's own rules for the collection refuse one of them; none is entered.
    """
    ids = [new.image.image_id for new in images]

    def work(session: ClientSession) -> list[bool]:
        stored: dict[str, Document] = {}
        for document in store[METADATA].find({"image_id": {"$in": ids}}, session=session):
            before = stored.get(document["image_id"])
            if before is None or (_stored(before) is None and _stored(document) is not None):
                stored[document["image_id"]] = document
        inserts: list[Document] = []
        updates: list[UpdateOne] = []
        events: list[NewEvent] = []
        answers = []
        for new in images:
            there = stored.get(new.image.image_id)
            answers.append(_stored(there) is None)
            if not answers[-1]:
                continue
            document = _document(new)
            if there is None:
                id = Binary(prepare(METADATA, document, encode=False).id, ID_SUBTYPE)  # noqa: A001
                inserts.append({"_id": id, **document})
            else:
                # What says where the pixels are is ours; what else is there stays as its owner wrote it.
                missing = {name: value for name, value in document.items() if name in _OURS or name not in there}
                updates.append(UpdateOne({"_id": there["_id"]}, {"$set": missing}))
            stored[new.image.image_id] = document
            events.append(_event(new))
        try:
            if inserts:
                store[METADATA].insert_many(inserts, session=session)
            if updates:
                store[METADATA].bulk_write(updates, session=session)
        except BulkWriteError as error:
            (fault,) = (error.details or {}).get("writeErrors") or [{}]
            if fault.get("code") not in (_DUPLICATE_KEY, _VALIDATION_FAILED):
                raise
            raise RefusedByCollection(str(fault["errmsg"])[:300]) from error
        if events:
            record_all(store, session, events, source="/ingest")
        return answers

    return store.transaction(work)


def ingested(image: StoredImage, source: object, state: Literal["new", "already_there"]) -> IngestedImage:
    """What its sender is told of an image; `source` is the name under which it came first."""
    return IngestedImage(**_facts(image, source), state=state)


def clean_name(name: str | None) -> str | None:
    r"""A file's name as it is kept: its last part, what can't be printed as `?`, and not too long.

    >>> clean_name("C:\\photos\\cat\n.jpg"), clean_name("")
    ('cat?.jpg', None)
    """
    if name is None:
        return None
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "".join(character if character.isprintable() else "?" for character in last)[:MAX_NAME] or None


# -- documents ---------------------------------------------------------------------------------------------

_OURS = ("blob", "width", "height", "media_type", "source")


def _document(new: NewImage) -> Document:
    image = new.image
    document: Document = {"image_id": image.image_id}
    if image.captured_at is not None:
        document["capture_timestamp"] = image.captured_at
    document |= {
        "width": image.width,
        "height": image.height,
        "blob": image.blob,
        "media_type": image.media_type,
    }
    if new.source is not None:
        document["source"] = new.source
    return document


def _event(new: NewImage) -> NewEvent:
    image = new.image
    data: Document = {"width": image.width, "height": image.height, "media_type": image.media_type}
    if new.source is not None:
        data["source"] = new.source
    return NewEvent(type="image.ingested", subject=image.image_id, sequence=1, data=data)


def _with_pixels(store: Store, image_id: str) -> Document | None:
    """The document of an image that says where its pixels are; other systems may have stored further ones."""
    query = {"image_id": {"$eq": image_id}, "blob": {"$type": "string"}}
    with store.errors():
        return store[METADATA].find_one(query, {"_id": 0})


def _stored(document: Mapping[str, Any] | None) -> StoredImage | None:
    """The pixels that a document of `metadata` tells of; None where it tells of none that can be ours."""
    if document is None or not is_key(document.get("blob")):
        return None
    width, height = document.get("width"), document.get("height")
    media_type = str(document.get("media_type"))
    if not (isinstance(width, int) and isinstance(height, int) and width >= 1 and height >= 1):
        return None
    image_id, blob, captured = document["image_id"], document["blob"], document.get("capture_timestamp")
    return StoredImage(
        image_id=image_id,
        blob=blob,
        original=image_id if is_key(image_id) else blob,
        width=width,
        height=height,
        media_type=media_type if media_type in MEDIA_TYPES.values() else _UNKNOWN,
        captured_at=float(captured) if isinstance(captured, int | float) else None,
    )


def _findable(store: Store, blobs: Blobs, image_id: str) -> StoredImage:
    """As `find_image`, for those who ask for the file itself: what isn't here is not found."""
    try:
        return find_image(store, image_id)
    except ImageRefused as error:
        raise NotFound(str(error)) from None
    except NotFound:
        with suppress(StorageUnavailable):
            if is_key(image_id) and blobs.has(image_id):
                raise NotFound(
                    f"The file {image_id} came with an inference job and is no image of the workspace; the job's "
                    "picture shows it. Ingest it to have it as one."
                ) from None
        raise


def _facts(image: StoredImage, source: object) -> dict[str, Any]:
    return {
        "image_id": image.image_id,
        "width": image.width,
        "height": image.height,
        "media_type": image.media_type,
        "capture_timestamp": image.captured_at,
        "source": source if isinstance(source, str) else None,
    }


def _no_image(image_id: str) -> NotFound:
    return NotFound(f"No image has the id {image_id[:100]!r}. `truthloop images` lists the ids.")


def _no_pixels(image_id: str) -> str:
    return f"The image {image_id[:100]!r} {_NO_PIXELS}"
