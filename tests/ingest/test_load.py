"""Loading into a real MongoDB, against a slow reference, and through crashes."""

import gzip
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.binary import Binary
from bson.objectid import ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import ASCENDING

from ingest.processes_of_load import LOAD_AGAIN, wait_until
from strategies import any_documents, good_documents
from truthloop.errors import FileRefused, InputRefused, Unavailable
from truthloop.ingest import batches, ledger, unknown
from truthloop.ingest.documents import COLLECTIONS, content, faults, identity, prepare
from truthloop.ingest.insert import Insertion
from truthloop.ingest.load import interrupted_loads, load
from truthloop.ingest.reports import FileReport, LoadReport
from truthloop.settings import load_settings
from truthloop.store.connection import Store, connect

few = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)

AUDIT = {
    "image_id": "a",
    "model_version": "1.0.0",
    "bbox_correct": True,
    "auditor": "x",
    "task_version": "1.0.0",
    "timestamp": 1,
}
ANNOTATION = {
    "image_id": "a",
    "bbox": {"left": 0.1, "top": 0.2, "right": 0.3, "bottom": 0.4},
    "annotator": "x",
    "task_version": "1.0.0",
    "timestamp": 1,
}


def write(folder: Path, name: str, documents: list[Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(documents), encoding="utf-8")
    return path


def stored(store: Store, collection: str) -> list[dict[str, Any]]:
    """What a collection holds, without the ids."""
    return [{key: value for key, value in each.items() if key != "_id"} for each in store[collection].find()]


def only(report: LoadReport) -> FileReport:
    assert len(report.items) == 1
    return report.items[0]


def rejects(report: LoadReport) -> list[dict[str, Any]]:
    assert report.rejects is not None
    return [json.loads(line) for line in Path(report.rejects).read_text(encoding="utf-8").splitlines()]


def empty(store: Store) -> None:
    for name in (*COLLECTIONS, "truthloop.loads", "truthloop.events"):
        store[name].delete_many({})


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


# -- files ---------------------------------------------------------------------------------------------------


def test_metadata_load_first_whatever_the_order(store: Store, tmp_path: Path) -> None:
    paths = [
        write(tmp_path, "bbox.human_audit.json", [AUDIT]),
        write(tmp_path, "metadata.json", [{"image_id": "a"}]),
    ]

    report = load(store, paths)

    assert [item.collection for item in report.items] == ["metadata", "bbox.human_audit"]
    assert report.items[1].unknown_images.count == 0


@pytest.mark.parametrize("dry_run", [True, False])
def test_ids_that_are_not_in_metadata_are_named(store: Store, tmp_path: Path, dry_run: bool) -> None:
    store["metadata"].insert_one({"image_id": "theirs"})
    documents = [{**AUDIT, "image_id": each} for each in ("theirs", "ours", "none", "nobody", "none")]
    documents[-1] = {**documents[-1], "auditor": "y"}
    paths = [
        write(tmp_path, "metadata.json", [{"image_id": "ours"}]),
        write(tmp_path, "bbox.human_audit.json", documents),
    ]

    named = load(store, paths, dry_run=dry_run).items[1].unknown_images

    assert (named.count, named.examples) == (2, ("nobody", "none"))


def test_a_folder_is_searched_through_and_a_file_is_loaded_once(store: Store, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    packed = tmp_path / "deep" / "er" / "metadata-2.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"image_id": "b"}\n{"image_id": "c"}'))
    write(tmp_path, "metadata.json", [{"image_id": "a"}])

    report = load(store, [tmp_path, packed, tmp_path / "deep" / ".." / "metadata.json"])

    assert [item.new for item in report.items] == [2, 1]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda folder: folder / "none.json", "isn't there"),
        (lambda folder: folder, "holds no .json"),
        (lambda folder: write(folder, "notes.json", []), "named after no collection"),
        (lambda _: Path("/dev/null"), "neither a file nor a folder"),
    ],
)
def test_a_path_that_cannot_be_loaded_is_refused_before_anything_is(
    store: Store, tmp_path: Path, make: Callable[[Path], Path], text: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    good = write(elsewhere, "metadata.json", [{"image_id": "a"}])
    here = tmp_path / "here"
    here.mkdir()

    with pytest.raises(FileRefused, match=text):
        load(store, [good, make(here)])

    assert not stored(store, "metadata")


def test_into_says_where_documents_go(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path, "notes.json", [{"image_id": "a"}])

    assert only(load(store, [path], into="metadata")).new == 1
    with pytest.raises(InputRefused, match="is no collection"):
        load(store, [path], into="users")


def test_a_file_that_ends_in_the_middle_is_loaded_up_to_there(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    path.write_text('[{"image_id": "a"}, {"image_id": "b"}, {"image')
    other = write(tmp_path, "metadata-2.json", [{"image_id": "c"}])

    report = load(store, [path, other])

    assert not report.ok
    assert "ends in the middle. The 2 documents before it" in (report.items[0].error or "")
    assert [item.new for item in report.items] == [2, 1]
    path.write_text('[{"image_id": "a"}, {"image_id": "b"}, {"image_id": "d"}]')
    assert (only(load(store, [path])).new, only(load(store, [path])).already_there) == (1, 3)


def test_refusals_are_written_with_place_and_reason(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "bbox.model.jsonl"
    lines = [
        '{"image_id": "a", "model_version": "1", "bboxes": []}',
        '{"image_id": "b", "model_version": "1", "bboxes": [{"left": NaN, "top": 0, "right": 1}]}',
        '{"image_id": ',
        '{"image_id": "\\ud800", "model_version": "1", "bboxes": []}',
        "[]",
    ]
    path.write_text("\n".join(lines))

    report = load(store, [path], rejects_folder=tmp_path / "rejects")

    assert only(report).new == 1
    shown = [
        {key: each[key] for key in ("file", "collection", "place", "reason", "line")} for each in rejects(report)
    ]
    same = {"file": str(path), "collection": "bbox.model"}
    assert shown == [
        {**same, "place": "[1].bboxes[0].left", "reason": "not finite", "line": 2},
        {**same, "place": "[2]", "reason": "not JSON: expecting value at column 14", "line": 3},
        {**same, "place": "[3].image_id", "reason": "is not valid Unicode", "line": 4},
        {**same, "place": "[4]", "reason": "not an object", "line": 5},
    ]
    assert rejects(report)[0]["faults"] == ["[1].bboxes[0].left: not finite", "[1].bboxes[0].bottom: missing"]
    assert rejects(report)[0]["document"]["bboxes"][0]["left"] == {"$numberDouble": "NaN"}
    assert only(report).refusals[0] == "[1].bboxes[0].left: not finite; [1].bboxes[0].bottom: missing"
    assert Path(report.rejects or "").stat().st_mode & 0o777 == 0o600


def test_documents_as_large_as_mongodb_takes_are_stored_and_replaced(store: Store, tmp_path: Path) -> None:
    largest = 16 * 1024 * 1024 - 100
    path = write(tmp_path, "metadata.json", [{"image_id": "a", "note": "x" * largest}])
    load(store, [path])
    write(tmp_path, "metadata.json", [{"image_id": "a", "note": "y" * largest}, {"image_id": "b"}])

    report = only(load(store, [path], replace=True))

    assert (report.replaced, report.new, report.refused) == (1, 1, 0)
    assert store["metadata"].count_documents({"note": {"$regex": "^y"}}) == 1


def test_a_document_of_more_text_than_any_that_fits_is_passed_over(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    path.write_text('[{"image_id": "a", "n": [' + "1," * 20_000_000 + '1]}, {"image_id": "b"}]')

    report = only(load(store, [path], rejects_folder=tmp_path / "rejects"))

    assert (report.new, report.refusals) == (
        1,
        ("[0]: 40 MB of text; MongoDB stores at most 16 MB in a document",),
    )


@pytest.mark.parametrize("long", ["x" * 200_000, [0.1] * 40_000, {"a": "é" * 100_000}])
def test_of_a_large_document_the_rejects_file_keeps_the_begin(store: Store, tmp_path: Path, long: Any) -> None:
    load(store, [write(tmp_path, "metadata.json", [{"image_id": "a", "note": long}])])
    path = write(tmp_path, "metadata.json", [{"image_id": "a", "note": [long]}, {"image_id": 5, "note": long}])

    report = load(store, [path], rejects_folder=tmp_path / "rejects")

    conflict, refused = sorted(rejects(report), key=lambda each: str(each["place"]))
    assert (conflict["place"], refused["place"]) == ("[0]", "[1].image_id")
    assert conflict["text"].startswith('{"image_id": "a", "note": [')
    assert conflict["stored_text"].startswith('{"_id": ')
    assert refused["text"].startswith('{"image_id": 5')
    assert Path(report.rejects or "").stat().st_size < 10_000


def test_a_rejects_folder_that_cannot_be_written_is_an_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "rejects").write_text("a file")

    with pytest.raises(FileRefused, match="can't be written in"):
        load(store, [write(tmp_path, "metadata.json", [{}])], rejects_folder=tmp_path / "rejects")


def test_strict_loads_nothing_if_anything_is_refused(store: Store, tmp_path: Path) -> None:
    paths = [
        write(tmp_path, "metadata.json", [{"image_id": "a"}]),
        write(tmp_path, "bbox.human_audit.json", [AUDIT, {**AUDIT, "bbox_correct": False}]),
    ]

    report = load(store, paths, strict=True, rejects_folder=tmp_path / "rejects")

    assert (report.ok, report.stopped) == (False, True)
    assert report.items[1].conflicts == 1
    assert not stored(store, "metadata")
    assert not stored(store, "truthloop.loads")


def test_strict_loads_everything_if_nothing_is_refused(store: Store, tmp_path: Path) -> None:
    report = load(store, [write(tmp_path, "metadata.json", [{"image_id": "a"}])], strict=True)

    assert (report.ok, report.stopped, only(report).new) == (True, False, 1)


def test_a_dry_run_needs_no_workspace(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, "metadata.json", [{"image_id": "a"}, {"image_id": "a"}]),
        write(tmp_path, "bbox.human_annotation.json", [ANNOTATION, {**ANNOTATION, "image_id": "b"}]),
    ]

    report = load(None, paths, dry_run=True)

    assert [(item.new, item.already_there) for item in report.items] == [(1, 1), (2, 0)]
    assert report.items[1].unknown_images.examples == ("b",)
    with pytest.raises(InputRefused):
        load(None, paths)


def test_a_dry_run_changes_nothing(store: Store, tmp_path: Path) -> None:
    load(store, [write(tmp_path, "metadata.json", [{"image_id": "a"}])], dry_run=True)

    assert not stored(store, "metadata")
    assert not stored(store, "truthloop.loads")


# -- the record and its event --------------------------------------------------------------------------------


def test_a_load_has_one_record_and_one_event(store: Store, tmp_path: Path) -> None:
    load(store, [write(tmp_path, "metadata.json", [{"image_id": "a"}, {}])])

    (record,) = store["truthloop.loads"].find()
    (event,) = store["truthloop.events"].find()
    assert (record["state"], record["complete"], record["revision"]) == ("loaded", True, 1)
    assert (event["type"], event["subject"], event["sequence"]) == (
        "dev.truthloop.documents.loaded",
        record["_id"],
        1,
    )
    counts = {"read": 2, "new": 1, "already_there": 0, "replaced": 0, "refused": 1, "conflicts": 0}
    assert event["data"] == {"collection": "metadata", "file": "metadata.json", **counts, "complete": True}


def test_a_load_with_nothing_new_leaves_no_trace(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path, "metadata.json", [{"image_id": "a"}])
    load(store, [path])

    load(store, [path])

    assert store["truthloop.loads"].count_documents({}) == 1
    assert store["truthloop.events"].count_documents({}) == 1


def test_an_interrupted_load_is_closed_and_made_good_by_the_next(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_DOCUMENTS", 10)
    path = write(tmp_path, "metadata.json", [{"image_id": str(number)} for number in range(50)])

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(store, [path], progress=interrupt)

    assert [each.file for each in interrupted_loads(store)] == [str(path)]
    assert [each["data"]["complete"] for each in store["truthloop.events"].find()] == [False]
    load(store, [path])
    assert not interrupted_loads(store)
    assert len(stored(store, "metadata")) == 50


def test_a_load_that_was_taken_for_dead_still_ends_its_record(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path, "metadata.json", [{"image_id": "a"}])

    load(store, [path], progress=lambda _: ledger.close_dead_loads(store, lease_seconds=-1) and None)

    (record,) = store["truthloop.loads"].find()
    assert (record["complete"], record["revision"]) == (True, 2)
    assert [each["sequence"] for each in store["truthloop.events"].find().sort("sequence")] == [1, 2]


# -- crashes and company -------------------------------------------------------------------------------------


def many(folder: Path, number: int) -> tuple[Path, list[dict[str, Any]]]:
    documents = [{**ANNOTATION, "image_id": f"{index % 9973:08x}", "timestamp": index} for index in range(number)]
    return write(folder, "bbox.human_annotation.json", documents), documents


def start_load(path: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", LOAD_AGAIN, str(path)], env=dict(os.environ))


def test_kill_9_in_the_middle_and_again_is_one_clean_load(store: Store, tmp_path: Path) -> None:
    path, documents = many(tmp_path, 60_000)
    process = start_load(path)
    wait_until(lambda: store["bbox.human_annotation"].estimated_document_count() > 0 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    held = store["bbox.human_annotation"].count_documents({})

    report = load(store, [path], lease_seconds=0)

    assert 0 < held < len(documents)
    assert (only(report).new, only(report).already_there) == (len(documents) - held, held)
    key = lambda each: each["timestamp"]  # noqa: E731
    assert sorted(stored(store, "bbox.human_annotation"), key=key) == documents
    assert [each["complete"] for each in store["truthloop.loads"].find()] == [True, True]
    assert not interrupted_loads(store)


def test_two_processes_loading_one_file_at_once_store_each_document_once(store: Store, tmp_path: Path) -> None:
    path, documents = many(tmp_path, 30_000)
    processes = [start_load(path) for _ in range(2)]

    assert [process.wait(timeout=120) for process in processes] == [0, 0]

    key = lambda each: each["timestamp"]  # noqa: E731
    assert sorted(stored(store, "bbox.human_annotation"), key=key) == documents
    assert sum(each["data"]["new"] for each in store["truthloop.events"].find()) == len(documents)


def test_a_server_that_dies_in_the_middle_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from truthloop.store import embedded

    monkeypatch.setattr(batches, "BATCH_DOCUMENTS", 2000)
    for name in list(os.environ):
        if name.startswith("TRUTHLOOP_"):
            monkeypatch.delenv(name)
    path, documents = many(tmp_path, 20_000)
    home = tmp_path / ".truthloop"
    killed = threading.Event()
    try:
        with connect(load_settings(home), create=True) as store:

            def kill(_: object) -> None:
                if not killed.is_set():
                    killed.set()
                    os.kill(store.client.admin.command("serverStatus")["pid"], signal.SIGKILL)

            try:
                load(store, [path], progress=kill)
            except Unavailable as error:
                assert "Loading it again" in str(error)
        assert killed.is_set()
        with connect(load_settings(home), create=True) as store:
            assert load(store, [path]).ok
            key = lambda each: each["timestamp"]  # noqa: E731
            assert sorted(stored(store, "bbox.human_annotation"), key=key) == documents
    finally:
        embedded.stop(home)


def test_progress_and_pace_are_called_between_batches(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_DOCUMENTS", 10)
    path = write(tmp_path, "metadata.json", [{"image_id": str(number)} for number in range(25)])
    seen: list[int] = []
    paced: list[int] = []

    load(store, [path], progress=lambda progress: seen.append(progress.read), pace=lambda: paced.append(1))

    assert seen == [10, 20, 25]
    assert len(paced) == 3


def test_a_null_box_is_stored_as_it_came_and_named(store: Store, tmp_path: Path) -> None:
    documents = [{**ANNOTATION, "bbox": None}, {**ANNOTATION, "bbox": "None", "image_id": "b"}]

    report = load(store, [write(tmp_path, "bbox.human_annotation.json", documents)])

    assert [
        each["bbox"] for each in sorted(stored(store, "bbox.human_annotation"), key=lambda each: each["image_id"])
    ] == [
        None,
        "None",
    ]
    assert only(report).nulls.examples == ("a", "b")
    assert report.ok


def test_everything_worth_a_look_is_written_with_its_place(store: Store, tmp_path: Path) -> None:
    swapped = {"left": 0.5, "top": 0.5, "right": 0.4, "bottom": 1.5}
    known = [{"image_id": f"{number}"} for number in range(0, 40, 2)]
    documents = [
        {
            **ANNOTATION,
            "image_id": f"{number % 20}",
            "timestamp": number,
            "bbox": [None, "None", swapped][number % 3],
        }
        for number in range(40)
    ]
    path = write(tmp_path, "bbox.human_annotation.json", documents)
    paths = [write(tmp_path, "metadata.json", known), path]
    expected = {(f"[{number}]", f"{number % 20}", "no_face") for number in range(40) if number % 3 < 2}
    for what in ("swapped", "outside"):
        expected |= {(f"[{number}]", f"{number % 20}", what) for number in range(40) if number % 3 == 2}
    expected |= {(f"[{number}]", f"{number}", "unknown_image") for number in range(1, 20, 2)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BATCH_DOCUMENTS", 7)
        patch.setattr(unknown, "ASK_IDS", 5)
        for arguments in ({"dry_run": True}, {"strict": True}, {}):
            report = load(store, paths, rejects_folder=tmp_path / "rejects", **arguments)  # type: ignore[arg-type]
            assert report.notes is not None
            notes = [json.loads(line) for line in Path(report.notes).read_text().splitlines()]

            assert {(each["file"], each["collection"]) for each in notes} == {(str(path), "bbox.human_annotation")}
            assert {(each["place"], each["image_id"], each["what"]) for each in notes} == expected
            assert len(notes) == len(expected)
            assert Path(report.notes).stat().st_mode & 0o777 == 0o600
            assert (report.ok, report.rejects) == (True, None)
            assert report.items[1].unknown_images.count == 10


def test_a_load_with_nothing_to_note_leaves_no_file(store: Store, tmp_path: Path) -> None:
    report = load(store, [write(tmp_path, "metadata.json", [{"image_id": "a"}])], rejects_folder=tmp_path / "r")

    assert (report.notes, report.rejects) == (None, None)
    assert not (tmp_path / "r").exists()


def test_names_with_dots_are_kept_as_they_came(store: Store, tmp_path: Path) -> None:
    document = {"image_id": "a", "a.b": {"c.d": math.pi}, "": 1}

    load(store, [write(tmp_path, "metadata.json", [document])])

    assert stored(store, "metadata") == [document]
