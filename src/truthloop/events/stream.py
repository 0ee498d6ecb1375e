"""Reading the event log: page by page, or live from the change stream.

One thread a process reads the change stream and passes events on to all who listen (see listeners.py). Gaps are
impossible, repeats are possible after a resumption: passed_on.py says why, docs/events.md what is promised.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Self

from pydantic import ValidationError
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from truthloop.errors import DatabaseUnavailable, InputRefused, TruthloopError
from truthloop.events.documents import Event, EventPage
from truthloop.events.listeners import LoopListener, LoopSink, Sink, ThreadListener
from truthloop.events.order import in_sequence
from truthloop.events.passed_on import (
    RESCAN_MS,
    PassedOn,
    checked_cursor,
    first_id_at,
    id_time_ms,
    rescan_from,
)
from truthloop.events.record import COLLECTION
from truthloop.logs import get_logger
from truthloop.store.connection import Store, translated

Document = dict[str, Any]

MAX_PAGE = 1000
# How long the server holds a read of the change stream open; also how long closing may have to wait for it.
AWAIT_MS = 500
# How long a listener waits for a hub's first change stream before it is told what is wrong.
OPEN_SECONDS = 10.0
# Between two attempts to open the change stream again.
RETRY_SECONDS = 0.5

log = get_logger(__name__)


def list_events(store: Store, *, after: str | None, limit: int) -> EventPage:
    """A page of the log in the order of the events' ids, which is nearly that of their time.

    An event becomes visible when its transaction ends, up to 60 s after its id was made: paging alone can pass
    it by. Who must not miss any follows the stream.

    Args:
        store: where the log is.
        after: the `next` of the page before, or an event's id; it need not be in the log.
        limit: how many events at most, 1 to 1,000.

    Raises:
        CursorRefused: `after` isn't an event's id.
        InputRefused: `limit` is out of range.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InputRefused(
            f"limit is {limit}; give 1 to {MAX_PAGE}.", errors={"limit": f"must be 1 to {MAX_PAGE}"}
        )
    query = {} if after is None else {"_id": {"$gt": checked_cursor(after)}}
    with store.errors():
        documents = list(store[COLLECTION].find(query).sort("_id", 1).limit(limit + 1))
    page = documents[:limit]
    return EventPage(items=_events(page), next=page[-1]["_id"] if len(documents) > limit else None)


