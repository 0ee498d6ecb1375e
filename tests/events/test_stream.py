"""Reading the log, page by page and live, on a real MongoDB."""

import asyncio
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pymongo.change_stream import ChangeStream
from pymongo.errors import OperationFailure

from events.log import backdated, write, write_many
from predict.given import wait_until
from truthloop.errors import CursorRefused, DatabaseUnavailable, InputRefused, Unavailable
from truthloop.events import listeners
from truthloop.events.passed_on import first_id_at
from truthloop.events.record import COLLECTION, record
from truthloop.events.stream import EventHub, list_events
from truthloop.store import embedded
from truthloop.store.connection import Store, connect

DEADLINE_SECONDS = 60.0


@pytest.fixture
def hub(store: Store) -> Iterator[EventHub]:
    hub = EventHub(store)
    yield hub
    hub.close()


class Follower:
    """Someone who follows in a thread."""

    def __init__(self, hub: EventHub, after: str | None = None) -> None:
        events = hub.follow(after)
        self._seen: queue.Queue = queue.Queue()
        self.thread = threading.Thread(target=self._run, args=(events,), daemon=True)
        self.thread.start()

    def _run(self, events) -> None:
        for event in events:
            self._seen.put(event)
        self._seen.put(None)

    def take(self, number: int) -> list[str]:
        """The subjects of the next events."""
        return [self._seen.get(timeout=DEADLINE_SECONDS).subject for _ in range(number)]

    def has_ended(self) -> bool:
        self.thread.join(DEADLINE_SECONDS)
        return not self.thread.is_alive() and self._seen.get_nowait() is None


# Pages


def test_pages_give_every_event_once_in_order(store):
    written = [write(store, f"s{number}") for number in range(7)]

    seen, after = [], None
    while True:
        page = list_events(store, after=after, limit=3)
        seen += [event.id for event in page.items]
        after = page.next
        if after is None:
            break

    assert seen == written


def test_a_log_without_events_is_an_empty_last_page(store):
    page = list_events(store, after=None, limit=10)

    assert (page.items, page.next) == ([], None)


def test_a_page_that_ends_with_the_log_has_no_next(store):
    write_many(store, ["a", "b"])

    assert list_events(store, after=None, limit=2).next is None


def test_a_malformed_cursor_is_refused(store):
    with pytest.raises(CursorRefused):
        list_events(store, after="5", limit=10)


@pytest.mark.parametrize("limit", [-1, 0, 1001])
def test_a_page_of_an_impossible_size_is_refused(store, limit):
    with pytest.raises(InputRefused):
        list_events(store, after=None, limit=limit)


def test_an_event_written_past_truthloop_stops_nobody(store):
    store.database.command("collMod", COLLECTION, validator={})
    store[COLLECTION].insert_one({"_id": "by hand"})
    write(store, "a")

    assert [event.subject for event in list_events(store, after=None, limit=10).items] == ["a"]


# Live


def test_a_follower_sees_what_is_written_after_it_began(store, hub):
    write(store, "before")
    follower = Follower(hub)
    write(store, "a")
    write_many(store, ["b", "c"])

    assert follower.take(3) == ["a", "b", "c"]


def test_an_event_of_a_transaction_that_was_undone_is_never_seen(store, hub):
    follower = Follower(hub)

    def work(session):
        record(store, session, type="a.b", subject="undone", source="/tests", sequence=1, data={})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.transaction(work)
    write(store, "done")

    assert follower.take(1) == ["done"]


def test_several_followers_each_see_every_event_once_in_order(store, hub):
    followers = [Follower(hub) for _ in range(5)]
    for number in range(20):
        write(store, str(number))

    assert [follower.take(20) for follower in followers] == [[str(number) for number in range(20)]] * 5


def test_who_resumes_gets_what_was_written_meanwhile(store, hub):
    seen = write(store, "seen")
    write(store, "missed")
    follower = Follower(hub, after=seen)
    write(store, "live")

    assert follower.take(2) == ["missed", "live"]


