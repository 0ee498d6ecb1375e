"""The documents of brief 1's four collections: what is required of them, and what identifies them. Pure.

A document is stored as it came. What is required is the least that makes it usable; every other field, at any
level, is kept untouched.
"""

import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any, TypeAlias

import bson
import msgspec
import orjson
from bson import json_util
from bson.binary import Binary
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError

from truthloop.boxes import CENTER, CORNERS, box_faults, number_fault

Document: TypeAlias = dict[str, Any]

COLLECTIONS = ("metadata", "bbox.model", "bbox.human_audit", "bbox.human_annotation")

# What is stored, counted and named, though no error: bits, so that one number holds all of a document's.
NULL, SWAPPED, OUTSIDE = 1, 2, 4

# An `_id` of ours is 24 bytes of BSON's user-defined binary subtype. BSON orders binaries by length, then by
# subtype, so all of ours lie in one range of the `_id` index, and its two ends tell whether there are others.
# The first 8 bytes are the image id's own: a batch sorted by `_id` is sorted for the index on image_id, too,
# and an image's documents lie together. The other 16 are of the key's SHA-256.
ID_BYTES, ID_SUBTYPE, ID_PREFIX_BYTES = 24, 0x80, 8
FIRST_ID = Binary(b"\x00" * ID_BYTES, ID_SUBTYPE)
LAST_ID = Binary(b"\xff" * ID_BYTES, ID_SUBTYPE)
_ID_ELEMENT = b"\x05_id\x00" + struct.pack("<iB", ID_BYTES, ID_SUBTYPE)
_ID_LENGTH = len(_ID_ELEMENT) + ID_BYTES

# MongoDB's own limits: https://www.mongodb.com/docs/manual/reference/limits/
MAX_BSON_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 100
# Up to here every integer is a float exactly.
_EXACT = 2**53
_INT64 = 2**63

# Ids, versions and people are names, not texts: they stand in indexes, in queries of thousands, in addresses.
MAX_NAME_BYTES = 1024
_SURELY_SHORT = MAX_NAME_BYTES // 4  # characters, of at most 4 bytes each
# What readers see in place of bytes that aren't UTF-8: no image with it in its id can be told from others.
_NOT_UTF8 = "\ufffd"
# Of a document with more faults the first ones are told: a list of a million wrong boxes would fill the memory.
MAX_FAULTS = 100

NO_FACE = "None"  # what one export of the data writes for null

