"""A service with a worker in this process, as a simulated client finds it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.service import TOKEN, served
from cli.processes import Terminal
from truthloop.api.app import create_app
from truthloop.settings import Settings
from truthloop.store.connection import Store
from truthloop.workspace import Workspace

DEADLINE_SECONDS = 60.0


@pytest.fixture
def workspace(store: Store, settings: Settings) -> Iterator[Workspace]:
    with Workspace.open(settings, create=True) as workspace:
        yield workspace


@pytest.fixture
def idle(workspace: Workspace, settings: Settings) -> Iterator[str]:
    """The address of a service without a worker."""
    with served(create_app(workspace, token=TOKEN, settings=settings)) as address:
        yield address


@pytest.fixture
def address(idle: str, workspace: Workspace) -> Iterator[str]:
    """The address of a service with a worker."""
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=workspace.run_worker, args=(stop,), kwargs={"ready": ready.set})
    thread.start()
    assert ready.wait(DEADLINE_SECONDS)
    yield idle
    stop.set()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


@pytest.fixture
def terminal(tmp_path: Path, address: str) -> Terminal:
    """A terminal without a workspace, which has the service's address and token."""
    return Terminal(tmp_path / ".truthloop", TRUTHLOOP_URL=address, TRUTHLOOP_TOKEN=TOKEN)
