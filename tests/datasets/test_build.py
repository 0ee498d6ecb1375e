"""Builds: the slice's figures, and what is in a version, in its file, its report and its event."""

import pyarrow.parquet as pq

from datasets.documents import BOX, SWAPPED, annotation, audit, prediction
from datasets.given_builds import fill, folder, stored
from truthloop.datasets import build as module
from truthloop.datasets.build import build
from truthloop.datasets.entries import ENTRIES, LEFT_OUT, read_entries, read_left_out
from truthloop.datasets.gather import ranges
from truthloop.datasets.show import list_datasets, show_dataset
from truthloop.ingest.load import load


def test_the_slice_has_2100_entries_and_one_image_left_out_for_swapped_corners(store, face_slice):
    load(store, [face_slice])
    report = build(store)

    assert (report.images, report.entries, report.left_out.count) == (2443, 2100, 343)
    assert (report.left_out.unseen, report.left_out.refused, report.left_out.audited_incorrect) == (342, 1, 0)
    refused = [group for group in report.left_out.reasons if group.reason.is_refusal]
    assert [(group.reason, group.count) for group in refused] == [("swapped or empty box", 1)]
    assert [image.image_id for image in refused[0].examples] == ["0c8ab894bf50daa46320126e4d731a35"]
    assert (report.human.images, report.model.images) == (776, 1324)
    assert report.human.empty + report.model.empty == store["bbox_dataset"].count_documents({"bboxes": []})
    assert store["bbox_dataset"].count_documents({}) == 2100


def test_every_image_of_the_slice_is_accounted_for_by_name(store, face_slice):
    load(store, [face_slice])
    report = build(store)
    entries = [row["image_id"] for row in read_entries(folder(store, 1) / ENTRIES)]
    left_out = [row["image_id"] for row in read_left_out(folder(store, 1) / LEFT_OUT)]

    assert sorted(entries + left_out) == sorted(store["metadata"].distinct("image_id"))
    assert (len(entries), len(left_out)) == (report.entries, report.left_out.count)
    assert entries == sorted(entries)


def test_an_entry_says_what_it_has_and_where_it_comes_from(store):
    fill(store)
    store["bbox.human_audit"].insert_one(audit("a2", False))
    build(store)

    assert stored(store) == [
        {
            "_id": "a0",
            "image_id": "a0",
            "bboxes": [BOX],
            "source": {"kind": "human", "version": "1.0.0", "timestamp": 1.0},
            "verdict": None,
            "dataset_version": 1,
        },
        {
            "_id": "a2",
            "image_id": "a2",
            "bboxes": [BOX],
            "source": {"kind": "model", "version": "1.0.0", "timestamp": None},
            "verdict": False,
            "dataset_version": 1,
        },
        {
            "_id": "a4",
            "image_id": "a4",
            "bboxes": [BOX],
            "source": {"kind": "model", "version": "1.0.0", "timestamp": None},
            "verdict": None,
            "dataset_version": 1,
        },
    ]


def test_the_report_keeps_empty_unseen_and_refused_apart(store):
    fill(store, images=6)
    store["bbox.model"].insert_many([prediction("a1"), prediction("a3", SWAPPED), prediction("nowhere", BOX)])
    report = build(store)

    assert report.images == report.entries + report.left_out.count == 6
    assert (report.model.empty, report.left_out.unseen, report.left_out.refused) == (1, 1, 1)
    assert report.not_in_metadata.examples == ["nowhere"]
    assert report.seen == 1


def test_an_image_that_stands_twice_in_metadata_is_one(store):
    store["metadata"].insert_many([{"image_id": "a"}, {"image_id": "a"}])

    assert build(store).images == 1


def test_a_workspace_without_images_builds_an_empty_dataset(store):
    report = build(store)

    assert (report.images, report.entries, report.seen_fraction) == (0, 0, None)
    assert "bbox_dataset" in store.database.list_collection_names()
    assert list(read_entries(folder(store, 1) / ENTRIES)) == []


def test_ids_that_are_no_text_belong_to_no_image(store):
    fill(store, images=1)
    store["metadata"].insert_many([{"image_id": 5}, {"image_id": ["a0", "b"]}, {}])
    store["bbox.model"].insert_one(prediction("a0", BOX) | {"image_id": ["b"]})
    report = build(store)

    assert (report.images, report.entries, report.not_in_metadata.count) == (1, 1, 0)


