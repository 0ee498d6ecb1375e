"""Fixtures that every test may ask for: a real MongoDB, an empty workspace, the real data."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from truthloop.settings import Settings, load_settings
from truthloop.store.connection import Store, connect

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def server_home() -> Iterator[Path]:
    """The workspace folder of one embedded server that all tests of this run share."""
    folder = Path(tempfile.mkdtemp(prefix="truthloop-tests-"))
    yield folder / ".truthloop"
    from truthloop.store import embedded

    embedded.stop(folder / ".truthloop")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def settings(server_home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of an empty workspace: a database of its own on the shared server."""
    for name in list(os.environ):
        if name.startswith("TRUTHLOOP_") and not name.startswith("TRUTHLOOP_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TRUTHLOOP_HOME", str(server_home))
    monkeypatch.setenv("TRUTHLOOP_DATABASE", f"test-{uuid.uuid4().hex[:12]}")
    return load_settings()


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """An empty workspace on a real MongoDB."""
    with connect(settings, create=True) as store:
        yield store
        store.client.drop_database(settings.database)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; the test is skipped where it isn't there, except in CI."""
    root = Path(os.environ.get("TRUTHLOOP_TEST_DATA", ROOT.parent / "shared"))
    if not (root / "data").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"the real data is missing: {root}/data; set TRUTHLOOP_TEST_DATA")
        pytest.skip(f"needs the real data: {root}/data isn't there (set TRUTHLOOP_TEST_DATA)")
    return root


@pytest.fixture
def face_slice(shared_data: Path) -> Path:
    """The slice of a real face-detection database, four JSON files."""
    return shared_data / "data" / "face-detection"
