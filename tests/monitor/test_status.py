"""The figures against a real MongoDB that other systems write into."""

import importlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor import reference
from truthloop.errors import (
    CursorRefused,
    DatabaseRefused,
    DatabaseUnavailable,
    FiguresBehind,
    InputRefused,
    LeaseLost,
)
from truthloop.monitor import follow, recount
from truthloop.monitor.documents import State, Status
from truthloop.monitor.status import PACE_SECONDS, images, pace, read_kept, status
from truthloop.settings import Settings, load_settings
from truthloop.store import lease as leases
from truthloop.store.connection import Store, connect
from truthloop.store.migrations import SOURCES


def metadata(image_id: str) -> dict[str, Any]:
    return {"image_id": image_id, "capture_timestamp": 1}


def prediction(image_id: str, model_version: str = "1.0.0") -> dict[str, Any]:
    return {"image_id": image_id, "bboxes": [], "model_version": model_version}


def audit(image_id: str, *, correct: bool, model_version: str = "1.0.0", timestamp: float = 1) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "model_version": model_version,
        "bbox_correct": correct,
        "auditor": "a@example.com",
        "task_version": "1.0.0",
        "timestamp": timestamp,
    }


def annotation(image_id: str) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "bbox": None,
        "annotator": "a@example.com",
        "task_version": "1.0.0",
        "timestamp": 1,
    }


def counts(found: Status) -> dict[str, int]:
    return {
        "images": found.images,
        "processed": found.processed.count,
        "correct": found.correct.count,
        "incorrect": found.incorrect.count,
        "corrected": found.corrected.count,
        "not_in_metadata": found.not_in_metadata,
    }


def read_all(store: Store) -> reference.Documents:
    return {name: list(store[name].find()) for name in SOURCES}


def current(store: Store) -> Status:
    """The status with everything counted that was written before, whatever its age."""
    assert follow.catch_up(store)
    return status(store)


def assert_proved(store: Store) -> None:
    found = current(store)
    assert counts(found) == reference.count(read_all(store))
    kept = read_kept(store)
    assert kept is not None
    assert kept.figures == recount.count(store)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


@pytest.fixture
def follower(store: Store) -> Iterator[None]:
    """The service's follower, on a thread of its own."""
    stop = threading.Event()
    thread = threading.Thread(target=follow.follow, args=(store, stop))
    thread.start()
    wait_for(lambda: read_kept(store) is not None)
    yield
    stop.set()
    thread.join()


def test_the_real_slice_has_the_figures_of_the_design(store: Store, face_slice: Path):
    for name in SOURCES:
        store[name].insert_many(json.loads((face_slice / f"{name}.json").read_text()))

    found = status(store)

    assert found.images == 2443
    assert found.processed.count == 2101
    assert (found.correct.count, found.incorrect.count, found.audited.count) == (488, 1021, 1509)
    assert found.corrected.count == 777
    assert found.processed.fraction == 2101 / 2443
    assert found.corrected.fraction == 777 / 2443
    assert found.corrected.fraction_of_incorrect == 777 / 1021
    assert found.waiting.unprocessed == 342
    assert found.waiting.uncorrected == 1021 - 777
    assert counts(found) == reference.count(read_all(store))


def test_an_empty_workspace_has_a_status(store: Store):
    found = status(store)

    assert found.images == 0
    assert found.processed.fraction is None


def test_other_systems_inserts_updates_and_deletes_are_counted(store: Store):
    store["metadata"].insert_many([metadata("a"), metadata("b")])
    assert current(store).images == 2

    store["bbox.model"].insert_one(prediction("a"))
    store["bbox.human_audit"].insert_one(audit("a", correct=True))
    assert counts(current(store)) | {"images": 2, "processed": 1, "correct": 1} == counts(current(store))

    store["bbox.human_audit"].update_one({"image_id": "a"}, {"$set": {"bbox_correct": False}})
    store["bbox.human_annotation"].insert_one(annotation("a"))
    assert current(store).corrected.count == 1

    store["bbox.human_annotation"].delete_many({})
    assert current(store).waiting.uncorrected == 1

    store["bbox.human_audit"].replace_one({"image_id": "a"}, audit("b", correct=True))
    found = current(store)
    assert (found.correct.count, found.incorrect.count, found.waiting.unaudited) == (1, 0, 1)

    store["metadata"].delete_one({"image_id": "a"})
    assert current(store).not_in_metadata == 1
    assert_proved(store)


def test_without_a_service_a_status_has_all_that_was_written_before_it(store: Store):
    for number in range(3):
        store["metadata"].insert_one(metadata(f"{number}"))
        assert status(store).images == number + 1
        assert len(images(store).items) == number + 1


