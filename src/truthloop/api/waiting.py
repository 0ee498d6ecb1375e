"""Waiting for figures that are behind, or for the end of a job: on the event loop and never in a thread.

Threads are few: forty callers who waited in one each would stop everybody else. Here a caller who waits costs a
timer. For the figures one of them alone asks the database whether the wait is over; the end of a job is told by
its event, for which one listener stands in for all who wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from truthloop.errors import FiguresBehind
from truthloop.events.stream import EventHub
from truthloop.logs import get_logger
from truthloop.predict.documents import Job, JobState
from truthloop.workspace import Workspace

T = TypeVar("T")

MAX_WAIT_SECONDS = 30.0
POLL_SECONDS = 0.05

log = get_logger(__name__)


class Waiting:
    """All requests of this service that wait."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._job_ends = _JobEnds(workspace)
        self._until_current: asyncio.Task[None] | None = None

    async def for_figures(self, read: Callable[[], T]) -> T:
        """What `read` gives, once the figures are current enough for it.

        Args:
            read: raises FiguresBehind at once instead of waiting; runs in a thread.

        Raises:
            FiguresBehind: they still are after 30 s, or the service stops.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MAX_WAIT_SECONDS
        while True:
            try:
                return await run_in_threadpool(read)
            except FiguresBehind:
                left = deadline - loop.time()
                if left <= 0 or self._workspace.hub.closed:
                    raise
            if self._until_current is None or self._until_current.done():
                self._until_current = asyncio.create_task(self._ask_until_current())
            await asyncio.wait((self._until_current,), timeout=left)

    async def for_job(self, job_id: str, seconds: float) -> Job:
        """The job once it has ended, or as it stands after so many seconds.

        A job that waits for its `execute` isn't waited for.

        Raises:
            NotFound: there is no such job, or it was deleted meanwhile.
            DatabaseUnavailable: its events can't be read.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        read = partial(self._workspace.jobs.get, job_id)
        job = await run_in_threadpool(read)
        with self._job_ends.told_of(job_id) as told:
            while is_under_way(job) and loop.time() < deadline and not self._workspace.hub.closed:
                # Listening first, then reading: what ends the job after that is told.
                await self._job_ends.listen()
                job = await run_in_threadpool(read)
                if is_under_way(job):
                    await told(deadline - loop.time())
        return job

    async def _ask_until_current(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MAX_WAIT_SECONDS
        while loop.time() < deadline and not self._workspace.hub.closed:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await run_in_threadpool(partial(self._workspace.status, catch_up=False))
            except FiguresBehind:
                continue
            except Exception:
                return  # each who waits asks once more, and gets this error for an answer
            return


def is_under_way(job: Job) -> bool:
    """Whether a job will end without anyone doing anything more for it."""
    return job.state in (JobState.QUEUED, JobState.RUNNING)


_ENDS = ("succeeded", "failed", "cancelled", "deleted")


class _JobEnds:
    """Wakes those who wait for a job when its event says that it has ended; touched by one event loop alone."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._waiting: dict[str, dict[asyncio.Event, None]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._listening: asyncio.Future[None] | None = None

    @contextmanager
    def told_of(self, job_id: str) -> Iterator[Callable[[float], Awaitable[None]]]:
        """Gives what waits so many seconds for the end of the job, and returns earlier when it may have come."""
        end = asyncio.Event()
        waiting = self._waiting.setdefault(job_id, {})
        waiting[end] = None

        async def told(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await end.wait()
            end.clear()

        try:
            yield told
        finally:
            del waiting[end]
            if not waiting:
                self._waiting.pop(job_id, None)

    async def listen(self) -> None:
        """Returns when the listener stands, starting it where it doesn't.

        Raises:
            DatabaseUnavailable, DatabaseRefused: the events can't be read.
        """
        if self._listener is None or self._listener.done():
            self._listening = asyncio.get_running_loop().create_future()
            self._listener = asyncio.create_task(self._listen(self._workspace.hub, self._listening))
        assert self._listening is not None
        await asyncio.shield(self._listening)

    async def _listen(self, hub: EventHub, listening: "asyncio.Future[None]") -> None:
        try:
            async with hub.listen() as batches:
                listening.set_result(None)
                async for events in batches:
                    for event in events:
                        if event.verb in _ENDS and event.entity == "job":
                            self._tell(event.subject)
        except Exception as error:
            if listening.done():
                log.warning("job_listener_ended", error=str(error))
            else:
                listening.set_exception(error)
        finally:
            # Closed, cut off or broken: each who waits looks for itself, and has a new listener begin.
            for job_id in tuple(self._waiting):
                self._tell(job_id)

    def _tell(self, job_id: str) -> None:
        for end in self._waiting.get(job_id, ()):
            end.set()


async def _waiting(request: Request) -> Waiting:
    waiting: Waiting = request.app.state.waiting
    return waiting


async def _workspace(request: Request) -> Workspace:
    workspace: Workspace = request.app.state.workspace
    return workspace


WorkspaceDep = Annotated[Workspace, Depends(_workspace)]
WaitingDep = Annotated[Waiting, Depends(_waiting)]
