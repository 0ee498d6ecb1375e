"""Loading into a real MongoDB, against a slow reference; identity and conflicts."""

import json
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.binary import Binary
from bson.objectid import ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import ASCENDING

from ingest.loading import ANNOTATION, AUDIT, empty, only, rejects, stored, write
from strategies import any_documents, good_documents
from truthloop.ingest import batches
from truthloop.ingest.documents import COLLECTIONS, content, faults, identity, prepare
from truthloop.ingest.insert import Insertion
from truthloop.ingest.load import load
from truthloop.store.connection import Store

few = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)

# -- against a slow reference --------------------------------------------------------------------------------


def reference(collection: str, files: list[list[Any]], *, replace: bool) -> tuple[dict[bytes, Any], list[int]]:
    """One document after the other into a dictionary: design section 3. Counts: new, there, replaced, refused,
    conflicts."""
    there: dict[bytes, Any] = {}
    new = already = replaced = refused = conflicts = 0
    for document in (document for documents in files for document in documents):
        if faults(collection, document):
            refused += 1
            continue
        key = identity(collection, document)
        assert key is not None
        if key not in there:
            there[key] = document
            new += 1
        elif collection == "bbox.human_annotation" or content(there[key]) == content(document):
            already += 1
        elif replace:
            there[key] = document
            replaced += 1
        else:
            conflicts += 1
    return there, [new, already, replaced, refused, conflicts]


@few
@given(
    data=st.data(),
    collection=st.sampled_from(COLLECTIONS),
    replace=st.booleans(),
    batch=st.sampled_from([1, 3, 99]),
)
def test_a_load_ends_as_one_document_after_the_other_would(
    store: Store, tmp_path: Path, data: st.DataObject, collection: str, replace: bool, batch: int
) -> None:
    files = data.draw(st.lists(st.lists(any_documents(collection), max_size=12), min_size=1, max_size=3))
    paths = [write(tmp_path, f"{collection}-{number}.json", documents) for number, documents in enumerate(files)]
    there, counts = reference(collection, files, replace=replace)
    empty(store)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BATCH_DOCUMENTS", batch)
        dry = load(store, paths, replace=replace, dry_run=True)
        report = load(store, paths, replace=replace, rejects_folder=tmp_path / "rejects")

    totals = report.totals
    assert [totals.new, totals.already_there, totals.replaced, totals.refused, totals.conflicts] == counts
    assert totals.read == sum(map(len, files))
    assert dry.totals == totals
    found = {bytes(each["_id"]): content(each) for each in store[collection].find()}
    assert found == {key: content(document) for key, document in there.items()}
    assert report.ok == (not counts[3] and not counts[4])
    if not report.ok:
        assert len(rejects(report)) == counts[3] + counts[4]


@few
@given(data=st.data(), collection=st.sampled_from(COLLECTIONS), others=st.booleans())
def test_loading_twice_equals_loading_once(
    store: Store, tmp_path: Path, data: st.DataObject, collection: str, others: bool
) -> None:
    documents = data.draw(st.lists(good_documents[collection], max_size=12))
    path = write(tmp_path, f"{collection}.json", documents)
    empty(store)
    if others and documents:  # another system has stored one of them
        store[collection].insert_one(dict(documents[0]))
    first = load(store, [path])
    held = list(store[collection].find().sort("_id", ASCENDING))

    second = load(store, [path])

    assert list(store[collection].find().sort("_id", ASCENDING)) == held
    assert (second.totals.new, second.totals.replaced) == (0, 0)
    assert second.totals.conflicts == first.totals.conflicts


# -- the real data -------------------------------------------------------------------------------------------


def test_the_slice_loads_with_its_exact_counts(store: Store, face_slice: Path) -> None:
    report = load(store, [face_slice])

    assert {item.collection: (item.read, item.new, item.refused) for item in report.items} == {
        "metadata": (2443, 2443, 0),
        "bbox.model": (2822, 2822, 0),
        "bbox.human_audit": (1509, 1509, 0),
        "bbox.human_annotation": (1004, 1004, 0),
    }
    marks = {item.collection: item for item in report.items}
    annotations = marks["bbox.human_annotation"]
    assert (annotations.nulls.count, annotations.swapped.count, annotations.outside.count) == (66, 1, 96)
    assert marks["bbox.model"].outside.count == 76
    assert all(item.unknown_images.count == 0 for item in report.items)
    assert report.ok
    assert report.rejects is None
    assert load(store, [face_slice]).totals.already_there == 7778


def test_the_slice_is_stored_as_it_came(store: Store, face_slice: Path) -> None:
    load(store, [face_slice])

    for name in COLLECTIONS:
        came = json.loads((face_slice / f"{name}.json").read_text(encoding="utf-8"))
        assert sorted(map(repr, stored(store, name))) == sorted(map(repr, came))