def test_the_empty_text_and_any_other_text_are_ids(store):
    names = ["", "é", "\U0001f600", "a\x00b", " "]
    store["metadata"].insert_many([{"image_id": name} for name in names])
    store["bbox.model"].insert_many([prediction(name, BOX) for name in names])
    build(store)

    assert {entry["image_id"] for entry in stored(store)} == set(names)


def test_without_incorrect_is_named_in_the_report_and_in_the_list(store):
    fill(store)
    store["bbox.human_audit"].insert_one(audit("a2", False))
    report = build(store, without_incorrect=True)

    assert report.left_out.audited_incorrect == 1
    assert [entry["image_id"] for entry in stored(store)] == ["a0", "a4"]
    assert list_datasets(store).items[0].without_incorrect


def test_a_dry_run_reports_the_same_and_writes_nothing(store):
    fill(store)
    before = store.database.list_collection_names()
    dry = build(store, dry_run=True)

    assert store.database.list_collection_names() == before
    assert list_datasets(store).items == []
    real = build(store)
    same = ("images", "entries", "left_out", "human", "model", "sources", "clipped")
    assert [getattr(dry, name) for name in same] == [getattr(real, name) for name in same]


def test_a_version_never_changes_when_the_next_is_built(store):
    fill(store)
    first = build(store)
    bytes_before = (folder(store, 1) / ENTRIES).read_bytes()
    store["bbox.human_annotation"].insert_one(annotation("a1", BOX))
    second = build(store)

    assert (first.version, second.version) == (1, 2)
    assert {entry["dataset_version"] for entry in stored(store)} == {2}
    assert (folder(store, 1) / ENTRIES).read_bytes() == bytes_before
    assert show_dataset(store, 1).entries == 3
    assert [(item.version, item.current) for item in list_datasets(store).items] == [(2, True), (1, False)]


def test_the_file_of_a_version_holds_its_entries(store):
    fill(store)
    build(store)
    rows = list(read_entries(folder(store, 1) / ENTRIES))

    assert rows == [
        {name: value for name, value in entry.items() if name not in ("_id", "dataset_version")}
        for entry in stored(store)
    ]


def test_the_dataset_can_be_searched_by_image(store):
    fill(store)
    build(store)

    plan = store["bbox_dataset"].find({"image_id": "a0"}).explain()["queryPlanner"]["winningPlan"]
    assert "COLLSCAN" not in str(plan)


def test_the_event_says_what_was_built(store):
    fill(store)
    build(store)
    event = store["truthloop.events"].find_one({"type": "dev.truthloop.dataset.built"})

    assert (event["subject"], event["source"], event["sequence"]) == ("1", "/datasets", 1)
    assert (event["data"]["images"], event["data"]["entries"], event["data"]["unseen"]) == (5, 3, 2)


def test_a_build_says_that_a_load_had_not_come_to_its_end(store):
    fill(store)
    store["truthloop.loads"].insert_one(
        {"_id": "a", "state": "loading", "collection": "metadata", "complete": False}
    )

    assert build(store).unfinished_loads == 1


def test_the_report_that_is_kept_tells_how_long_the_swap_took(store):
    fill(store)
    report = build(store)

    assert report.seconds is not None
    assert report.seconds.swap is not None
    assert show_dataset(store).seconds == report.seconds


def test_images_with_many_boxes_make_small_ranges_and_small_row_groups(store, monkeypatch):
    boxes = [BOX] * 300
    names = [f"a{number:04}" for number in range(400)]
    store["metadata"].insert_many([{"image_id": name} for name in names])
    store["bbox.model"].insert_many([prediction(name, *boxes) for name in names])
    monkeypatch.setattr(module.files, "GROUP_VALUES", 20_000)
    monkeypatch.setattr("truthloop.datasets.gather._RANGE_BYTES", 1_000_000)
    build(store)

    with pq.ParquetFile(folder(store, 1) / ENTRIES) as file:
        largest = max(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    assert largest <= 20_000 // 300 + 1
    assert len(ranges(store)) > 4
