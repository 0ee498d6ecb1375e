"""What is required of documents and what identifies them, against slow references written from the design."""

import math
from typing import Any

import bson
import pytest
from bson.binary import Binary
from bson.objectid import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from ingest.loading import ANNOTATION, AUDIT
from strategies import any_documents, boxes, good_documents
from truthloop.boxes import BoxError, parse
from truthloop.ingest.documents import (
    COLLECTIONS,
    FIRST_ID,
    LAST_ID,
    OUTSIDE,
    SWAPPED,
    Refused,
    content,
    faults,
    identity,
    prepare,
)

# Collection, a field, and whether it is part of the key: design section 3.
KEYS = {
    "metadata": ("image_id",),
    "bbox.model": ("image_id", "model_version"),
    "bbox.human_audit": ("image_id", "model_version", "auditor", "task_version", "timestamp"),
}


def same(one: Any, other: Any) -> bool:
    """Equal as JSON means it: 1 is 1.0, but true isn't 1, and the order of fields says nothing."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other if isinstance(one, str) else bool(one == other)


def key(collection: str, document: dict[str, Any]) -> Any:
    """What identifies a document, as a value to compare by `same`."""
    if collection != "bbox.human_annotation":
        return [document[name] for name in KEYS[collection]]
    rest = {name: value for name, value in document.items() if name not in ("_id", "source_id")}
    return {**rest, "bbox": None if rest["bbox"] == "None" else rest["bbox"]}


def is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)


def is_box(value: Any) -> bool:
    try:
        parse(value)
    except (BoxError, AttributeError, TypeError):
        return False
    return all(is_number(value[name]) for name in value if name in {"left", "top", "right", "bottom", "width"})


def has_only_storable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(has_only_storable, value.values()))
    if isinstance(value, list):
        return all(map(has_only_storable, value))
    return is_number(value) or not isinstance(value, int | float) or isinstance(value, bool)


def is_good(collection: str, document: Any) -> bool:
    """The brief's fields with the brief's types, and nothing in it that isn't finite."""
    if not isinstance(document, dict) or not isinstance(document.get("image_id"), str) or not document["image_id"]:
        return False
    texts = {
        "metadata": (),
        "bbox.model": ("model_version",),
        "bbox.human_audit": ("model_version", "auditor", "task_version"),
        "bbox.human_annotation": ("annotator", "task_version"),
    }[collection]
    if not all(isinstance(document.get(name), str) for name in texts) or not has_only_storable(document):
        return False
    match collection:
        case "metadata":
            return "capture_timestamp" not in document or is_number(document["capture_timestamp"])
        case "bbox.model":
            return isinstance(document.get("bboxes"), list) and all(map(is_box, document["bboxes"]))
        case "bbox.human_audit":
            return isinstance(document.get("bbox_correct"), bool) and is_number(document.get("timestamp"))
    if not is_number(document.get("timestamp")) or "bbox" not in document:
        return False
    return document["bbox"] is None or document["bbox"] == "None" or is_box(document["bbox"])


@st.composite
def collection_and(draw: st.DrawFn, kind: Any, number: int = 1) -> Any:
    collection = draw(st.sampled_from(COLLECTIONS))
    return collection, *(draw(kind(collection)) for _ in range(number))


@given(collection_and(any_documents))
def test_documents_are_refused_exactly_if_the_brief_says_so(given_document: Any) -> None:
    collection, document = given_document

    try:
        prepare(collection, document)
        refused = False
    except Refused as refusal:
        refused = True
        assert refusal.faults
    assert refused != is_good(collection, document)
    assert bool(faults(collection, document)) == refused


@given(collection_and(good_documents.__getitem__, 2))
def test_two_documents_have_one_id_exactly_if_their_keys_are_the_same(given_documents: Any) -> None:
    collection, one, other = given_documents

    equal = same(key(collection, one), key(collection, other))

    assert (identity(collection, one) == identity(collection, other)) == equal


@given(collection_and(good_documents.__getitem__, 2))
def test_two_contents_are_the_same_exactly_if_they_say_the_same(given_documents: Any) -> None:
    _, one, other = given_documents

    assert (content(one) == content(other)) == same(one, other)


@given(collection_and(good_documents.__getitem__))
def test_a_document_is_stored_as_it_came(given_document: Any) -> None:
    collection, document = given_document

    stored = bson.decode(prepare(collection, document).raw)
    id_ = stored.pop("_id")

    assert repr(stored) == repr(document)
    assert id_ == Binary(identity(collection, document) or b"", 0x80)
    assert FIRST_ID <= id_ <= LAST_ID


@given(boxes)
def test_the_marks_are_what_boxes_say(box: Any) -> None:
    prepared = prepare("bbox.human_annotation", {**ANNOTATION, "bbox": box.corners()})

    assert bool(prepared.marks & SWAPPED) == (not box.is_valid)
    assert bool(prepared.marks & OUTSIDE) == box.is_outside


@given(st.fixed_dictionaries(dict.fromkeys(("center_x", "center_y", "width", "height"), st.floats(-2, 3))))
def test_the_marks_of_a_center_box_are_what_boxes_say(document: Any) -> None:
    prepared = prepare("bbox.model", {"image_id": "a", "model_version": "1", "bboxes": [document]})
    box = parse(document)

    assert bool(prepared.marks & SWAPPED) == (not box.is_valid)
    assert bool(prepared.marks & OUTSIDE) == box.is_outside