# -- identity and conflicts ----------------------------------------------------------------------------------


def test_another_content_under_the_same_key_is_refused_showing_both(store: Store, tmp_path: Path) -> None:
    load(store, [write(tmp_path, "bbox.human_audit.json", [AUDIT])])
    other = {**AUDIT, "bbox_correct": False, "timestamp": 1.0}

    report = load(store, [write(tmp_path, "bbox.human_audit.json", [other])], rejects_folder=tmp_path / "rejects")

    assert (only(report).conflicts, report.ok) == (1, False)
    (refused,) = rejects(report)
    assert (refused["document"], refused["place"]) == (other, "[0]")
    assert refused["stored"]["bbox_correct"] is True
    assert stored(store, "bbox.human_audit") == [AUDIT]


def test_replace_takes_the_new_one(store: Store, tmp_path: Path) -> None:
    load(store, [write(tmp_path, "bbox.human_audit.json", [AUDIT])])
    other = {**AUDIT, "bbox_correct": False}

    report = load(store, [write(tmp_path, "bbox.human_audit.json", [other])], replace=True)

    assert (only(report).replaced, report.ok) == (1, True)
    assert stored(store, "bbox.human_audit") == [other]


@pytest.mark.parametrize("own_id", [ObjectId(), 7, "text", Binary(b"x" * 24, 0x81), Binary(b"x" * 25, 0x80)])
def test_what_another_system_has_stored_is_found_by_its_fields(store: Store, tmp_path: Path, own_id: Any) -> None:
    store["bbox.human_audit"].insert_one({"_id": own_id, **AUDIT, "timestamp": 1.0})
    store["bbox.human_audit"].insert_one({"_id": 1, "image_id": 5})  # not one that could be loaded
    path = write(tmp_path, "bbox.human_audit.json", [AUDIT, {**AUDIT, "auditor": "y"}])

    report = load(store, [path])

    assert (only(report).new, only(report).already_there) == (1, 1)
    assert store["bbox.human_audit"].count_documents({}) == 3


def test_what_another_system_has_stored_can_conflict_and_be_replaced(store: Store, tmp_path: Path) -> None:
    store["bbox.human_audit"].insert_one({"_id": "theirs", **AUDIT})
    path = write(tmp_path, "bbox.human_audit.json", [{**AUDIT, "bbox_correct": False}])

    assert only(load(store, [path])).conflicts == 1
    assert only(load(store, [path], replace=True)).replaced == 1
    assert store["bbox.human_audit"].find_one() == {"_id": "theirs", **AUDIT, "bbox_correct": False}


def test_a_unique_index_of_the_customer_refuses_by_place(store: Store, tmp_path: Path) -> None:
    store["metadata"].create_index("capture_timestamp", unique=True)
    documents = [{"image_id": each, "capture_timestamp": 1} for each in "ab"]

    report = load(store, [write(tmp_path, "metadata.json", documents)])

    assert (only(report).new, only(report).refused) == (1, 1)
    assert "unique index" in only(report).refusals[0]


def test_a_validator_of_the_customer_refuses_by_place(store: Store, tmp_path: Path) -> None:
    store.database.command({"collMod": "metadata", "validator": {"capture_timestamp": {"$gt": 5}}})
    documents = [{"image_id": str(each), "capture_timestamp": each} for each in (1, 9)]

    report = load(store, [write(tmp_path, "metadata.json", documents)])

    assert (only(report).new, only(report).refused) == (1, 1)
    assert only(report).refusals[0].startswith("[0]: the collection's own validator refuses it")