def test_who_resumes_gets_an_older_id_that_became_visible_later(store, hub):
    """The event of a slow transaction: its id is older than the last one seen."""
    seen = write(store, "seen")
    backdated(store, "slow", seconds=60)
    follower = Follower(hub, after=seen)

    assert follower.take(1) == ["slow"]


def test_who_resumes_is_not_sent_what_is_older_than_120_seconds_before(store, hub):
    seen = write(store, "seen")
    backdated(store, "old", seconds=200)
    follower = Follower(hub, after=seen)
    write(store, "new")

    assert follower.take(1) == ["new"]


def test_a_long_resumption_misses_nothing_and_repeats_nothing(store, hub):
    first = write(store, "first")
    write_many(store, [str(number) for number in range(1500)])
    follower = Follower(hub, after=first)
    write_many(store, [str(number) for number in range(1500, 2000)])

    assert sorted(map(int, follower.take(2000))) == list(range(2000))


def test_a_malformed_resumption_is_refused_at_once(hub):
    with pytest.raises(CursorRefused):
        hub.follow("5")


def test_closing_the_hub_ends_what_is_open(store, hub):
    followers = [Follower(hub) for _ in range(3)]
    hub.close()

    assert all(follower.has_ended() for follower in followers)


def test_a_closed_hub_takes_no_new_listener(hub):
    hub.close()

    with pytest.raises(DatabaseUnavailable):
        hub.follow()


def test_who_is_too_slow_in_a_terminal_is_resumed_without_a_gap(store, hub, monkeypatch):
    monkeypatch.setattr(listeners.ThreadListener.__init__, "__defaults__", (10,))
    events = hub.follow()
    write(store, "first")
    assert next(events).subject == "first"
    for number in range(30):
        write(store, str(number))
    other = Follower(hub, after=first_id_at(0))
    assert len(other.take(31)) == 31  # all of them have gone past by now

    assert [next(events).subject for _ in range(30)] == [str(number) for number in range(30)]


# Losing the change stream


@contextmanager
def broken_change_streams(monkeypatch) -> Iterator[threading.Event]:
    """While it lasts, every read of a change stream fails as when its place in the oplog is gone."""
    broken = threading.Event()
    read = ChangeStream.try_next

    def try_next(stream):
        if broken.is_set():
            raise OperationFailure("Resume of change stream was not possible", code=286)
        return read(stream)

    with monkeypatch.context() as patch:
        patch.setattr(ChangeStream, "try_next", try_next)
        yield broken


def test_after_the_change_stream_was_lost_nothing_is_missing_and_nothing_comes_twice(store, hub, monkeypatch):
    with broken_change_streams(monkeypatch) as broken:
        follower = Follower(hub)
        write(store, "before")
        assert follower.take(1) == ["before"]
        broken.set()
        write_many(store, ["meanwhile 1", "meanwhile 2"])
        backdated(store, "slow", seconds=50)
        broken.clear()
        write(store, "after")
        write(store, "last")

        assert sorted(follower.take(5)) == ["after", "last", "meanwhile 1", "meanwhile 2", "slow"]


def test_a_change_stream_lost_before_the_first_event_misses_nothing(store, hub, monkeypatch):
    with broken_change_streams(monkeypatch) as broken:
        write(store, "old news")
        follower = Follower(hub)
        broken.set()
        write(store, "meanwhile")
        broken.clear()
        write(store, "after")

        assert sorted(follower.take(2)) == ["after", "meanwhile"]


def test_a_cursor_killed_on_the_server_is_not_noticed(store, hub):
    follower = Follower(hub)
    write(store, "a")
    assert follower.take(1) == ["a"]
    cursors = [
        operation["cursor"]["cursorId"]
        for operation in store.client.admin.aggregate(
            [{"$currentOp": {"idleCursors": True, "allUsers": True}}, {"$match": {"cursor": {"$exists": True}}}]
        )
        if operation["ns"] == f"{store.database.name}.{COLLECTION}"
    ]
    if cursors:
        store.database.command("killCursors", COLLECTION, cursors=cursors)
    write(store, "b")

    assert follower.take(1) == ["b"]


