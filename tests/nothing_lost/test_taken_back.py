"""What a primary has written and no other member has is taken back when it dies: none of it is acknowledged."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from pymongo import MongoClient

from api.service import BEARER, TOKEN, served
from cli.processes import wait_for
from nothing_lost.replica_set import MEMBERS, ReplicaSet
from predict.given import png
from truthloop.api.app import create_app
from truthloop.settings import load_settings
from truthloop.store import connection
from truthloop.workspace import Workspace

PICTURE = {"image": ("a.png", png(7, size=40))}
MODEL = {"model": "opencv_faces"}


@pytest.fixture(scope="module")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    replica_set = ReplicaSet(tmp_path_factory.mktemp("mongodb"))
    try:
        replica_set.start_all()
        yield replica_set
    finally:
        replica_set.end()


@pytest.fixture(autouse=True)
def all_members_run(mongodb: ReplicaSet) -> Iterator[None]:
    """Whatever a test has left, the next finds the set as it was."""
    yield
    for member in range(MEMBERS):
        if not mongodb.is_running(member):
            mongodb.start(member)
    mongodb.stop_replication(range(MEMBERS), stopped=False)
    mongodb.wait_for_primary()


@pytest.fixture
def jobs(mongodb: ReplicaSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the jobs of a service, which has no worker."""
    monkeypatch.setenv("TRUTHLOOP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRUTHLOOP_MONGODB_URI", mongodb.uri)
    monkeypatch.setenv("TRUTHLOOP_DATABASE", tmp_path.name[:38].replace("_", "-"))
    monkeypatch.setattr(connection, "TRANSACTION_SECONDS", 2.5)  # shorter than the 20 s, and no different
    monkeypatch.setattr(connection, "SELECTION_MS", 2_000)
    settings = load_settings()
    with Workspace.open(settings, create=True) as workspace:
        app = create_app(workspace, token=TOKEN, settings=settings)
        with served(app) as address:
            yield f"{address}/api/v1/inference/jobs"


class Alone:
    """The primary goes on alone: the others vote for it and have nothing of what it writes from now on."""

    def __init__(self, mongodb: ReplicaSet, database: str) -> None:
        self._mongodb, self._database = mongodb, database
        self.primary = mongodb.wait_for_primary()
        self._others = [member for member in range(MEMBERS) if member != self.primary]
        mongodb.stop_replication(self._others)

    def has(self, collection: str, query: dict) -> bool:
        """Whether a document is there, as the primary alone has it."""
        with MongoClient("127.0.0.1", int(self._mongodb.ports[self.primary]), directConnection=True) as client:
            return client[self._database][collection].count_documents(query) > 0

    def dies(self) -> None:
        """The others go on without what they don't have."""
        self._mongodb.kill(self.primary)
        self._mongodb.stop_replication(self._others, stopped=False)
        self._mongodb.start(self.primary)
        self._mongodb.wait_for_primary()


def in_background(ask: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with suppress(httpx.TransportError):
            ask()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def until_it_is_done(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """As a client does that repeats what was answered with 503."""
    deadline = time.monotonic() + 60
    while (answer := ask()).status_code == 503:
        assert "retry-after" in answer.headers
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
    return answer


def test_a_repeated_submission_is_acknowledged_only_when_no_failover_can_take_it_back(mongodb, jobs):
    database = load_settings().database
    headers = BEARER | {"Idempotency-Key": "once"}

    def submit() -> httpx.Response:
        return httpx.post(jobs, data=MODEL, files=PICTURE, headers=headers, timeout=30)

    alone = Alone(mongodb, database)
    first = in_background(submit)
    wait_for(lambda: alone.has("truthloop.idempotency_keys", {}), "what the primary alone has")
    early = submit()
    assert (early.status_code, "retry-after" in early.headers) == (503, True), early.text
    alone.dies()
    first.join()
    acknowledged = until_it_is_done(submit).json()["id"]

    assert [job["id"] for job in httpx.get(jobs, headers=BEARER).json()["items"]] == [acknowledged]


def test_the_end_of_a_job_is_told_only_when_no_failover_can_take_it_back(mongodb, jobs):
    job = httpx.post(jobs, data=MODEL, files=PICTURE, headers=BEARER).json()["id"]

    def state() -> httpx.Response:
        return httpx.get(f"{jobs}/{job}", headers=BEARER, timeout=30)

    alone = Alone(mongodb, load_settings().database)
    cancelling = in_background(lambda: httpx.post(f"{jobs}/{job}/cancel", headers=BEARER, timeout=30))
    wait_for(lambda: alone.has("truthloop.jobs", {"_id": job, "state": "cancelled"}), "what the primary alone has")
    assert state().status_code == 503
    alone.dies()
    cancelling.join()

    assert until_it_is_done(state).json()["state"] in ("queued", "cancelled")


def test_a_deletion_is_told_only_when_no_failover_can_take_it_back(mongodb, jobs):
    job = httpx.post(jobs, data=MODEL, files=PICTURE, headers=BEARER).json()["id"]

    def delete() -> httpx.Response:
        return httpx.delete(f"{jobs}/{job}", headers=BEARER, timeout=30)

    database = load_settings().database
    alone = Alone(mongodb, database)
    first = in_background(delete)
    wait_for(lambda: not alone.has("truthloop.jobs", {"_id": job}), "what the primary alone has")
    assert delete().status_code == 503
    assert httpx.get(f"{jobs}/{job}", headers=BEARER, timeout=30).status_code == 503
    alone.dies()
    first.join()

    assert until_it_is_done(delete).status_code in (204, 404)
    assert httpx.get(f"{jobs}/{job}", headers=BEARER).status_code == 404


def test_what_a_killed_process_has_locked_is_answered_with_503_and_not_waited_for(mongodb, jobs):
    job = httpx.post(jobs, data=MODEL, files=PICTURE, headers=BEARER).json()["id"]
    with MongoClient(mongodb.uri) as client, client.start_session() as session:
        session.start_transaction()
        client[load_settings().database]["truthloop.jobs"].update_one(
            {"_id": job}, {"$set": {"x": 1}}, session=session
        )

        refused = httpx.post(f"{jobs}/{job}/cancel", headers=BEARER, timeout=30)

        assert (refused.status_code, "retry-after" in refused.headers) == (503, True), refused.text
        session.abort_transaction()
    assert httpx.post(f"{jobs}/{job}/cancel", headers=BEARER, timeout=30).status_code == 200


def test_without_a_primary_every_request_is_answered_with_503(mongodb, jobs):
    job = httpx.post(jobs, data=MODEL, files=PICTURE, headers=BEARER).json()["id"]
    for member in range(MEMBERS):
        mongodb.kill(member)
    try:
        with ThreadPoolExecutor() as pool:
            asked = [
                pool.submit(httpx.post, jobs, data=MODEL, files=PICTURE, headers=BEARER, timeout=30),
                pool.submit(httpx.post, f"{jobs}/{job}/cancel", headers=BEARER, timeout=30),
                pool.submit(httpx.get, f"{jobs}/{job}", headers=BEARER, timeout=30),
                pool.submit(httpx.get, jobs, headers=BEARER, timeout=30),
            ]
        answers = [each.result() for each in asked]
    finally:
        for member in range(MEMBERS):
            mongodb.start(member)
    assert [(answer.status_code, "retry-after" in answer.headers) for answer in answers] == [(503, True)] * 4

    def state() -> httpx.Response:
        return httpx.get(f"{jobs}/{job}", headers=BEARER, timeout=30)

    assert until_it_is_done(state).json()["state"] == "queued"
