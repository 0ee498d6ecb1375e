"""Waiting for figures that are behind, on the event loop and never in a thread.

Threads are few: forty callers who waited in one each would stop everybody else. Here a caller who waits costs a
timer, and one of them alone asks the database whether the wait is over.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from truthloop.errors import FiguresBehind
from truthloop.workspace import Workspace

T = TypeVar("T")

MAX_WAIT_SECONDS = 30.0
POLL_SECONDS = 0.05


class Waiting:
    """All requests of this service that wait for the figures."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
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


async def _waiting(request: Request) -> Waiting:
    waiting: Waiting = request.app.state.waiting
    return waiting


async def _workspace(request: Request) -> Workspace:
    workspace: Workspace = request.app.state.workspace
    return workspace


WorkspaceDep = Annotated[Workspace, Depends(_workspace)]
WaitingDep = Annotated[Waiting, Depends(_waiting)]
