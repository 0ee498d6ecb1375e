"""Builds: the slice's figures, one snapshot, one at a time, killed in every phase, and readers meanwhile."""

import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pymongo.errors import OperationFailure

from datasets.documents import BOX, SWAPPED, annotation, audit, prediction
from datasets.processes_of_build import PHASES, killed, start_build, wait_for, wait_until
from truthloop.datasets import build as module
from truthloop.datasets.build import build, settle_stopped
from truthloop.datasets.entries import ENTRIES, LEFT_OUT, read_entries, read_left_out
from truthloop.datasets.gather import ranges
from truthloop.datasets.show import find_built, list_datasets, show_dataset
from truthloop.errors import AlreadyRunning, Conflict, DiskFull, LeaseLost
from truthloop.ingest.load import load
from truthloop.store.connection import Store

QUERY_PLAN_KILLED = 175  # MongoDB's code


def fill(store: Store, images: int = 5) -> None:
    """Images a0, a1, ...: the even ones predicted, the first annotated."""
    names = [f"a{number}" for number in range(images)]
    store["metadata"].insert_many([{"image_id": name} for name in names])
    store["bbox.model"].insert_many([prediction(name, BOX) for name in names[::2]])
    store["bbox.human_annotation"].insert_one(annotation("a0", BOX))


def stored(store: Store) -> list[dict[str, Any]]:
    return list(store["bbox_dataset"].find().sort("_id", 1))


def events(store: Store) -> list[tuple[str, int]]:
    found = store["truthloop.events"].find({"type": "dev.truthloop.dataset.built"}).sort("_id", 1)
    return [(event["subject"], event["sequence"]) for event in found]


def temporaries(store: Store) -> list[str]:
    return store.database.list_collection_names(filter={"name": {"$regex": "building"}})


def folder(store: Store, version: int) -> Path:
    return store.settings.home / "datasets" / find_built(store, version)["folder"]


# -- what is built -----------------------------------------------------------------------------------------


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


# -- one snapshot ------------------------------------------------------------------------------------------


def test_what_is_written_after_the_snapshot_is_not_in_the_version(store, monkeypatch):
    fill(store)
    decide_range = module.decide_range

    def late(store, *args, **options):
        store["bbox.human_annotation"].insert_one(annotation("a1", BOX))
        store["metadata"].insert_one({"image_id": "late"})
        return decide_range(store, *args, **options)

    monkeypatch.setattr(module, "decide_range", late)
    report = build(store)

    assert (report.images, report.entries) == (5, 3)
    assert show_dataset(store).cluster_time == report.cluster_time


def test_a_load_beside_builds_is_seen_whole_or_not_at_all(store):
    """A prediction and its metadata come in one transaction; no build sees one without the other."""
    stop = threading.Event()

    def write() -> int:
        number = 0
        while not stop.is_set():
            number += 1

            def both(session: Any, name: str = f"b{number}") -> None:
                store["bbox.model"].insert_one(prediction(name, BOX), session=session)
                store["metadata"].insert_one({"image_id": name}, session=session)

            store.transaction(both)
        return number

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        reports = [build(store) for _ in range(5)]
        stop.set()
        written = writing.result()

    for report in reports:
        assert report.entries == report.images
        assert report.not_in_metadata.count == 0
    assert reports[-1].images <= written
    assert build(store).images == written


def test_many_ranges_come_to_the_same_as_one(store, face_slice, monkeypatch):
    load(store, [face_slice])
    build(store)
    at_once = [entry | {"dataset_version": 0} for entry in stored(store)]
    monkeypatch.setattr("truthloop.datasets.gather._RANGE", 97)
    report = build(store)

    assert [entry | {"dataset_version": 0} for entry in stored(store)] == at_once
    assert report.entries == 2100


# -- readers and other builders ----------------------------------------------------------------------------