# What was stored, by us or by others, need not be what Python's own types can hold.
STORED: CodecOptions[Document] = CodecOptions(
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a document is refused: `place` within it (`bboxes[0].left`; "" for all of it) and `reason`."""

    place: str
    reason: str


class Refused(Exception):
    """A document that can't be stored, with all of its faults."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"{fault.place}: {fault.reason}" for fault in faults))


class Prepared(msgspec.Struct, gc=False):
    """A document that can be stored."""

    id: bytes
    image_id: str
    marks: int  # NULL | SWAPPED | OUTSIDE
    raw: bytes  # BSON, with `_id` first; b"" until it is asked for
    document: Document | None  # until it is encoded

    def encode(self) -> bytes:
        """The BSON.

        Raises:
            Refused: it's larger than MongoDB stores.
        """
        if self.document is not None:
            body = bson.encode(self.document)
            length = len(body) + _ID_LENGTH
            if length > MAX_BSON_BYTES:
                raise Refused([Fault("", "larger than 16 MB, the most that MongoDB stores in a document")])
            self.raw = b"".join((_pack_length(length), _ID_ELEMENT, self.id, body[4:]))
            self.document = None
        return self.raw

    def fields(self) -> Document:
        """The document without our `_id`."""
        if self.document is not None:
            return self.document
        document = decoded(self.raw)
        del document["_id"]
        return document


def decoded(raw: bytes) -> Document:
    """What a stored document says; dates beyond Python's are `DatetimeMS`."""
    return bson.decode(raw, STORED)


def prepare(collection: str, document: object, *, encode: bool = True) -> Prepared:
    """Checks a document, finds its identity and encodes it.

    Args:
        collection: one of the four.
        document: as it was read.
        encode: whether it is encoded at once. An annotation that is there already needs no encoding.

    Raises:
        Refused: with all of the document's faults.
    """
    if type(document) is not dict:
        raise Refused([Fault("", "not an object")])
    source: Document = document
    if "_id" in source:
        source = _with_source_id(collection, source)
    try:
        key, marks = _KEYS[collection](source)
        prepared = Prepared(_hash(source["image_id"], key), source["image_id"], marks, b"", source)
        if encode:
            prepared.encode()
    except (_Unusual, KeyError, TypeError, ValueError, BSONError, OverflowError, RecursionError):
        raise Refused(faults(collection, source) or [Fault("", "can't be stored as BSON")]) from None
    return prepared


def identity(collection: str, document: Document) -> bytes | None:
    """The `_id` that a stored document would get from us; None if it has faults."""
    try:
        key, _ = _KEYS[collection](document)
        return _hash(document["image_id"], key)
    except (_Unusual, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def content(document: Mapping[str, Any]) -> bytes:
    """All that a document says, in one canonical form: 1 and 1.0 are one number, the order of fields is none.

    Its `_id`, and the `source_id` that keeps a file's own one, say nothing of the image.
    """
    said = {name: value for name, value in document.items() if name not in _IDS}
    return _dumps(_canonical(said, 0))


def faults(collection: str, document: object) -> list[Fault]:
    """The reasons to refuse a document, MAX_FAULTS at most; none if it can be stored."""
    if not isinstance(document, dict):
        return [Fault("", "not an object")]
    found: list[Fault] = []
    for name, check in _REQUIRED[collection].items():
        if name not in document:
            found.append(Fault(name, "missing"))
        else:
            found.extend(check(name, document[name]))
    for name, check in _OPTIONAL.get(collection, {}).items():
        if name in document:
            found.extend(check(name, document[name]))
    named = {fault.place for fault in found}
    found.extend(fault for fault in _storage_faults(document, "", 0) if fault.place not in named)
    return found[:MAX_FAULTS]


# -- identity ----------------------------------------------------------------------------------------------


class _Unusual(Exception):
    """The quick way found something to look at closely."""


_IDS = frozenset({"_id", "source_id"})


# Fills a short image id up with zeros, and cuts both to their lengths.
_pack_id = struct.Struct(f"{ID_PREFIX_BYTES}s{ID_BYTES - ID_PREFIX_BYTES}s").pack
_pack_length = struct.Struct("<i").pack


def _hash(image_id: str, key: bytes) -> bytes:
    return _pack_id(image_id.encode(), sha256(key).digest())


def _with_source_id(collection: str, document: Document) -> Document:
    """The document without its own `_id`, which is kept as `source_id` unless it was one of ours."""
    rest = {name: value for name, value in document.items() if name != "_id"}
    own = document["_id"]
    if isinstance(own, Binary) and own.subtype == ID_SUBTYPE and identity(collection, rest) == bytes(own):
        return rest  # an export of Truthloop's, loaded again
    found = [Fault("source_id", "Truthloop keeps a file's own _id under this name; rename it")]
    if "source_id" not in rest:
        found = _storage_faults(own, "_id", 1)
    if found:
        raise Refused(faults(collection, rest) + found)
    return {**rest, "source_id": own}


def _metadata(document: Document) -> tuple[bytes, int]:
    image_id = _image_id(document["image_id"])
    known = 1
    if "capture_timestamp" in document:
        _number(document["capture_timestamp"])
        known = 2
    if len(document) != known:
        _canonical(document, 0)
    return _dumps((image_id,)), 0


def _model(document: Document) -> tuple[bytes, int]:
    image_id, version, bboxes = _image_id(document["image_id"]), document["model_version"], document["bboxes"]
    if type(bboxes) is not list:
        raise _Unusual
    marks = 0
    for bbox in bboxes:
        marks |= _box(bbox)[1]
    if len(document) != 3:
        _canonical(document, 0)
    return _dumps((image_id, _name(version))), marks


def _audit(document: Document) -> tuple[bytes, int]:
    if type(document["bbox_correct"]) is not bool:
        raise _Unusual
    key = (
        _image_id(document["image_id"]),
        _name(document["model_version"]),
        _name(document["auditor"]),
        _name(document["task_version"]),
        _number(document["timestamp"]),
    )
    if len(document) != 6:
        _canonical(document, 0)
    return _dumps(key), 0


def _annotation(document: Document) -> tuple[bytes, int]:
    image_id, bbox = _image_id(document["image_id"]), document["bbox"]
    box, marks = (None, NULL) if bbox is None or bbox == NO_FACE else _box(bbox)
    annotator, version = _name(document["annotator"]), _name(document["task_version"])
    key = (image_id, annotator, version, _number(document["timestamp"]), box)
    if len(document) == 5:
        return _dumps(key), marks
    more = {name: value for name, value in document.items() if name not in _ANNOTATION_FIELDS}
    # A document whose only other field is source_id is the same as one without it.
    return _dumps((*key, _canonical(more, 0)) if more else key), marks


_ANNOTATION_FIELDS = frozenset({"image_id", "bbox", "annotator", "task_version", "timestamp", *_IDS})

_KEYS: dict[str, Callable[[Document], tuple[bytes, int]]] = {
    "metadata": _metadata,
    "bbox.model": _model,
    "bbox.human_audit": _audit,
    "bbox.human_annotation": _annotation,
}


def _box(bbox: Any) -> tuple[tuple[Any, ...], int]:
    """A box in canonical form, and its marks."""
    if type(bbox) is not dict:
        raise _Unusual
    # Plain comparisons are many times faster than building a Box; test_documents holds both equal.
    if "left" in bbox:
        left, top, right, bottom = bbox["left"], bbox["top"], bbox["right"], bbox["bottom"]
        if not (type(left) is type(top) is type(right) is type(bottom) is float):
            left, top, right, bottom = _number(left), _number(top), _number(right), _number(bottom)
        # All of an image's box but a negative zero: then nothing more needs to be looked at.
        if 0 < left < right <= 1 and 0 < top < bottom <= 1 and len(bbox) == 4:
            return ("corners", left, top, right, bottom), 0
        key = ("corners", _number(left), _number(top), _number(right), _number(bottom))
        other = _CENTER_FIELDS
    else:
        x, y, width, height = bbox["center_x"], bbox["center_y"], bbox["width"], bbox["height"]
        key = ("center", _number(x), _number(y), _number(width), _number(height))
        left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        other = _CORNER_FIELDS
    marks = 0 if left < right and top < bottom else SWAPPED
    if not (0 <= left <= 1 and 0 <= top <= 1 and 0 <= right <= 1 and 0 <= bottom <= 1):
        marks |= OUTSIDE
    if len(bbox) == 4:
        return key, marks
    if not other.isdisjoint(bbox):
        raise _Unusual
    more = {name: value for name, value in bbox.items() if name not in _BOX_FIELDS}
    return (*key, _canonical(more, 1)), marks


_CORNER_FIELDS, _CENTER_FIELDS = frozenset(CORNERS), frozenset(CENTER)
_BOX_FIELDS = _CORNER_FIELDS | _CENTER_FIELDS


def _name(value: Any) -> str:
    if type(value) is not str or (len(value) > _SURELY_SHORT and len(value.encode()) > MAX_NAME_BYTES):
        raise _Unusual
    return value


def _image_id(value: Any) -> str:
    image_id = _name(value)
    if not image_id or _NOT_UTF8 in image_id:
        raise _Unusual
    return image_id


def _number(value: Any) -> int | float:
    """A number such that equal ones are written alike: a float where it is exact, else an integer."""
    if type(value) is float or (isinstance(value, int) and value is not True and value is not False):
        if -_EXACT <= value <= _EXACT:
            return float(value) + 0.0  # + 0.0 makes -0.0 equal to 0.0
        if number_fault(value) is None and (isinstance(value, float) or -_INT64 <= value < _INT64):
            return int(value) if -_INT64 <= value < _INT64 else float(value)
    raise _Unusual


def _canonical(value: Any, depth: int) -> Any:
    """The value with its numbers in one form, for `_dumps`, which sorts the fields.

    Raises:
        _Unusual: something in it can't be stored.
    """
    if value is None or type(value) in (str, bool):
        return value
    if isinstance(value, int | float):
        return _any_number(value)
    if depth >= MAX_DEPTH:
        raise _Unusual
    if isinstance(value, Mapping):
        for name in value:
            if _name_fault(name):
                raise _Unusual
        return {name: _canonical(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner, depth + 1) for inner in value]
    # What MongoDB's extended JSON adds: ids, dates, binaries, ... in their canonical text.
    # No field of a document can be called $, so this can't be mistaken for one.
    return {"$": json_util.dumps(value, json_options=json_util.CANONICAL_JSON_OPTIONS)}


def _any_number(value: int | float) -> int | float:  # noqa: PYI041 - they are told apart here
    """As `_number`, for fields whose size is nobody's business."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Unusual
        return float(value) + 0.0 if abs(value) <= _EXACT or abs(value) >= _INT64 else int(value)
    if not -_INT64 <= value < _INT64:
        raise _Unusual
    return float(value) if -_EXACT <= value <= _EXACT else int(value)


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


# -- faults ------------------------------------------------------------------------------------------------

_Check: TypeAlias = Callable[[str, Any], list[Fault]]


def _check_name(place: str, value: Any) -> list[Fault]:
    if not isinstance(value, str):
        return [Fault(place, "not text")]
    if len(value.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        return [Fault(place, f"longer than {MAX_NAME_BYTES:,} bytes")]
    return []


def _check_image_id(place: str, value: Any) -> list[Fault]:
    if value == "":
        return [Fault(place, "empty")]
    if isinstance(value, str) and _NOT_UTF8 in value:
        return [Fault(place, "holds U+FFFD, which stands for what isn't UTF-8")]
    return _check_name(place, value)


def _check_bool(place: str, value: Any) -> list[Fault]:
    return [] if isinstance(value, bool) else [Fault(place, "not true or false")]


def _check_number(place: str, value: Any) -> list[Fault]:
    fault = number_fault(value) or _size_fault(value)
    return [Fault(place, fault)] if fault else []


def _check_box(place: str, value: Any) -> list[Fault]:
    found = [Fault(f"{place}.{field}" if field else place, reason) for field, reason in box_faults(value)]
    if not found:
        found = [
            Fault(f"{place}.{name}", fault)
            for name in sorted(_BOX_FIELDS & value.keys())
            if (fault := _size_fault(value[name]))
        ]
    return found


def _check_boxes(place: str, value: Any) -> list[Fault]:
    if not isinstance(value, list):
        return [Fault(place, "not a list")]
    found = (fault for number, box in enumerate(value) for fault in _check_box(f"{place}[{number}]", box))
    return list(islice(found, MAX_FAULTS))


def _check_annotated_box(place: str, value: Any) -> list[Fault]:
    return [] if value is None or value == NO_FACE else _check_box(place, value)


_REQUIRED: dict[str, dict[str, _Check]] = {
    "metadata": {"image_id": _check_image_id},
    "bbox.model": {"image_id": _check_image_id, "model_version": _check_name, "bboxes": _check_boxes},
    "bbox.human_audit": {
        "image_id": _check_image_id,
        "model_version": _check_name,
        "bbox_correct": _check_bool,
        "auditor": _check_name,
        "task_version": _check_name,
        "timestamp": _check_number,
    },
    "bbox.human_annotation": {
        "image_id": _check_image_id,
        "bbox": _check_annotated_box,
        "annotator": _check_name,
        "task_version": _check_name,
        "timestamp": _check_number,
    },
}
_OPTIONAL: dict[str, dict[str, _Check]] = {"metadata": {"capture_timestamp": _check_number}}


def _size_fault(value: int | float) -> str | None:  # noqa: PYI041 - they are told apart here
    return "an integer of more than 64 bits" if isinstance(value, int) and not -_INT64 <= value < _INT64 else None


def _name_fault(name: Any) -> str | None:
    if not isinstance(name, str):
        return "not text"
    if name.startswith("$"):
        return "a field's name must not begin with $"
    if "\x00" in name:
        return "a field's name must not hold the character NUL"
    return "is not valid Unicode" if _SURROGATE.search(name) else None


_SURROGATE = re.compile("[\ud800-\udfff]")


def _storage_faults(value: Any, place: str, depth: int) -> list[Fault]:
    """What keeps a value from being stored, whatever it means."""
    if isinstance(value, str):
        return [Fault(place, "is not valid Unicode")] if _SURROGATE.search(value) else []
    if isinstance(value, bool):
        return []
    if isinstance(value, int | float):
        finite = isinstance(value, int) or math.isfinite(value)
        fault = _size_fault(value) if finite else "not finite"
        return [Fault(place, fault)] if fault else []
    if isinstance(value, Mapping | list | tuple) and depth >= MAX_DEPTH:
        return [Fault(place[:60], f"nested more than {MAX_DEPTH} deep")]
    found: list[Fault] = []
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if len(found) >= MAX_FAULTS:
                break
            inside = f"{place}.{_shown(name)}" if place else _shown(name)
            fault = _name_fault(name)
            found.extend([Fault(inside, fault)] if fault else _storage_faults(inner, inside, depth + 1))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            if len(found) >= MAX_FAULTS:
                break
            found.extend(_storage_faults(inner, f"{place}[{number}]", depth + 1))
    return found


def _shown(name: Any) -> str:
    """A field's name, short and printable, for a place."""
    text = str(name).encode("utf-8", "backslashreplace").decode()[:60]
    return text if text.isprintable() else ascii(text)[1:-1]