class EventHub:
    """The live events of a workspace, for all who listen in this process.

    The reader's thread starts with the first listener. Close the hub to end it and all open streams.
    """

    def __init__(self, store: Store, *, in_sequence_within: int = MAX_PAGE) -> None:
        """A hub; nothing is read before the first listener.

        Args:
            store: where the log is.
            in_sequence_within: how many events of a rescan are put in the order of their sequences at a time;
                each rescan holds so many in memory.
        """
        self._in_sequence_within = in_sequence_within
        self._store = store
        self._lock = threading.Lock()  # guards the sinks and the start of the reader
        self._sinks: dict[Sink, None] = {}
        self._loops: dict[asyncio.AbstractEventLoop, LoopSink] = {}
        self._reader: threading.Thread | None = None
        self._closing = threading.Event()
        self._open: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._failure: TruthloopError | None = None
        self._passed = PassedOn()  # touched by the reader alone, as are the next two
        self._last: str | None = None
        self._began_ms = 0
        self._read_to: tuple[Any, Any] = (None, None)

    @property
    def closed(self) -> bool:
        """Whether the hub has been closed."""
        return self._closing.is_set()

    def close(self) -> None:
        """Ends the reader and all open streams; twice does no harm."""
        with self._lock:
            self._closing.set()
            sinks = tuple(self._sinks)
            reader = self._reader
            if not self._open.done():
                self._open.set_exception(_stopping())
        for sink in sinks:
            sink.end()
        if reader is not None and reader is not threading.current_thread():
            # A reader that waits for a server that is gone takes longer; it is a daemon and ends by itself.
            reader.join(timeout=4 * AWAIT_MS / 1000)

    def follow(self, after: str | None = None) -> Iterator[Event]:
        """The events from now on, or all since an event, until the hub is closed; blocks between them.

        Listening begins with the call, not with the first `next`. One who falls too far behind is resumed
        behind the scenes.

        Args:
            after: the id of the last event seen; those of the 120 s before it come once more.

        Raises:
            CursorRefused: `after` isn't an event's id.
            DatabaseUnavailable, DatabaseRefused: the change stream can't be opened.
        """
        if after is not None:
            checked_cursor(after)
        return self._follow(after, self._listen_in_thread())

    @asynccontextmanager
    async def listen(self, after: str | None = None) -> "AsyncIterator[Batches]":
        """The same for an event loop: `async with hub.listen(after) as batches: async for events in batches`.

        Listening has begun when the context is entered. Events come in batches; listeners share them. They end
        when the hub is closed, or when this listener fell too far behind: `cut_off` is set then.
        """
        if after is not None:
            checked_cursor(after)
        loop = asyncio.get_running_loop()
        listener = LoopListener()
        sink = self._loop_sink(loop)
        sink.add(listener)
        try:
            self._start()
            opened = asyncio.wrap_future(self._open)
            # Not by wait_for, which would cancel what all wait for.
            await asyncio.wait((opened,), timeout=OPEN_SECONDS)
            if not opened.done():
                opened.add_done_callback(lambda late: late.cancelled() or late.exception())
                raise self._not_open()
            opened.result()
            yield Batches(self, listener, after)
        finally:
            sink.remove(listener)

    def rescan(self, after: str) -> Iterator[list[Event]]:
        """Pages of the log from 120 s before an event up to what it holds now; a listener stands already.

        What is written later comes to the listener, however long the pages take.
        """
        start = rescan_from(after, now_ms=_now_ms())
        with self._store.errors(), self._store.client.start_session() as session:
            # A server chosen after a failover must know at least what the reader has been shown.
            cluster_time, operation_time = self._read_to
            if operation_time is not None:
                session.advance_cluster_time(cluster_time)
                session.advance_operation_time(operation_time)
            yield from self._pages(start, session)

    def _log(self) -> Collection[Document]:
        # Only what a majority has can't be taken back; the change stream shows nothing else either.
        return self._store[COLLECTION].with_options(read_concern=ReadConcern("majority"))

    # Listeners

    def _listen_in_thread(self) -> ThreadListener:
        listener = ThreadListener()
        with self._lock:
            self._sinks[listener] = None
        try:
            self._start()
            self._open.result(timeout=OPEN_SECONDS)
        except BaseException as error:
            self._forget(listener)
            if isinstance(error, TimeoutError):
                raise self._not_open() from None
            raise
        return listener

    def _follow(self, after: str | None, listener: ThreadListener) -> Iterator[Event]:
        passed = PassedOn()
        if after is not None:
            passed.add(after, now_ms=_now_ms())
        try:
            while True:
                if after is not None:
                    for page in self.rescan(after):
                        for event in page:
                            if passed.add(event.id, now_ms=_now_ms()):
                                after = event.id
                                yield event
                for event in listener:
                    if passed.add(event.id, now_ms=_now_ms()):
                        after = event.id
                        yield event
                if not listener.cut_off:
                    return
                log.warning("event_listener_resumed", after=after)
                self._forget(listener)
                listener = self._listen_in_thread()
        finally:
            self._forget(listener)

    def _forget(self, sink: Sink) -> None:
        with self._lock:
            self._sinks.pop(sink, None)

    def _loop_sink(self, loop: asyncio.AbstractEventLoop) -> LoopSink:
        with self._lock:
            if loop not in self._loops:
                for gone in [known for known in self._loops if known.is_closed()]:
                    self._sinks.pop(self._loops.pop(gone))
                self._loops[loop] = LoopSink(loop)
                self._sinks[self._loops[loop]] = None
                if self._closing.is_set():
                    self._loops[loop].end()
            return self._loops[loop]

    def _not_open(self) -> TruthloopError:
        return self._failure or DatabaseUnavailable(
            "The event stream could not be opened in time. `truthloop doctor` says what is wrong; then try again."
        )

    # The reader

    def _start(self) -> None:
        with self._lock:
            if self._closing.is_set():
                raise _stopping()
            if self._reader is None:
                self._began_ms = _now_ms()
                self._reader = threading.Thread(target=self._run, name="truthloop-events", daemon=True)
                self._reader.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._read()
            except PyMongoError as error:
                if self._closing.is_set():
                    return
                self._failure = translated(error, self._store.settings)
                log.warning("event_stream_lost", error=str(self._failure))
                self._closing.wait(RETRY_SECONDS)
            except Exception:
                # The thread must not end while others listen to it.
                log.exception("event_reader_failed")
                self._closing.wait(RETRY_SECONDS)

    def _read(self) -> None:
        """Passes on what the change stream shows, until the hub closes or the stream breaks.

        PyMongo resumes by itself while the server still has the place; what it raises means that the place is
        gone, and the log is scanned again from 120 s before the last event passed on.
        """
        events = self._store[COLLECTION]
        with (
            self._store.client.start_session() as session,
            events.watch(
                [{"$match": {"operationType": "insert"}}, {"$project": {"fullDocument": 1}}],
                session=session,
                max_await_time_ms=AWAIT_MS,
            ) as changes,
        ):
            # The change stream is open, so nothing falls between it and the scan.
            self._scan(session)
            with self._lock:
                if not self._open.done():
                    self._open.set_result(None)
            while not self._closing.is_set():
                change = changes.try_next()
                self._read_to = (session.cluster_time, session.operation_time)
                if change is not None and "fullDocument" in change:
                    self._pass_on(_events([change["fullDocument"]]))

    def _scan(self, session: ClientSession) -> None:
        now_ms = _now_ms()
        if self._open.done():
            # Nothing passed on yet: nobody can have missed what was there before the first listener came.
            start = (
                first_id_at(self._began_ms - RESCAN_MS)
                if self._last is None
                else rescan_from(self._last, now_ms=now_ms)
            )
            for page in self._pages(start, session):
                self._pass_on(page)
        else:
            # What is there before the first listener's stream is open is not new to anyone.
            for page in self._pages(first_id_at(now_ms - RESCAN_MS), session):
                for event in page:
                    self._passed.add(event.id, now_ms=now_ms)

    def _pages(self, start: str, session: ClientSession) -> Iterator[list[Event]]:
        documents = _pages(self._log(), start, session)
        events = (event for page in documents for event in _events(page))
        ordered = in_sequence(events, within=self._in_sequence_within)
        while page := list(islice(ordered, MAX_PAGE)):
            yield page

    def _pass_on(self, events: Sequence[Event]) -> None:
        now_ms = _now_ms()
        fresh = [event for event in events if self._passed.add(event.id, now_ms=now_ms)]
        if not fresh:
            return
        self._last = fresh[-1].id
        with self._lock:
            sinks = tuple(self._sinks)
        for sink in sinks:
            sink.put(fresh)


