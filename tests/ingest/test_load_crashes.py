"""The record of a load and its event, and loads that are interrupted, killed or not alone."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ingest.loading import ANNOTATION, only, stored, write
from ingest.processes_of_load import LOAD_AGAIN
from predict.given import wait_until
from truthloop.errors import Unavailable
from truthloop.ingest import batches, ledger
from truthloop.ingest.load import interrupted_loads, load
from truthloop.settings import load_settings
from truthloop.store.connection import Store, connect

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
