"""Terminals with workspaces of their own."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.processes import Terminal, free_port
from truthloop.store.connection import Store


@pytest.fixture
def nowhere(tmp_path: Path) -> Terminal:
    """A terminal whose workspace doesn't exist."""
    return Terminal(tmp_path / ".truthloop")


@pytest.fixture
def empty(store: Store) -> Terminal:
    """A terminal with an empty database of its own on the server of this run."""
    return Terminal(store.settings.home, TRUTHLOOP_DATABASE=store.settings.database)


@pytest.fixture(scope="module")
def sampled(server_home: Path) -> Terminal:
    """A terminal with a small sample; the tests that share it only read."""
    terminal = Terminal(server_home, TRUTHLOOP_DATABASE=f"test-{uuid.uuid4().hex[:12]}")
    terminal.answer("sample", "--images", "300")
    return terminal


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal with a workspace folder and a server of its own, and a free port; stopped afterwards."""
    terminal = Terminal(tmp_path / ".truthloop", TRUTHLOOP_PORT=free_port())
    yield terminal
    terminal.run("down")