def test_an_export_of_ours_loads_again_without_change(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "bbox.human_annotation.json"
    path.write_text('[{"_id": {"$oid": "65a1b2c3d4e5f60718293a4b"}, ' + json.dumps(ANNOTATION)[1:] + "]")
    load(store, [path])
    (held,) = store["bbox.human_annotation"].find()
    assert held["source_id"] == ObjectId("65a1b2c3d4e5f60718293a4b")
    export = bson.json_util.dumps([held])
    path.write_text(export)

    assert only(load(store, [path])).already_there == 1
    store["bbox.human_annotation"].delete_many({})
    load(store, [path])
    assert list(store["bbox.human_annotation"].find()) == [held]


# What no Python type holds, or not as one would think.
FAR = [
    ('{"$date": {"$numberLong": "999999999999999999"}}', '{"$date": {"$numberLong": "999999999999999998"}}'),
    ('{"$date": {"$numberLong": "-999999999999999999"}}', '{"$date": "2024-01-02T03:04:05Z"}'),
    ('{"$binary": {"base64": "AAAA", "subType": "80"}}', '{"$binary": {"base64": "AAAA", "subType": "00"}}'),
    ('{"$numberDecimal": "NaN"}', '{"$numberDecimal": "1E+6000"}'),
    ('{"$uuid": "73ffd264-44b3-4c69-90e8-e7d1dfc035d4"}', '{"$oid": "65a1b2c3d4e5f60718293a4b"}'),
    ('{"$timestamp": {"t": 1, "i": 2}}', '{"$minKey": 1}'),
]


@pytest.mark.parametrize(("one", "other"), FAR)
def test_values_beyond_python_can_conflict_and_be_replaced(
    store: Store, tmp_path: Path, one: str, other: str
) -> None:
    path = tmp_path / "metadata.json"
    text = '[{"image_id": "far", "d": %s}]'
    path.write_text(text % one)
    assert only(load(store, [path])).new == 1
    assert only(load(store, [path])).already_there == 1
    path.write_text(text % other)

    assert only(load(store, [path], dry_run=True)).conflicts == 1
    report = load(store, [path], rejects_folder=tmp_path / "rejects")
    (refused,) = rejects(report)
    assert refused["document"]["d"] != refused["stored"]["d"]
    assert only(load(store, [path], replace=True)).replaced == 1
    assert only(load(store, [path])).already_there == 1


def test_what_another_system_stored_beyond_python_can_conflict_and_be_replaced(
    store: Store, tmp_path: Path
) -> None:
    far = bson.DatetimeMS(999999999999999999)
    store["metadata"].insert_many([{"_id": far, "image_id": "far", "d": far}, {"image_id": "b", "d": far}])
    path = write(tmp_path, "metadata.json", [{"image_id": "far"}, {"image_id": "b"}, {"image_id": "c"}])

    report = load(store, [path], rejects_folder=tmp_path / "rejects")

    assert (only(report).new, only(report).conflicts, len(rejects(report))) == (1, 2, 2)
    assert only(load(store, [path], replace=True)).replaced == 2
    assert {each["_id"] for each in store["metadata"].find({"image_id": "far"})} == {far}


@pytest.mark.parametrize(
    ("own_id", "happens"),
    [
        *((None, happens) for happens in ("deleted", "changed", "made the same")),
        *(("theirs", happens) for happens in ("deleted", "changed", "made the same", "made another document")),
    ],
)
def test_what_changes_while_it_is_replaced_is_looked_at_again(store: Store, happens: str, own_id: Any) -> None:
    collection = store["metadata"]
    with Insertion(store, "metadata") as insertion:
        insertion.add([prepare("metadata", {"image_id": each, "n": 1}) for each in "ab"])
    if own_id:
        collection.delete_one({"image_id": "a"})
        collection.insert_one({"_id": own_id, "image_id": "a", "n": 1})
    todo = [happens]

    def meanwhile() -> None:
        if todo:
            todo.pop()
            if happens == "deleted":
                collection.delete_one({"image_id": "a"})
            else:
                now = {"changed": {"n": 3}, "made the same": {"n": 2}}.get(happens, {"image_id": "c"})
                collection.update_one({"image_id": "a"}, {"$set": now})

    with Insertion(store, "metadata", replace=True, before_write=meanwhile) as insertion:
        outcome = insertion.add([prepare("metadata", {"image_id": each, "n": 2}) for each in "ab"])

    assert not todo
    assert (outcome.new, outcome.already_there, outcome.replaced) == {
        "deleted": (1, 0, 1),
        "changed": (0, 0, 2),
        "made the same": (0, 1, 1),
        "made another document": (1, 0, 1),
    }[happens]
    held = {(each["image_id"], each["n"]) for each in collection.find()}
    assert held == {("a", 2), ("b", 2)} | ({("c", 1)} if happens == "made another document" else set())


def test_a_replacement_that_the_customers_rules_forbid_is_refused_alone(store: Store, tmp_path: Path) -> None:
    names = "abcde"
    load(store, [write(tmp_path, "metadata.json", [{"image_id": name, "n": name} for name in names])])
    store["metadata"].create_index("n", unique=True, sparse=True)
    store.database.command({"collMod": "metadata", "validator": {"n": {"$ne": "never"}}})
    new = {"a": "A", "b": "never", "c": "C", "d": "e", "e": "e"}
    path = write(tmp_path, "metadata.json", [{"image_id": name, "n": new[name]} for name in names])

    report = only(load(store, [path], replace=True))

    assert (report.replaced, report.already_there, report.refused) == (2, 1, 2)
    assert [refusal.split(":")[0] for refusal in report.refusals] == ["[1]", "[3]"]
    held = {each["image_id"]: each["n"] for each in store["metadata"].find()}
    assert held == {"a": "A", "b": "b", "c": "C", "d": "d", "e": "e"}