def test_a_document_that_moves_to_another_image_changes_both(store: Store):
    store["metadata"].insert_many([metadata("a"), metadata("b")])
    store["bbox.model"].insert_one(prediction("a"))
    assert current(store).processed.count == 1

    store["bbox.model"].update_one({}, {"$set": {"image_id": "b"}})

    current(store)
    assert [item.image_id for item in images(store, State.PROCESSED).items] == ["b"]
    assert_proved(store)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"image_id": None},
        {"image_id": 7},
        {"image_id": ["a"]},
        {"image_id": {"a": 1}},
    ],
)
def test_documents_in_a_shape_that_no_reader_can_use_are_counted_nowhere_and_stop_nothing(
    store: Store, document: dict[str, Any]
):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    for name in SOURCES:
        store[name].insert_one(dict(document))
    store["bbox.human_audit"].insert_one({"image_id": "a", "bbox_correct": "yes"})
    store["bbox.model"].insert_one({"image_id": "a", "model_version": 3})

    found = current(store)

    assert (found.images, found.processed.count, found.audited.count) == (1, 0, 0)
    for name in SOURCES:
        store[name].delete_many({})
    assert current(store).images == 0


def test_several_metadata_documents_for_one_image_are_one_image(store: Store):
    store["metadata"].insert_many([metadata("a"), metadata("a")])
    assert current(store).images == 1

    store["metadata"].delete_one({"image_id": "a"})
    assert current(store).images == 1


@pytest.mark.parametrize("name", SOURCES)
def test_a_dropped_collection_is_counted_as_empty_and_followed_again(store: Store, name: str):
    store["metadata"].insert_one(metadata("a"))
    store["bbox.model"].insert_one(prediction("a"))
    current(store)

    store[name].drop()
    assert_proved(store)

    documents = {"metadata": metadata, "bbox.model": prediction, "bbox.human_annotation": annotation}
    store[name].insert_one(documents.get(name, lambda image_id: audit(image_id, correct=True))("b"))
    assert_proved(store)
    store[name].delete_one({"image_id": "b"})  # seen only if its pre-images are on again
    assert_proved(store)


