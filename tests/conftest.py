"""Fixtures that every test may ask for: a real MongoDB, an empty workspace, the real data."""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from databases import Databases
from truthloop.settings import Settings, load_settings
from truthloop.store.connection import Store, connect

if TYPE_CHECKING:
    from kafka import Kafka

ROOT = Path(__file__).parent.parent

# An example takes long where the machine is busy with other tests; that says nothing of what is tested. The rest
# is as Hypothesis has it, which with CI set is the same examples in each run.
hypothesis.settings.register_profile(
    "patient",
    parent=hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")


# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server_home() -> Iterator[Path]:
    """The workspace folder of one embedded server that all tests of this run share."""
    folder = Path(tempfile.mkdtemp(prefix="truthloop-tests-"))
    yield folder / ".truthloop"
    from store.embedded_users import end_at_once

    end_at_once(folder / ".truthloop")  # what would be written last is thrown away anyhow
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """The databases of this run's server that tests take by turns."""
    databases = Databases()
    yield databases
    databases.close()


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, server_home: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings of an empty workspace: a database of its own on the shared server."""
    for name in list(os.environ):
        if name.startswith("TRUTHLOOP_") and not name.startswith("TRUTHLOOP_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TRUTHLOOP_HOME", str(server_home))
    # Without a store a test may want a database that isn't there.
    database = databases.take() if "store" in request.fixturenames else f"test-{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("TRUTHLOOP_DATABASE", database)
    return load_settings()


@pytest.fixture
def store(settings: Settings, databases: Databases) -> Iterator[Store]:
    """An empty workspace on a real MongoDB."""
    with connect(settings, create=True) as store:
        databases.made(store)
        yield store
        databases.give_back(settings.database)


@pytest.fixture(scope="session")
def broker() -> Iterator["Kafka"]:
    """One broker that all tests of this run share: a real one, else librdkafka's mock cluster."""
    from kafka import a_cluster

    kafka = a_cluster()
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.remove()


@pytest.fixture
def kafka(broker: "Kafka", settings: Settings, monkeypatch: pytest.MonkeyPatch) -> "Kafka":
    """A running broker, whose address new settings have."""
    monkeypatch.setenv("TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS", broker.servers)
    return broker


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
