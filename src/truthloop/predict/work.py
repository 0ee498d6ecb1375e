"""What a worker has in hand: jobs of one claim, or a slice of a batch."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from truthloop.blobs import Blobs
from truthloop.predict import claim as claims
from truthloop.predict.claim import Claim, ClaimedJob
from truthloop.predict.held import Done, finish, put_back, renew
from truthloop.predict.results import result_fields
from truthloop.store.connection import Store

if TYPE_CHECKING:
    from truthloop.models.documents import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An image to be worked: the key of its upright file, and its size in pixels."""

    blob: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an item: a prediction, or a reason for which there will never be one, or one to try again."""

    prediction: "Prediction | None" = None
    error: str | None = None
    retry: str | None = None
    unavailable: bool = False  # with `retry`: not the item's fault, so all that goes with it had better wait, too


class Work(Protocol):
    """Items of one model, held by a lease until they are finished or put back."""

    model: str
    model_version: str
    items: Sequence[Item]
    # Set when it's known whether it is held: work may begin before, to be thrown away if it isn't.
    taken: threading.Event
    # Set when another has it now, or nobody wants it any more.
    lost: threading.Event

    def renew(self) -> None:
        """Holds it for another lease's time, or sets `lost`."""

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Stores what became of the first items, one outcome for each; those without one are put back."""

    def put_back(self, error: str | None, *, unavailable: bool = False) -> None:
        """Lets another try. Without an error nothing was tried, and no attempt is counted.

        Nor is one where it is `unavailable`, what it needs: then it waits, and longer each time.
        """

    def refuse(self, error: str) -> None:
        """Ends all of it: there is no hope."""


class JobsWork:
    """Jobs of one model, on their way to being claimed: work on them may begin before the claim is written.

    What is found is stored only for those that the claim has got.
    """

    def __init__(self, store: Store, blobs: Blobs, chosen: Sequence[ClaimedJob]) -> None:
        self._store, self._blobs, self._chosen = store, blobs, chosen
        self.model, self.model_version = chosen[0].model, chosen[0].model_version
        self.items: Sequence[Item] = [Item(blob=job.blob, width=job.width, height=job.height) for job in chosen]
        self.taken = threading.Event()
        self.lost = threading.Event()
        self._claim: Future[Claim] = Future()

    def take(self, worker: str) -> Sequence[str]:
        """Claims them; sets `lost` where it has got none, or where that isn't known.

        Returns:
            The ids of those that another transaction holds.
        """
        try:
            self._claim.set_result(claims.take(self._store, self._chosen, worker=worker))
        except BaseException:
            self.lost.set()
            self._claim.set_result(Claim(token="", model=self.model, model_version=self.model_version, jobs=()))
            raise
        else:
            if not self._claim.result().jobs:
                self.lost.set()
            return self._claim.result().locked
        finally:
            self.taken.set()

    def renew(self) -> None:
        """Holds the jobs for another lease's time, or sets `lost`."""
        if not self._claim.done():
            return
        held = self._claim.result()
        if renew(self._store, held.token, [job.id for job in held.jobs]) == 0:
            self.lost.set()

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Stores what became of the first jobs; the others go back."""
        held = self._claim.result()
        mine = {job.id for job in held.jobs}
        done = [
            self._done(job, outcome)
            for job, outcome in zip(self._chosen, outcomes, strict=False)
            if job.id in mine
        ]
        if done:
            finish(self._store, held.token, done)
        if rest := [job for job in self._chosen[len(outcomes) :] if job.id in mine]:
            put_back(self._store, held.token, rest)

    def put_back(self, error: str | None, *, unavailable: bool = False) -> None:
        """Puts all of them back."""
        held = self._claim.result()
        put_back(self._store, held.token, held.jobs, error=error, unavailable=unavailable)

    def refuse(self, error: str) -> None:
        """Fails all of them."""
        held = self._claim.result()
        finish(self._store, held.token, [Done(job=job, error=error) for job in held.jobs])

    def _done(self, job: ClaimedJob, outcome: Outcome) -> Done:
        if outcome.prediction is None:
            return Done(job=job, error=outcome.error, retry=outcome.retry, unavailable=outcome.unavailable)
        found = result_fields(
            self._blobs, outcome.prediction, width=job.width, height=job.height, tolerance=job.tolerance
        )
        return Done(job=job, result=found)