def test_a_renamed_collection_is_counted(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    store["staging"].insert_many([metadata("b"), metadata("c")])

    store["staging"].rename("metadata", dropTarget=True)

    assert current(store).images == 2
    assert_proved(store)


def test_deletes_are_counted_though_somebody_switched_the_pre_images_off(store: Store):
    store["metadata"].insert_many([metadata("a"), metadata("b")])
    current(store)
    store.database.command({"collMod": "metadata", "changeStreamPreAndPostImages": {"enabled": False}})

    store["metadata"].delete_one({"image_id": "a"})

    assert current(store).images == 1
    store["metadata"].delete_one({"image_id": "b"})
    assert current(store).images == 0


def test_a_dropped_index_is_made_again(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    store["metadata"].drop_indexes()
    store["metadata"].insert_one(metadata("b"))

    assert current(store).images == 2


def test_a_resume_token_that_is_gone_means_a_recount(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    store[follow.COLLECTION].update_one({}, {"$set": {"token": {"_data": "8200000000"}}})
    store["metadata"].insert_one(metadata("b"))

    assert current(store).images == 2


def test_a_recount_that_was_stopped_half_way_is_done_again(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recount, "RANGE", 10)
    store["metadata"].insert_many([metadata(f"{n:03}") for n in range(100)])
    calls = itertools.count()

    def fail(_: int) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        status(store, progress=fail)
    store["metadata"].delete_many({"image_id": {"$lt": "050"}})

    assert status(store).images == 50
    assert_proved(store)
    assert len(images(store, limit=1000).items) == 50


def test_void_figures_are_counted_anew(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    store[follow.COLLECTION].update_one({}, {"$set": {"states": {"unprocessed unaudited unannotated": 99}}})
    assert status(store).images == 99

    follow.void(store)

    assert status(store).images == 1


def test_figures_that_are_behind_say_so_instead_of_waiting(store: Store):
    with pytest.raises(FiguresBehind):
        status(store, catch_up=False)
    with pytest.raises(FiguresBehind):
        images(store, catch_up=False)


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
    wait_for(lambda: read_kept(store) is not None and status(store, catch_up=False).images == 2000)


@pytest.mark.usefixtures("follower")
def test_one_follower_leads_and_a_reader_needs_no_lease(store: Store):
    assert not follow.catch_up(store)
    assert status(store).images == 0


@pytest.mark.usefixtures("follower")
def test_a_follower_goes_on_after_its_figures_were_declared_void(store: Store):
    store["metadata"].insert_one(metadata("a"))
    follow.void(store)

    wait_for(lambda: read_kept(store) is not None)
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


def test_documents_that_python_cannot_hold_stop_neither_follower_nor_recount(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    far = bson.encode({"image_id": "a", "model_version": "1", "bbox_correct": True, "task_version": "1"})
    far_date = b"\x09timestamp\x00" + (2**62).to_bytes(8, "little")
    not_utf8 = bson.encode({"image_id": "aXb"}).replace(b"aXb", b"a\xffb")
    store["bbox.human_audit"].insert_one(RawBSONDocument(_with(far, far_date)))
    store["metadata"].insert_one(RawBSONDocument(not_utf8))
    store["metadata"].insert_one(metadata("b"))

    assert current(store).images == 2
    assert status(store).audited.count == 0
    follow.void(store)
    assert status(store).images == 2
    store["metadata"].delete_many({"image_id": {"$ne": "a"}})
    assert current(store).images == 1


def _with(document: bytes, element: bytes) -> bytes:
    """A BSON document with one more element at its end."""
    return (len(document) + len(element)).to_bytes(4, "little") + document[4:-1] + element + b"\x00"


def test_ids_that_are_too_long_for_an_id_are_passed_over(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    store["metadata"].insert_many([metadata("x" * 6_000_000 + f"{n}") for n in range(3)])

    assert current(store).images == 1
    follow.void(store)
    assert status(store).images == 1


def test_ids_that_are_lists_do_not_cut_a_recount_short(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recount, "RANGE", 3)
    store["metadata"].insert_many([metadata(f"{n:02}") for n in range(20)])
    store["metadata"].insert_many([{"image_id": ["03", "zz"]}, {"image_id": ["07"]}, {"image_id": ["11", "12"]}])

    assert status(store).images == 20


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
        wait_for(lambda: (kept := read_kept(store)) is not None and bool(sum(kept.figures.states.values())))
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
        wait_for(lambda: read_kept(store) is not None, seconds=60)
        for number in range(300):
            store["metadata"].insert_one(metadata(f"{number}"))
            if number == 150:
                assert processes[0].pid is not None
                os.kill(processes[0].pid, signal.SIGKILL)
        wait_for(lambda: status(store).images == 300)
    finally:
        for process in processes:
            process.kill()
            process.join()
    wait_for(lambda: follow.catch_up(store))
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


def test_images_are_listed_by_state_page_by_page(store: Store):
    store["metadata"].insert_many([metadata(f"{n}") for n in range(10)])
    store["bbox.model"].insert_many([prediction(f"{n}") for n in range(0, 10, 2)])

    first = images(store, State.PROCESSED, limit=3)
    second = images(store, State.PROCESSED, limit=3, after=first.next)

    assert [item.image_id for item in first.items] == ["0", "2", "4"]
    assert [item.image_id for item in second.items] == ["6", "8"]
    assert second.next is None
    assert first.items[0].states == [State.PROCESSED, State.UNAUDITED]
    assert len(images(store).items) == 10


@pytest.mark.parametrize("state", list(State))
def test_the_list_behind_each_figure_has_as_many_images_as_the_figure_says(store: Store, state: State):
    for number, (predicted, correct, annotated) in enumerate(
        itertools.product((True, False), (None, True, False), (True, False))
    ):
        image_id = f"{number}"
        store["metadata"].insert_one(metadata(image_id))
        if predicted:
            store["bbox.model"].insert_one(prediction(image_id))
        if correct is not None:
            store["bbox.human_audit"].insert_one(audit(image_id, correct=correct))
        if annotated:
            store["bbox.human_annotation"].insert_one(annotation(image_id))
    store["bbox.model"].insert_one(prediction("in no metadata"))

    found = current(store)
    listed = len(images(store, state).items)

    figure = getattr(found, state, None)
    assert listed == (figure.count if figure is not None else getattr(found.waiting, state))


def test_bad_queries_for_images_are_refused_by_name(store: Store):
    with pytest.raises(InputRefused, match="limit is 0"):
        images(store, limit=0)
    with pytest.raises(InputRefused, match="state is wrong: it must be one of processed"):
        images(store, "wrong")
    with pytest.raises(CursorRefused):
        images(store, after="")


ids = st.sampled_from(["a", "b", "c"])
versions = st.sampled_from(["9.0.0", "10.0.0"])
inserts = st.one_of(
    st.tuples(st.just("metadata"), ids.map(metadata)),
    st.tuples(st.just("bbox.model"), st.builds(prediction, ids, versions)),
    st.tuples(
        st.just("bbox.human_audit"),
        st.builds(
            lambda image_id, correct, version, timestamp: audit(
                image_id, correct=correct, model_version=version, timestamp=timestamp
            ),
            ids,
            st.booleans(),
            versions,
            st.integers(1, 3),
        ),
    ),
    st.tuples(st.just("bbox.human_annotation"), ids.map(annotation)),
)
changes = st.one_of(
    inserts,
    inserts,
    st.tuples(st.just("delete"), st.sampled_from(SOURCES)),
    st.tuples(st.just("move"), st.tuples(st.sampled_from(SOURCES), ids)),
    st.tuples(st.just("catch up"), st.none()),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(changes, max_size=25))
def test_after_any_series_of_writes_the_figures_are_those_of_the_brief(
    store: Store, series: list[tuple[str, Any]]
):
    for name in SOURCES:
        store[name].delete_many({})
    for kind, what in series:
        match kind:
            case "delete":
                store[what].delete_one({})
            case "move":
                store[what[0]].update_one({}, {"$set": {"image_id": what[1]}})
            case "catch up":
                current(store)
            case _:
                store[kind].insert_one(dict(what))
    assert_proved(store)
