"""Builds beside writers, readers and other builders: one snapshot, one at a time, and never half a version."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from datasets.documents import BOX, annotation, prediction
from datasets.given_builds import events, fill, stored, temporaries
from datasets.processes_of_build import start_build
from truthloop.datasets import build as module
from truthloop.datasets.build import build
from truthloop.datasets.settle import settle_stopped
from truthloop.datasets.show import list_datasets, show_dataset
from truthloop.errors import AlreadyRunning
from truthloop.ingest.load import load

QUERY_PLAN_KILLED = 175  # MongoDB's code


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
