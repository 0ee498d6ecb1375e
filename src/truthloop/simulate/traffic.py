"""The life of one job, as its client brings it about."""

import hashlib
import sys
import threading
import time
from collections.abc import Callable

from truthloop.predict.documents import JobState
from truthloop.simulate.book import Book, Entry, digest
from truthloop.simulate.client import WAIT_SECONDS, Client, GaveUp, OddAnswer
from truthloop.simulate.pictures import Picture
from truthloop.simulate.plan import Ending, Plan
from truthloop.simulate.verify import ENDS, Said

# How often a client looks whether a job runs already, which it is about to cancel.
LOOK_SECONDS = 0.01
GONE = "deleted"


class Patience:
    """Ends when no job of the whole run has come to its end for so long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def renew(self) -> None:
        """A job has come to its end."""
        self._last = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether there is none left."""
        return self.waited > self.seconds

    @property
    def waited(self) -> float:
        """Seconds since a job came to its end."""
        return time.monotonic() - self._last


def live(
    plan: Plan,
    client: Client,
    book: Book,
    picture: Callable[[], Picture],
    *,
    patience: Patience,
    hurry: threading.Event,
) -> str:
    """Brings a job from its making to its end, as planned.

    Args:
        plan: what to do.
        client: of this thread.
        book: where what is acknowledged is noted.
        picture: reads the image that is sent.
        patience: for how long a job is waited for.
        hurry: ends the waiting when it is set.

    Returns:
        The state that it ended in; `deleted` where it is gone.

    Raises:
        GaveUp: a request had no answer, or the job came to no end, for as long as patience lasts.
        OddAnswer: the service said something that can't be explained.
        FileRefused: the image can't be read.
    """
    deadline = book.deadline_seconds(plan.number)
    image = picture()
    image_id = sys.intern(hashlib.sha256(image.data).hexdigest())
    if plan.at_once:
        job = client.submit(plan.model, deadline, image)
        entry = book.enter(job, Entry(plan.number, plan.model, image_id, Said.CREATED | Said.EXECUTED))
    else:
        job = client.create(plan.model, deadline)
        entry = book.enter(job, Entry(plan.number, plan.model, image_id, Said.CREATED))
        if plan.when is JobState.CREATED:
            return _end_it(plan, client, job, entry)
        client.execute(job, image)
        entry.said |= Said.EXECUTED
        client.read(job)
    if plan.when is JobState.RUNNING:
        while _state(client, job) == JobState.QUEUED:
            _go_on(client, job, patience, hurry)
            time.sleep(LOOK_SECONDS)
    if plan.when is None or plan.when is JobState.SUCCEEDED:
        state = _to_its_end(client, job, entry, patience, hurry)
        if plan.when is None:
            return state
    return _end_it(plan, client, job, entry)


def _to_its_end(client: Client, job: str, entry: Entry, patience: Patience, hurry: threading.Event) -> str:
    while True:
        wait = min(WAIT_SECONDS, patience.seconds)
        state, result = client.result(job, wait_seconds=wait)
        if result is not None:
            entry.result = digest(result)
            return state
        if state not in (JobState.QUEUED, JobState.RUNNING):
            return state
        _go_on(client, job, patience, hurry)


def _end_it(plan: Plan, client: Client, job: str, entry: Entry) -> str:
    """Cancels or deletes it; a job that was quicker than its cancelling keeps its end."""
    if plan.ending is Ending.DELETE:
        entry.said |= Said.ASKED_TO_DELETE
        client.delete(job)
        entry.said |= Said.DELETED
        return GONE
    entry.said |= Said.ASKED_TO_CANCEL
    if client.cancel(job):
        entry.said |= Said.CANCELLED
        return JobState.CANCELLED
    state = _state(client, job)
    if state not in ENDS:
        raise OddAnswer(f"Job {job} can't be cancelled, the service says, as if it had ended. It is {state}.")
    return state


def _state(client: Client, job: str) -> str:
    now = client.read(job)
    return "gone" if now is None else str(now["state"])


def _go_on(client: Client, job: str, patience: Patience, hurry: threading.Event) -> None:
    if patience.is_over or hurry.is_set():
        now = client.read(job, operation=None) or {"state": "gone", "error": None}
        why = now["error"] or "Does a worker run? `truthloop worker` is one."
        raise GaveUp(f"Job {job} is {now['state']}, and no job has ended for {patience.waited:.0f} s. {why}")
