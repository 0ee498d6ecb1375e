"""Fixtures of the tests of loading and ingesting."""

from pathlib import Path

import pytest

from truthloop.settings import Settings
from truthloop.store.connection import Store
from truthloop.workspace import Workspace


@pytest.fixture
def workspace(store: Store, settings: Settings, tmp_path: Path) -> Workspace:
    """An empty workspace with a folder of its own for blobs."""
    workspace = Workspace(store)
    workspace.settings = store.settings = settings.model_copy(update={"home": tmp_path / "home"})
    return workspace