def reasons(collection: str, document: Any) -> list[str]:
    with pytest.raises(Refused) as refused:
        prepare(collection, document)
    return [f"{fault.place}: {fault.reason}" for fault in refused.value.faults]


def test_all_faults_of_a_document_are_listed() -> None:
    document = {"bboxes": [{"left": "a", "top": math.nan, "right": 1}, 5], "model_version": 1, "x": [math.inf]}

    assert reasons("bbox.model", document) == [
        "image_id: missing",
        "model_version: not text",
        "bboxes[0].left: not a number",
        "bboxes[0].top: not finite",
        "bboxes[0].bottom: missing",
        "bboxes[1]: not a box",
        "x[0]: not finite",
    ]


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"image_id": ""}, "image_id: empty"),
        ({"image_id": "x" * 1025}, "image_id: longer than 1,024 bytes"),
        ({"image_id": "é" * 513}, "image_id: longer than 1,024 bytes"),
        ({"image_id": "a\ufffd"}, "image_id: holds U+FFFD, which stands for what isn't UTF-8"),
        ({"annotator": "é" * 513}, "annotator: longer than 1,024 bytes"),
        ({"task_version": "1." * 513}, "task_version: longer than 1,024 bytes"),
        ({"timestamp": True}, "timestamp: not a number"),
        ({"timestamp": 2**64}, "timestamp: an integer of more than 64 bits"),
        ({"bbox": "none"}, "bbox: not a box"),
        ({"note": "\ud800"}, "note: is not valid Unicode"),
        ({"annotator": "\udfff"}, "annotator: is not valid Unicode"),
        ({"a\x00b": 1}, "a\\x00b: a field's name must not hold the character NUL"),
        ({"$set": 1}, "$set: a field's name must not begin with $"),
        ({"bbox": {**ANNOTATION["bbox"], "$x": 1}}, "bbox.$x: a field's name must not begin with $"),  # type: ignore[dict-item]
        ({"note": "x" * 16 * 1024 * 1024}, ": larger than 16 MB, the most that MongoDB stores in a document"),
        ({"_id": math.nan}, "_id: not finite"),
        ({"_id": 1, "source_id": 2}, "source_id: Truthloop keeps a file's own _id under this name; rename it"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_its_place(changed: dict[str, Any], fault: str) -> None:
    assert reasons("bbox.human_annotation", {**ANNOTATION, **changed}) == [fault]


def test_names_of_just_the_greatest_length_are_taken() -> None:
    names = dict.fromkeys(("image_id", "annotator", "task_version"), "é" * 512)

    assert prepare("bbox.human_annotation", {**ANNOTATION, **names}).image_id == names["image_id"]


@pytest.mark.parametrize("field", ["model_version", "auditor", "task_version"])
def test_a_long_name_in_an_audit_is_refused(field: str) -> None:
    assert reasons("bbox.human_audit", {**AUDIT, field: "x" * 1025}) == [f"{field}: longer than 1,024 bytes"]


@pytest.mark.parametrize(
    "fields",
    [{"bboxes": [1] * 10_000}, {"bboxes": [], "x": [math.nan] * 10_000}, {"bboxes": [], "x": [[2**70]] * 10_000}],
)
def test_of_a_document_that_is_all_faults_the_first_hundred_are_told(fields: dict[str, Any]) -> None:
    assert len(reasons("bbox.model", {"image_id": "a", "model_version": "1", **fields})) == 100


def test_deep_nesting_is_refused() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]

    assert "nested more than 100 deep" in reasons("metadata", {"image_id": "a", "x": deep})[0]


def test_a_files_own_id_is_kept_as_source_id() -> None:
    own = ObjectId()

    stored = bson.decode(prepare("bbox.human_annotation", {"_id": own, **ANNOTATION}).raw)

    assert stored["source_id"] == own
    assert stored["_id"] == Binary(identity("bbox.human_annotation", ANNOTATION) or b"", 0x80)


def test_our_own_id_in_an_export_is_not_kept_as_a_source() -> None:
    first = bson.decode(prepare("bbox.human_annotation", {"_id": 7, **ANNOTATION}).raw)

    assert bson.decode(prepare("bbox.human_annotation", first).raw) == first


def test_numbers_that_a_float_cannot_tell_apart_are_different_keys() -> None:
    one, other = ({**AUDIT, "timestamp": stamp} for stamp in (2**60, 2**60 + 1))

    assert identity("bbox.human_audit", one) != identity("bbox.human_audit", other)


def test_keys_do_not_run_into_each_other() -> None:
    one = {**AUDIT, "auditor": "x", "task_version": "y1"}
    other = {**AUDIT, "auditor": "xy", "task_version": "1"}

    assert identity("bbox.human_audit", one) != identity("bbox.human_audit", other)


def test_the_none_of_one_export_is_the_null_of_another() -> None:
    one, other = ({**ANNOTATION, "bbox": bbox} for bbox in (None, "None"))

    assert identity("bbox.human_annotation", one) == identity("bbox.human_annotation", other)
