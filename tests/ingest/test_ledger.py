"""The records of loads: what was cut short, and what made it good."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from truthloop.ingest.ledger import Ledger, close_dead_loads, interrupted_loads
from truthloop.ingest.load import load
from truthloop.store.connection import Store

NOTHING = {"read": 0, "new": 0, "already_there": 0, "replaced": 0, "refused": 0, "conflicts": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps([{"image_id": "a"}]))
    return path


def begun(store: Store, path: Path, name: str = "other") -> Ledger:
    """A load of that file that has stored something and not ended yet."""
    ledger = Ledger(store, id=name, collection="metadata", file=path.name, path=str(path), command="load it")
    ledger.open()
    return ledger


def records(store: Store) -> dict[str, tuple[str, bool]]:
    return {each["_id"]: (each["state"], each["complete"]) for each in store["truthloop.loads"].find()}


def events_of(store: Store, id: str) -> list[dict[str, Any]]:  # noqa: A002
    return [event["data"] for event in store["truthloop.events"].find({"subject": id}).sort("sequence")]


def test_a_killed_load_is_made_good_by_one_that_comes_before_it_counts_as_dead(store: Store, path: Path) -> None:
    begun(store, path, "killed")

    load(store, [path])  # its heartbeat is fresh: it may live

    assert not interrupted_loads(store, lease_seconds=-1)
    assert close_dead_loads(store, lease_seconds=-1) == 1
    assert not interrupted_loads(store, lease_seconds=-1)
    assert records(store)["killed"] == ("loaded", True)
    assert [event["complete"] for event in events_of(store, "killed")] == [True]


def test_a_load_that_lives_ends_its_own_record_whoever_was_quicker(store: Store, path: Path) -> None:
    slow = begun(store, path, "slow")
    load(store, [path])

    assert records(store)["slow"] == ("loading", True)
    slow.close({**NOTHING, "read": 9, "new": 9}, complete=True)

    assert records(store)["slow"] == ("loaded", True)
    assert [event["new"] for event in events_of(store, "slow")] == [9]


def test_a_load_that_began_later_is_not_made_good_by_an_earlier_one(store: Store, path: Path) -> None:
    now = 0.0
    early = Ledger(
        store,
        id="early",
        collection="metadata",
        file=path.name,
        path=str(path),
        command="load it",
        clock=lambda: now,
    )
    late = begun(store, path, "late")
    now = 3600.0  # so `early` began an hour before it ends, and so before `late`
    early.close(NOTHING, complete=True)
    late.close(NOTHING, complete=False, may_have_changed=True)

    assert [each.command for each in interrupted_loads(store)] == ["load it"]


@pytest.mark.parametrize("name", ["my notes.json", "metadata.json", "it's; rm -r.json"])
def test_the_command_that_makes_a_load_good_can_be_pasted(store: Store, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('[{"image_id": "a"}, {"image_id": "b"')
    load(store, [path], into="metadata")

    (interrupted,) = interrupted_loads(store)
    typed = shlex.split(interrupted.command)

    into = [] if name == "metadata.json" else ["--into", "metadata"]
    assert typed == ["truthloop", "load", str(path), *into]


def test_a_file_is_the_same_by_whatever_way_it_is_named(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = path.read_text()
    path.write_text(good[:-1])
    load(store, [path])
    path.write_text(good)
    (path.parent / "deep").mkdir()
    monkeypatch.chdir(path.parent / "deep")

    load(store, ["../metadata.json"])

    assert not interrupted_loads(store)
