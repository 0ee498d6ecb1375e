"""Builds that stop, killed in every phase, failed, or taken for dead: finished or undone, and nothing between."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from datasets.given_builds import events, fill, stored, temporaries
from datasets.processes_of_build import PHASES, killed, start_build, wait_for
from predict.given import wait_until
from truthloop.datasets import build as module
from truthloop.datasets import settle as settling
from truthloop.datasets.build import build
from truthloop.datasets.settle import settle, settle_stopped
from truthloop.datasets.show import list_datasets
from truthloop.errors import Conflict, DiskFull, LeaseLost


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
            settle(store, 1)

    with pytest.raises(LeaseLost):
        build(store, reached=take)

    assert "bbox_dataset" not in store.database.list_collection_names()
    assert events(store) == []


def test_a_rename_that_happens_while_the_version_is_settled_finds_nothing_to_rename(store, monkeypatch):
    """The builder wakes up at the worst moment: after somebody looked whether it had swapped."""
    fill(store)
    build(store)
    assert killed(start_build("reported"))
    look, renamed = settling.uuid_of, []

    def look_while_the_sleeper_renames(store, name):
        found = look(store, name)
        if name == settling.DATASET:
            try:
                store.client.admin.command(
                    "renameCollection",
                    f"{store.database.name}.{settling.TEMPORARY}2",
                    to=f"{store.database.name}.{settling.DATASET}",
                    dropTarget=True,
                )
            except OperationFailure as error:
                renamed.append(error.code)
        return found

    monkeypatch.setattr(settling, "uuid_of", look_while_the_sleeper_renames)
    settle(store, 2)

    assert renamed == [module._NAMESPACE_NOT_FOUND]
    assert {entry["dataset_version"] for entry in stored(store)} == {1}


def test_a_collection_that_is_not_the_builds_own_is_not_put_in_place(store):
    fill(store)
    build(store)

    def replaced(phase: str) -> None:
        if phase == "reported":
            name = f"{settling.TEMPORARY}2"
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
        settle(store, 1)
    monkeypatch.undo()

    assert settle(store, 1).outcome == "undone"
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