def test_a_reader_sees_the_old_version_or_the_new_one_and_never_half(store):
    fill(store, images=200)
    build(store)
    stop, seen = threading.Event(), Counter[tuple[tuple[int, int], ...]]()
    counts = [{"$group": {"_id": "$dataset_version", "count": {"$sum": 1}}}]

    def read() -> None:
        while not stop.is_set():
            try:
                found = list(store["bbox_dataset"].aggregate(counts))
            except OperationFailure as error:
                # In the middle of the swap a reader is told so, and not given half.
                assert error.code == QUERY_PLAN_KILLED
                continue
            seen[tuple((each["_id"], each["count"]) for each in found)] += 1

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for _ in range(5):
            build(store)
        stop.set()
        reading.result()

    assert set(seen) <= {((version, 100),) for version in range(1, 7)}
    assert len(seen) > 1


def test_a_second_builder_is_told_that_one_is_at_work(store, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    fill(store)
    holding, go_on = threading.Event(), threading.Event()

    def wait(phase: str) -> None:
        if phase == "stored":
            holding.set()
            assert go_on.wait(60)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(build, store, reached=wait)
        assert holding.wait(60)
        with pytest.raises(AlreadyRunning):
            build(store)
        assert settle_stopped(store) == ([], True)
        go_on.set()

        assert first.result().version == 1
    assert events(store) == [("1", 1)]


def test_builds_started_together_make_whole_versions_one_after_the_other(store):
    fill(store, images=50)
    processes = [start_build() for _ in range(3)]
    for process in processes:
        process.communicate(timeout=120)
    codes = [process.returncode for process in processes]

    built = [item.version for item in list_datasets(store).items]
    assert len(built) == codes.count(0) >= 1
    assert [subject for subject, _ in events(store)] == [str(version) for version in sorted(built)]
    assert {entry["dataset_version"] for entry in stored(store)} == {built[0]}
    assert temporaries(store) == []


# -- builds that stop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_a_build_killed_in_any_phase_is_finished_or_undone_by_the_next(store, phase):
    fill(store)
    build(store)
    assert killed(start_build(phase))
    swapped = phase in ("swapped", "built")
    assert {entry["dataset_version"] for entry in stored(store)} == {2 if swapped else 1}

    report = build(store)

    assert report.version == 3
    assert [item.version for item in list_datasets(store).items] == ([3, 2, 1] if swapped else [3, 1])
    assert events(store) == ([("1", 1), ("2", 1), ("3", 1)] if swapped else [("1", 1), ("3", 1)])
    assert {entry["dataset_version"] for entry in stored(store)} == {3}
    assert temporaries(store) == []
    found = {record["_id"]: record["state"] for record in store["truthloop.datasets"].find()}
    assert found == {1: "built", 2: "built" if swapped else "undone", 3: "built"}
    built_folders = {record["folder"] for record in store["truthloop.datasets"].find({"state": "built"})}
    of_this = {record["folder"] for record in store["truthloop.datasets"].find()}
    there = {path.name.removesuffix(".building") for path in (store.settings.home / "datasets").iterdir()}
    assert there & of_this == built_folders


@pytest.mark.parametrize("phase", ["stored", "swapped"])
def test_doctor_settles_a_build_that_stopped(store, phase):
    fill(store)
    assert killed(start_build(phase))
    settled: list[Any] = []

    def look() -> bool:
        found, running = settle_stopped(store)
        settled.extend(found)
        return not running

    wait_until(look)

    assert [one.outcome for one in settled] == ["finished" if phase == "swapped" else "undone"]
    assert settle_stopped(store) == ([], False)


@pytest.mark.parametrize("phase", ["recorded", "stored", "written", "reported", "swapped"])
def test_a_builder_taken_for_dead_that_wakes_up_changes_nothing(store, phase):
    fill(store)
    build(store)
    sleeper = start_build(phase, "SIGSTOP")
    try:
        wait_for(sleeper, phase)
        newer = build(store)
        assert newer.version == 3
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    _, errors = sleeper.communicate(timeout=120)

    assert {entry["dataset_version"] for entry in stored(store)} == {3}
    built = [item.version for item in list_datasets(store).items]
    if phase == "swapped":  # only its record was missing, and that was written for it
        assert built == [3, 2, 1]
    else:
        assert built == [3, 1]
        assert sleeper.returncode != 0
        assert "LeaseLost" in errors
    assert len(events(store)) == len(built)
    build(store)
    assert temporaries(store) == []


def test_a_build_that_fails_leaves_nothing_behind(store, monkeypatch):
    fill(store)

    def fail(*_: Any, **__: Any) -> None:
        raise Conflict("No.")

    monkeypatch.setattr(module, "decide_range", fail)
    with pytest.raises(Conflict):
        build(store)
    monkeypatch.undo()

    assert temporaries(store) == []
    assert store["truthloop.datasets"].find_one({"_id": 1})["state"] == "undone"
    assert not (
        store.settings.home / "datasets" / store["truthloop.datasets"].find_one({"_id": 1})["folder"]
    ).exists()
    assert build(store).version == 2


def test_a_build_whose_place_was_taken_stops(store):
    fill(store)

    def take(phase: str) -> None:
        if phase == "written":
            module.settle(store, 1)

    with pytest.raises(LeaseLost):
        build(store, reached=take)

    assert "bbox_dataset" not in store.database.list_collection_names()
    assert events(store) == []


def test_a_build_says_that_a_load_had_not_come_to_its_end(store):
    fill(store)
    store["truthloop.loads"].insert_one(
        {"_id": "a", "state": "loading", "collection": "metadata", "complete": False}
    )

    assert build(store).unfinished_loads == 1


def test_a_rename_that_happens_while_the_version_is_settled_finds_nothing_to_rename(store, monkeypatch):
    """The builder wakes up at the worst moment: after somebody looked whether it had swapped."""
    fill(store)
    build(store)
    assert killed(start_build("reported"))
    look, renamed = module._uuid, []

    def look_while_the_sleeper_renames(store, name):
        found = look(store, name)
        if name == module.DATASET:
            try:
                store.client.admin.command(
                    "renameCollection",
                    f"{store.database.name}.{module.TEMPORARY}2",
                    to=f"{store.database.name}.{module.DATASET}",
                    dropTarget=True,
                )
            except OperationFailure as error:
                renamed.append(error.code)
        return found

    monkeypatch.setattr(module, "_uuid", look_while_the_sleeper_renames)
    module.settle(store, 2)

    assert renamed == [module._NAMESPACE_NOT_FOUND]
    assert {entry["dataset_version"] for entry in stored(store)} == {1}


def test_a_collection_that_is_not_the_builds_own_is_not_put_in_place(store):
    fill(store)
    build(store)

    def replaced(phase: str) -> None:
        if phase == "reported":
            name = f"{module.TEMPORARY}2"
            store.database.drop_collection(name)
            store[name].insert_one({"dataset_version": 99})

    with pytest.raises(LeaseLost):
        build(store, reached=replaced)

    assert {entry["dataset_version"] for entry in stored(store)} == {1}


def test_what_was_killed_while_it_was_undone_is_undone_to_its_end_by_the_next(store, monkeypatch):
    fill(store)
    assert killed(start_build("written"))

    def die(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.files, "remove_folder", die)
    with pytest.raises(KeyboardInterrupt):
        module.settle(store, 1)
    monkeypatch.undo()

    assert module.settle(store, 1).outcome == "undone"
    name = store["truthloop.datasets"].find_one({"_id": 1})["folder"]
    assert not list((store.settings.home / "datasets").glob(f"{name}*"))


@pytest.mark.parametrize("where", ["LeftOutFile.write", "hash_of"])
def test_a_disk_error_in_any_file_is_told_as_one_and_undoes_the_build(store, monkeypatch, where):
    fill(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    holder, _, name = where.rpartition(".")
    monkeypatch.setattr(getattr(module.files, holder) if holder else module.files, name, full)

    with pytest.raises(DiskFull):
        build(store)

    assert temporaries(store) == []
    assert list_datasets(store).items == []


def test_a_builder_whose_time_ran_out_before_it_began_settles_nobody_elses_build(store, monkeypatch):
    fill(store)
    store["truthloop.datasets"].insert_one({"_id": 7, "state": "building", "started": datetime.now(UTC)})
    taken = module.leases.acquire

    def taken_over(store, name, **options):
        lease = taken(store, name, **options)
        store["truthloop.leases"].update_one({"_id": name}, {"$set": {"holder": "another"}})
        return lease

    monkeypatch.setattr(module.leases, "acquire", taken_over)

    with pytest.raises(LeaseLost):
        build(store)

    assert store["truthloop.datasets"].find_one({"_id": 7})["state"] == "building"


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
