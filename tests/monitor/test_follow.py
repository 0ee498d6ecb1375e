"""Followers, who keep the figures: one leads, whatever happens to it."""

import importlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from types import SimpleNamespace
from typing import Any

import pytest

from monitor.written import assert_proved, current, metadata
from predict.given import wait_until
from truthloop.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    FiguresBehind,
    LeaseLost,
)
from truthloop.monitor import follow
from truthloop.monitor.status import PACE_SECONDS, images, pace, read_kept, status
from truthloop.settings import Settings, load_settings
from truthloop.store import lease as leases
from truthloop.store.connection import Store, connect


@pytest.fixture
def follower(store: Store) -> Iterator[None]:
    """The service's follower, on a thread of its own."""
    stop = threading.Event()
    thread = threading.Thread(target=follow.follow, args=(store, stop))
    thread.start()
    wait_until(lambda: read_kept(store) is not None)
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("follower")
def test_while_it_is_written_to_an_answer_has_all_that_was_written_before_its_as_of(store: Store):
    """So an answer can't be wrong for longer than `as_of` is old, and older ones than two seconds aren't given."""
    written: list[tuple[Any, int]] = []
    for number in range(40):
        store["metadata"].insert_many([metadata(f"{number}-{n}") for n in range(50)])
        moment = store.client.admin.command("hello")["localTime"].replace(tzinfo=UTC)
        written.append((moment, 50 * (number + 1)))
        try:
            found = status(store, catch_up=False)
        except FiguresBehind:
            continue
        before = [images for moment, images in written if moment < found.as_of]
        assert found.images >= max(before, default=0)
    wait_until(lambda: read_kept(store) is not None and status(store, catch_up=False).images == 2000)


@pytest.mark.usefixtures("follower")
def test_one_follower_leads_and_a_reader_needs_no_lease(store: Store):
    assert not follow.catch_up(store)
    assert status(store).images == 0


@pytest.mark.usefixtures("follower")
def test_a_follower_goes_on_after_its_figures_were_declared_void(store: Store):
    store["metadata"].insert_one(metadata("a"))
    follow.void(store)

    wait_until(lambda: read_kept(store) is not None)
    assert status(store).images == 1


def test_a_load_waits_for_a_follower_that_is_behind_and_for_nobody_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    slept: list[float] = []
    # A clock of the module's own, which goes on by what is slept; the real one has other users.
    clock = SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept))
    monkeypatch.setattr("truthloop.monitor.status.time", clock)
    current(store)
    store[follow.COLLECTION].update_one({}, [{"$set": {"as_of": {"$subtract": ["$$NOW", 60_000]}}}])

    pace(store)
    assert not slept  # nobody follows

    leases.acquire(store, follow.LEASE_NAME, holder="another", seconds=60)
    pace(store)
    assert PACE_SECONDS <= sum(slept) < 2 * PACE_SECONDS  # somebody does, and is behind

    slept.clear()
    store[follow.COLLECTION].update_one({}, [{"$set": {"as_of": "$$NOW"}}])
    pace(store)
    assert not slept


@contextmanager
def paused_in(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Stops the first call of a function that the leader calls: gives events `reached` and `go on`."""
    module, attribute = name.rsplit(".", 1)
    original = getattr(importlib.import_module(module), attribute)
    reached, go_on = threading.Event(), threading.Event()
    first = itertools.count()

    def gate(*arguments: Any, **named: Any) -> Any:
        if next(first) == 0:
            reached.set()
            assert go_on.wait(30)
        return original(*arguments, **named)

    monkeypatch.setattr(name, gate)
    yield reached, go_on


@pytest.mark.parametrize(
    "where", ["truthloop.monitor.follow.write_states", "truthloop.monitor.recount.write_states"]
)
def test_a_leader_that_was_paused_in_the_middle_spoils_nothing_of_its_successors(
    store: Store, monkeypatch: pytest.MonkeyPatch, where: str
):
    store["metadata"].insert_many([metadata(f"{n}") for n in range(10)])
    current(store)
    if "recount" in where:
        follow.void(store)
    store["metadata"].insert_many([metadata(f"more {n}") for n in range(10)])
    failures: list[BaseException] = []

    def lead(holder: str) -> None:
        lease = leases.acquire(store, follow.LEASE_NAME, holder=holder, seconds=0.0)
        assert lease is not None
        beat = leases.renew(store, lease)
        try:
            follow.Leader(store, lease).lead(until_beat=beat)
        except (LeaseLost, DatabaseRefused, DatabaseUnavailable) as error:
            failures.append(error)

    with paused_in(where, monkeypatch) as (reached, go_on):
        paused = threading.Thread(target=lead, args=("paused",))
        paused.start()
        assert reached.wait(30)
        # With the paused one's transaction still open, its successor may have to wait for it to end.
        successor = threading.Thread(target=lead, args=("successor",))
        successor.start()
        successor.join(2)
        store["metadata"].delete_many({"image_id": {"$regex": "^more [0-4]"}})
        go_on.set()
        paused.join(60)
        successor.join(60)

    assert not paused.is_alive() and not successor.is_alive()
    assert_proved(store)
    assert len(images(store, limit=1000).items) == 15


def test_a_follower_survives_an_error_that_nobody_thought_of(store: Store, monkeypatch: pytest.MonkeyPatch):
    original, calls = follow.read_changed, itertools.count()

    def fails_once(*arguments: Any) -> Any:
        if next(calls) == 0:
            raise ZeroDivisionError
        return original(*arguments)

    current(store)
    monkeypatch.setattr(follow, "read_changed", fails_once)
    stop = threading.Event()
    thread = threading.Thread(target=follow.follow, args=(store, stop))
    thread.start()
    store["metadata"].insert_one(metadata("a"))
    try:
        wait_until(lambda: (kept := read_kept(store)) is not None and bool(sum(kept.figures.states.values())))
    finally:
        stop.set()
        thread.join()
    assert next(calls) > 1


def _follow_in_a_process(database: str, home: str) -> None:
    os.environ.update(TRUTHLOOP_DATABASE=database, TRUTHLOOP_HOME=home)
    with connect(load_settings(), create=True) as store:
        follow.follow(store, threading.Event())


def test_a_killed_leader_is_followed_by_another_and_the_figures_hold(store: Store, settings: Settings):
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_follow_in_a_process, args=(settings.database, str(settings.home))) for _ in range(2)
    ]
    for process in processes:
        process.start()
    try:
        wait_until(lambda: read_kept(store) is not None, seconds=60)
        for number in range(300):
            store["metadata"].insert_one(metadata(f"{number}"))
            if number == 150:
                assert processes[0].pid is not None
                os.kill(processes[0].pid, signal.SIGKILL)
        wait_until(lambda: status(store).images == 300)
    finally:
        for process in processes:
            process.kill()
            process.join()
    wait_until(lambda: follow.catch_up(store))
    assert_proved(store)


def test_a_leader_that_lost_its_lease_writes_nothing_more(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    old = leases.acquire(store, follow.LEASE_NAME, holder="old", seconds=0.0)
    new = leases.acquire(store, follow.LEASE_NAME, holder="new", seconds=60)
    assert old is not None and new is not None
    follow.Leader(store, new).lead(until_beat=leases.renew(store, new))
    leases.release(store, new)
    store["metadata"].insert_one(metadata("b"))
    before = store[follow.COLLECTION].find_one()

    with pytest.raises(leases.LeaseLost):
        follow.Leader(store, old).lead(until_beat=1)

    assert store[follow.COLLECTION].find_one() == before
    assert_proved(store)