class Batches:
    """What `EventHub.listen` gives: batches of events, first those of the rescan, then the live ones."""

    def __init__(self, hub: EventHub, listener: LoopListener, after: str | None) -> None:
        self._listener = listener
        self._passed = PassedOn()
        self._pages: Iterator[list[Event]] | None = None
        if after is not None:
            self._passed.add(after, now_ms=_now_ms())
            self._pages = hub.rescan(after)

    @property
    def cut_off(self) -> asyncio.Event:
        """Set when this listener fell too far behind and must resume."""
        return self._listener.cut_off

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Event, ...]:
        batch = await self.within(None)
        assert batch is not None  # there is no limit to the waiting
        return batch

    async def within(self, seconds: float | None) -> tuple[Event, ...] | None:
        """The next batch, or None if so many seconds brought none.

        Raises:
            StopAsyncIteration: there will be no more.
            DatabaseUnavailable, DatabaseRefused: the log can't be read for the resumption.
        """
        while self._pages is not None:
            # In threads of the loop's own executor: FastAPI's pool stays free for requests.
            page = await asyncio.to_thread(next, self._pages, None)
            if page is None:
                self._pages = None
            elif fresh := tuple(event for event in page if self._passed.add(event.id, now_ms=_now_ms())):
                return fresh
        try:
            async with asyncio.timeout(seconds):
                while True:
                    batch = await anext(self._listener)
                    if fresh := self._without_passed(batch):
                        return fresh
        except TimeoutError:
            return None

    def _without_passed(self, batch: tuple[Event, ...]) -> tuple[Event, ...]:
        if not self._passed:
            return batch
        if id_time_ms(batch[0].id) > self._passed.newest_ms + RESCAN_MS:
            self._passed = PassedOn()  # nothing that the rescan found can come any more
            return batch
        return tuple(event for event in batch if event.id not in self._passed)


def _pages(events: Collection[Document], start: str, session: ClientSession) -> Iterator[list[Document]]:
    """The log from an id up to the last that is there now, in pages.

    The end is fixed first: a scan that chased the growing log would run ahead of a slow transaction's event that
    waits in the listener's queue, and who resumed from there could miss it.
    """
    newest = events.find_one({}, {"_id": 1}, sort=[("_id", -1)], session=session)
    if newest is None:
        return
    bounds = {"$gte": start, "$lte": newest["_id"]}
    while page := list(events.find({"_id": bounds}, session=session).sort("_id", 1).limit(MAX_PAGE)):
        yield page
        bounds = {"$gt": page[-1]["_id"], "$lte": newest["_id"]}


def _events(documents: Sequence[Document]) -> list[Event]:
    events = []
    for document in documents:
        try:
            checked_cursor(document["_id"])
            events.append(Event.of(document))
        except (ValidationError, InputRefused):
            # Written by hand, past Truthloop; one such document must not stop everyone's stream.
            log.error("event_unreadable", id=str(document["_id"]))
    return events


def _stopping() -> DatabaseUnavailable:
    return DatabaseUnavailable("Truthloop is stopping. Try again when it is up.")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
