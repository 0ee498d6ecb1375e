"""Counts and latencies of a run, in memory that doesn't grow with it."""

import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# What is counted, in the order of a job's life; the last is that life itself, from when the job was due until its
# result was read.
OPERATIONS = ("create", "execute", "create+execute", "read", "result", "cancel", "delete", "job")
WHOLE = OPERATIONS[-1]
# The bounds of a histogram's classes grow by this factor: a percentile is at most so much too high.
GROWTH = 1.02
# The first class reaches up to here, in seconds; no request over a network is quicker.
FIRST = 50e-6


class Latencies:
    """A histogram of times whose classes grow with them, as HdrHistogram's do.

    Source: G. Tene, HdrHistogram; the bounds here are a geometric series.
    """

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._classes: Counter[int] = Counter()
        self._count = 0
        self._max = 0.0
        for each in seconds:
            self.add(each)

    def __len__(self) -> int:
        return self._count

    @property
    def max(self) -> float:
        """The longest, in seconds; 0 if there is none."""
        return self._max

    def add(self, seconds: float) -> None:
        """Counts one."""
        place = 0 if seconds <= FIRST else math.ceil(math.log(seconds / FIRST, GROWTH))
        self._classes[place] += 1
        self._count += 1
        self._max = max(self._max, seconds)

    def percentile(self, percent: float) -> float | None:
        """The least time that so many percent don't exceed (nearest rank), at most 2 % too high; None without any.

        >>> times = Latencies([0.001, 0.002, 0.003, 1.0])
        >>> [round(times.percentile(percent), 3) for percent in (50, 75, 100)]
        [0.002, 0.003, 1.0]
        """
        if not self._count:
            return None
        rank = max(1, math.ceil(self._count * percent / 100))
        for place in sorted(self._classes):
            rank -= self._classes[place]
            if rank <= 0:
                return min(_bound(place), self._max)
        return self._max

    def classes(self) -> Iterator[tuple[float, int]]:
        """The upper bound of each class that isn't empty, in seconds, and how many are in it; in order."""
        return ((_bound(place), self._classes[place]) for place in sorted(self._classes))


def _bound(place: int) -> float:
    return FIRST * GROWTH**place


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """What is shown of an operation's latencies, in seconds."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float


class Tally:
    """What all clients of a run count together; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._operations: dict[str, Latencies] = {}
        self._states: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._ends: Counter[int] = Counter()
        self.begun = 0

    def begin(self) -> None:
        """A job is begun."""
        with self._lock:
            self.begun += 1

    def operation(self, name: str, seconds: float) -> None:
        """An operation was answered, with its repetitions after so many seconds."""
        with self._lock:
            self._operations.setdefault(name, Latencies()).add(seconds)

    def retry(self, reason: str) -> None:
        """A request is going to be repeated."""
        with self._lock:
            self._retries[reason] += 1

    def end(self, state: str, *, second: float) -> None:
        """A job has come to where its client wanted it, so many seconds after the run began."""
        with self._lock:
            self._states[state] += 1
            self._ends[max(0, int(second))] += 1

    @property
    def ended(self) -> int:
        """How many jobs have come to their end."""
        return self._states.total()

    def states(self) -> dict[str, int]:
        """How many jobs ended in which state."""
        with self._lock:
            return dict(self._states)

    def retries(self) -> dict[str, int]:
        """How many requests were repeated, by reason."""
        with self._lock:
            return dict(self._retries)

    def operations(self) -> dict[str, Percentiles]:
        """Each operation's latencies, in the order of a job's life."""
        with self._lock:
            there = sorted(self._operations.items(), key=lambda each: OPERATIONS.index(each[0]))
            return {name: _percentiles(latencies) for name, latencies in there}

    def histogram(self, name: str) -> list[tuple[float, int]]:
        """The latencies of an operation: upper bounds of classes in seconds, and how many are in each."""
        with self._lock:
            return list(self._operations.get(name, Latencies()).classes())

    def ends(self) -> list[int]:
        """How many jobs ended in each second of the run."""
        with self._lock:
            return [self._ends[second] for second in range(max(self._ends, default=-1) + 1)]


def _percentiles(latencies: Latencies) -> Percentiles:
    p50, p95, p99 = (latencies.percentile(percent) or 0.0 for percent in (50, 95, 99))
    return Percentiles(count=len(latencies), p50=p50, p95=p95, p99=p99, max=latencies.max)
