"""What a worker has in hand, which its threads share: here they wait for work and for room."""

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from truthloop.predict.work import Item, Outcome, Work
from truthloop.store.connection import Document

if TYPE_CHECKING:
    from truthloop.models.load import Model

Submit = Callable[["Model", Item], "Future[Any]"]

# Claims of jobs, and slices: one that runs and one that is decoded meanwhile.
IN_HAND = 2
# How soon it is seen that the worker is to stop.
STOP_SECONDS = 0.2


class Hand:
    """A piece of work in hand, with its images on their way."""

    def __init__(self, work: Work, *, is_slice: bool, is_alone: bool = False) -> None:
        self.work, self.is_slice = work, is_slice
        self.is_alone = is_alone  # whether nothing else may be in hand beside it
        self.model: Model | None = None
        self.unavailable: str | None = None  # why it can't be worked here and now
        self.refused: str | None = None  # why it can't be worked at all
        self._coming: deque[Future[Any]] = deque()
        self._submitted = self._ahead = 0

    def decode_ahead(self, model: "Model", submit: "Submit", ahead: int) -> None:
        """Begins to decode the first images, `ahead` at once."""
        self.model, self._ahead = model, ahead
        self._fill(submit)

    def next(self, size: int, submit: "Submit") -> "list[Future[Any]]":
        """The next images, `size` at most, while those behind them are being decoded."""
        taken = [self._coming.popleft() for _ in range(min(size, len(self._coming)))]
        self._fill(submit)
        return taken

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Stores what became of it."""
        if self.refused is not None:
            self.work.refuse(self.refused)
        elif self.unavailable is not None:
            self.work.put_back(self.unavailable, unavailable=True)
        else:
            self.work.finish(outcomes)

    def _fill(self, submit: "Submit") -> None:
        assert self.model is not None
        while len(self._coming) < self._ahead and self._submitted < len(self.work.items):
            self._coming.append(submit(self.model, self.work.items[self._submitted]))
            self._submitted += 1


@dataclass(frozen=True, slots=True)
class Turn:
    """Why the thread that claims goes on."""

    has_ended: bool  # nothing more is to be claimed
    is_told: bool  # something was put into the queue, or may have been
    new: Document | None  # the job that was put there, if it was but this one
    is_empty: bool  # nothing is in hand


class Hands:
    """What is in hand: claimed and not yet written, and what is known of what waits.

    Shared by the threads of a worker, which wait for each other here.
    """

    def __init__(self) -> None:
        lock = threading.RLock()
        # The first for the thread that claims, the second for the one that runs models: neither wakes in vain.
        self._changed, self._given = threading.Condition(lock), threading.Condition(lock)
        self._held: set[Hand] = set()
        # Claims of jobs and slices that are neither run nor being run to their end, and those not yet begun.
        self._unfinished = {False: 0, True: 0}
        self._waiting: dict[bool, deque[Hand]] = {False: deque(), True: deque()}
        self._empty_first = False
        self._is_shut = False
        self._told: list[Document | None] = []
        self._ended = False

    def has_room(self, *, slices: bool) -> bool:
        """Whether one more may be claimed."""
        with self._changed:
            if self._is_shut:
                return False
            if self._empty_first or any(hand.is_alone for hand in self._held):
                return not self._held
            return self._unfinished[slices] < IN_HAND

    def empty_first(self) -> None:
        """Leaves no room until nothing is in hand."""
        with self._changed:
            self._empty_first = True

    def shut(self, *, is_shut: bool) -> None:
        """Leaves no room, or leaves some again."""
        with self._changed:
            if is_shut != self._is_shut:
                self._is_shut = is_shut
                self._changed.notify_all()

    def announce(self, new: Document | None) -> None:
        """Notes that something was put into the queue: the job, where that is known."""
        with self._changed:
            self._told = [*self._told[:1], new]
            self._changed.notify_all()

    def wait_for_turn(self, kinds: Collection[bool], *, seconds: float, or_empty: bool = False) -> Turn:
        """Waits until something comes, or for room: to be called by the one thread that claims.

        Args:
            kinds: for which there must be room, jobs (False) or slices (True).
            seconds: how long at most.
            or_empty: whether it also returns when nothing is in hand.
        """

        def is_it() -> bool:
            return (
                self._ended
                or bool(self._told)
                or any(self.has_room(slices=kind) for kind in kinds)
                or (or_empty and not self._held)
            )

        with self._changed:
            self._changed.wait_for(is_it, max(seconds, 0))
            told, self._told = self._told, []
            return Turn(self._ended, bool(told), told[0] if len(told) == 1 else None, not self._held)

    def hold(self, hand: Hand) -> None:
        """Notes what was claimed: from now on its lease is renewed."""
        with self._changed:
            self._empty_first = False
            self._held.add(hand)
            self._unfinished[hand.is_slice] += 1

    def give(self, hand: Hand) -> bool:
        """Hands it to the thread that runs models; false if that has ended."""
        with self._changed:
            if not self._ended:
                self._waiting[hand.is_slice].append(hand)
                self._given.notify_all()
            return not self._ended

    def next(self, stop: threading.Event) -> Hand | None:
        """What is to be run next, jobs before slices; waits for it. None at the end, also when `stop` is set."""
        with self._given:
            while not self._given.wait_for(lambda: self._ended or any(self._waiting.values()), STOP_SECONDS):
                if stop.is_set():
                    self.end()
            for waiting in self._waiting.values():
                if waiting:
                    return waiting.popleft()
            return None

    def is_waiting(self) -> bool:
        """Whether anything waits to be run."""
        with self._changed:
            return any(self._waiting.values())

    def next_job(self) -> Hand | None:
        """The next claim of jobs, if one waits."""
        with self._changed:
            return self._waiting[False].popleft() if self._waiting[False] else None

    def make_room(self, hand: Hand) -> None:
        """Notes that it was run, and another may be claimed."""
        with self._changed:
            self._unfinished[hand.is_slice] -= 1
            self._changed.notify_all()

    def drop(self, hand: Hand) -> None:
        """Notes that it was written: its lease is renewed no more."""
        with self._changed:
            self._held.discard(hand)
            self._changed.notify_all()

    def held(self) -> list[Hand]:
        """What is in hand now."""
        with self._changed:
            return [*self._held]

    def end(self) -> None:
        """No more will be given."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            self._given.notify_all()

    def has_ended(self) -> bool:
        """Whether no more is taken."""
        with self._changed:
            return self._ended
