"""Reading from Kafka what the log holds, for the check of a run."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from truthloop.errors import SettingRefused, TruthloopError
from truthloop.events.documents import Event
from truthloop.events.from_kafka import KafkaEvents
from truthloop.settings import Settings
from truthloop.simulate.verify import Arrivals, Told

# Messages that are on their way to the check.
_HELD = 10_000
# How long the check waits for a message before it looks at the clock.
_LOOK_SECONDS = 0.2


def read_kafka(
    settings: Settings,
    arrivals: Arrivals,
    *,
    after: str,
    patience_seconds: float,
    hurry: threading.Event,
    progress: Callable[[int, int], None],
) -> str | None:
    """Takes in all that Kafka has: what comes while events are missing, then all up to the ends as they are then.

    So it is seen as well what came after the last event that was missing.

    Args:
        settings: where Kafka is.
        arrivals: gets each event of a job.
        after: the id of an event before all that matter.
        patience_seconds: for how long nothing may come.
        hurry: ends the reading when it is set.
        progress: is told how many of the events have come, and how many there are.

    Returns:
        Why Kafka wasn't read to its ends, so that nothing can be said of what is missing; None if it was.
    """
    total = arrivals.missing
    with _reading(settings, after, follow=True, patience_seconds=patience_seconds) as reading:
        last = time.monotonic()
        while arrivals.missing and not _is_over(reading, last, patience_seconds, hurry):
            progress(total - arrivals.missing, total)
            missing = arrivals.missing
            reading.take(arrivals)
            if arrivals.missing < missing:
                last = time.monotonic()
    if reading.trouble is not None:
        return reading.trouble
    with _reading(settings, after, follow=False, patience_seconds=patience_seconds) as reading:
        last = time.monotonic()
        while not _is_over(reading, last, patience_seconds, hurry):
            progress(total - arrivals.missing, total)
            if reading.take(arrivals):
                last = time.monotonic()
        if reading.is_over and reading.trouble is None:
            return None
    return reading.trouble or f"Kafka wasn't read to its end: nothing more came for {patience_seconds:g} s."


@dataclass(slots=True)
class _Reading:
    """What a thread reads."""

    messages: "queue.Queue[tuple[str, Told]]" = field(default_factory=lambda: queue.Queue(_HELD))
    trouble: str | None = None  # why Kafka doesn't answer now
    ended: bool = False  # the thread reads no more
    failure: BaseException | None = None  # one of our own making

    @property
    def is_over(self) -> bool:
        """Whether all that was read is taken, and no more will come."""
        return self.ended and self.messages.empty()

    def take(self, arrivals: Arrivals) -> bool:
        """Waits a moment for a message; whether one came."""
        try:
            arrivals.add(*self.messages.get(timeout=_LOOK_SECONDS))
        except queue.Empty:
            return False
        return True


def _is_over(reading: _Reading, last: float, patience_seconds: float, hurry: threading.Event) -> bool:
    return reading.is_over or hurry.is_set() or time.monotonic() - last > patience_seconds


@contextmanager
def _reading(settings: Settings, after: str, *, follow: bool, patience_seconds: float) -> Iterator[_Reading]:
    """Reads on a thread of its own: whatever Kafka's client waits for, the check keeps its time."""
    reading, stop = _Reading(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                events = KafkaEvents(settings, follow=follow, after=after, stop=stop)
                reading.trouble = None
                for event in events:
                    if event.entity == "job":
                        _put(reading.messages, (event.subject, _told(event)), stop)
                if not follow:
                    return
            except SettingRefused as refused:  # no waiting mends it
                reading.trouble = str(refused)
                return
            except TruthloopError as error:  # the brokers may come back
                reading.trouble = str(error)
                stop.wait(_LOOK_SECONDS)

    def work() -> None:
        try:
            read()
        except BaseException as failure:
            reading.failure = failure
        reading.ended = True

    thread = threading.Thread(target=work, name="truthloop-kafka", daemon=True)
    thread.start()
    try:
        yield reading
    finally:
        stop.set()
        thread.join(patience_seconds)
    if reading.failure is not None:
        raise reading.failure


def _told(event: Event) -> Told:
    return Told(
        sequence=event.sequence,
        verb=sys.intern(event.verb),
        state=sys.intern(str(event.data.get("state"))),
        id=event.id,
    )


def _put(messages: "queue.Queue[tuple[str, Told]]", message: tuple[str, Told], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            messages.put(message, timeout=_LOOK_SECONDS)
            return
        except queue.Full:
            continue