def test_after_mongodb_was_killed_and_came_back_nothing_is_missing(settings, tmp_path_factory):
    home = tmp_path_factory.mktemp("killed") / ".truthloop"
    try:
        with connect(settings.model_copy(update={"home": home}), create=True) as store:
            hub = EventHub(store)
            follower = Follower(hub)
            write(store, "before")
            assert follower.take(1) == ["before"]

            os.kill(embedded.inspect(home).mongod_pid, signal.SIGKILL)
            write_once_it_is_back(store, "after")

            assert follower.take(1) == ["after"]
            hub.close()
    finally:
        embedded.stop(home)


def write_once_it_is_back(store: Store, subject: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            write(store, subject)
            return
        except Unavailable:
            assert time.monotonic() < deadline, "MongoDB did not come back"


# On an event loop


async def subjects(batches, number: int) -> list[str]:
    seen: list[str] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(seen) < number:
            seen += [event.subject for event in await anext(batches)]
    return seen


def test_many_listeners_on_a_loop_each_see_every_event_once_in_order(store, hub):
    async def listener(started: asyncio.Barrier) -> list[str]:
        async with hub.listen() as batches:
            await started.wait()
            return await subjects(batches, 100)

    async def all_of_them() -> list[list[str]]:
        started = asyncio.Barrier(101)
        tasks = [asyncio.create_task(listener(started)) for _ in range(100)]
        await started.wait()
        for number in range(100):
            await asyncio.to_thread(write, store, str(number))
        return await asyncio.gather(*tasks)

    assert asyncio.run(all_of_them()) == [[str(number) for number in range(100)]] * 100


def test_a_loop_is_woken_once_for_events_that_come_together(store, hub):
    async def batches_seen() -> int:
        async with hub.listen() as batches:
            await asyncio.to_thread(write, store, "a")
            assert await subjects(batches, 1) == ["a"]
            loop = asyncio.get_running_loop()
            sink = hub._loops[loop]
            wakings = []
            wake = loop.call_soon_threadsafe
            loop.call_soon_threadsafe = lambda *call: (wakings.append(call[0]), wake(*call))[1]
            written = write_many(store, [str(number) for number in range(50)])  # on purpose without giving way
            wait_until(lambda: written[-1] in hub._passed)
            assert len(await subjects(batches, 50)) == 50
            return sum(call == sink._after_rest for call in wakings)

    assert asyncio.run(batches_seen()) == 1


def test_a_listener_on_a_loop_resumes(store, hub):
    seen = write(store, "seen")
    write(store, "missed")

    async def resumed() -> list[str]:
        async with hub.listen(seen) as batches:
            await asyncio.to_thread(write, store, "live")
            return await subjects(batches, 2)

    assert asyncio.run(resumed()) == ["missed", "live"]


def test_a_listener_that_is_too_slow_is_cut_off_and_the_others_are_not(store, hub, monkeypatch):
    monkeypatch.setattr(listeners.LoopListener.__init__, "__defaults__", (20,))

    async def both() -> list[str]:
        async with hub.listen() as slow, hub.listen() as quick:
            seen = []
            for number in range(30):
                await asyncio.to_thread(write, store, str(number))
                seen += await subjects(quick, 1)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await slow.cut_off.wait()
                assert [batch async for batch in slow] == []
            assert not quick.cut_off.is_set()
            return seen

    assert asyncio.run(both()) == [str(number) for number in range(30)]


def test_closing_the_hub_ends_listeners_on_a_loop(store, hub):
    async def until_closed() -> list:
        async with hub.listen() as batches:
            await asyncio.to_thread(hub.close)
            async with asyncio.timeout(DEADLINE_SECONDS):
                return [batch async for batch in batches]

    assert asyncio.run(until_closed()) == []


def test_a_loop_that_is_gone_does_not_stop_the_reader(store, hub):
    async def leave() -> None:
        async with hub.listen():
            pass

    asyncio.run(leave())
    follower = Follower(hub)
    write(store, "a")

    assert follower.take(1) == ["a"]
