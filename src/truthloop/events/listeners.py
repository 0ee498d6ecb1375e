"""Those who wait for events: one in a thread of its own, or many on one event loop.

Each has a queue of its own with a limit. Who lets it overflow is cut off instead of slowing down the others, and
resumes from the last event that it has seen.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol, Self

from truthloop.events.documents import Event

# Events are shared between the queues, so a full one takes some 80 KB; a burst of this size cuts off nobody.
QUEUE_LIMIT = 10_000
# How many listeners of one loop are woken before its other work has a turn.
WOKEN_AT_ONCE = 16
# After each batch the loop rests for so long a listener, so that many listeners and many events together leave
# time for other requests: with 500 listeners there are at most ten batches a second.
REST_SECONDS_PER_LISTENER = 0.0002


class Sink(Protocol):
    """What the hub's reader passes events on to; its methods are called from the reader's thread."""

    def put(self, events: Sequence[Event]) -> None:
        """Takes events; never waits."""

    def end(self) -> None:
        """No more will come."""


class ThreadListener:
    """Waits for events in a thread of its own."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._queue: deque[Event] = deque()
        self._ended = False
        self.cut_off = False

    def put(self, events: Sequence[Event]) -> None:
        """Takes events; cuts this listener off when it has fallen too far behind."""
        with self._changed:
            if self._ended:
                return
            self._queue.extend(events)
            if len(self._queue) > self._limit:
                self.cut_off = self._ended = True
                self._queue.clear()
            self._changed.notify()

    def end(self) -> None:
        """Lets the listener finish what it has, then ends it."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        with self._changed:
            while not self._queue:
                if self._ended:
                    raise StopIteration
                self._changed.wait()
            return self._queue.popleft()


class LoopListener:
    """Waits for batches of events on an event loop; touched by that loop alone."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._limit = limit
        self._batches: deque[tuple[Event, ...]] = deque()
        self._length = 0
        self._awake = asyncio.Event()
        self._ended = False
        self.cut_off = asyncio.Event()

    def put(self, batch: tuple[Event, ...]) -> None:
        """Takes a batch; cuts this listener off when it has fallen too far behind."""
        if self._ended:
            return
        self._batches.append(batch)
        self._length += len(batch)
        if self._length > self._limit:
            self._batches.clear()
            self._ended = True
            self.cut_off.set()
        self._awake.set()

    def end(self) -> None:
        """Lets the listener finish what it has, then ends it."""
        self._ended = True
        self._awake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Event, ...]:
        while not self._batches:
            if self._ended:
                raise StopAsyncIteration
            self._awake.clear()
            await self._awake.wait()
        batch = self._batches.popleft()
        self._length -= len(batch)
        return batch


class LoopSink:
    """All listeners of one event loop: the reader wakes the loop once a batch, the loop wakes its listeners."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._listeners: dict[LoopListener, None] = {}  # touched on the loop alone
        self._lock = threading.Lock()  # guards what the reader's thread touches too
        self._pending: list[Event] = []
        self._scheduled = False
        self._ended = False
        self._rested_at = 0.0

    def add(self, listener: LoopListener) -> None:
        """Begins to pass events on to a listener; called on the loop."""
        self._listeners[listener] = None
        if self._ended:
            listener.end()

    def remove(self, listener: LoopListener) -> None:
        """Stops doing so; called on the loop."""
        self._listeners.pop(listener, None)

    def put(self, events: Sequence[Event]) -> None:
        """Takes events for all listeners of the loop."""
        with self._lock:
            self._pending.extend(events)
        self._wake()

    def end(self) -> None:
        """Ends all listeners of the loop, those to come too."""
        with self._lock:
            self._ended = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._scheduled:
                return
            self._scheduled = True
        try:
            self.loop.call_soon_threadsafe(self._after_rest)
        except RuntimeError:  # the loop is closed, and with it everyone who listened there
            return

    def _after_rest(self) -> None:
        rest = self._rested_at - self.loop.time()
        if rest > 0 and not self._ended:
            self.loop.call_later(rest, self._pass_on)
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            batch, self._pending = tuple(self._pending), []
            ends = self._ended
        self._round(batch, iter(tuple(self._listeners)), ends)

    def _round(self, batch: tuple[Event, ...], listeners: Iterator[LoopListener], ends: bool) -> None:
        some = tuple(islice(listeners, WOKEN_AT_ONCE))
        for listener in some:
            if batch:
                listener.put(batch)
            if ends:
                listener.end()
        if some:
            self.loop.call_soon(self._round, batch, listeners, ends)
            return
        self._rested_at = self.loop.time() + REST_SECONDS_PER_LISTENER * len(self._listeners)
        with self._lock:
            self._scheduled = False
            again = bool(self._pending) or (self._ended and not ends)
        if again:
            self._wake()
