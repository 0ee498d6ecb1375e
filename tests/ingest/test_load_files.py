"""Which files a load takes, what it refuses of them, and what it tells."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.loading import ANNOTATION, AUDIT, only, rejects, stored, write
from truthloop.errors import FileRefused, InputRefused
from truthloop.ingest import batches, unknown
from truthloop.ingest.load import load
from truthloop.store.connection import Store

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
