"""kill -9 of service, workers and MongoDB while jobs and a batch run: nothing is lost, nothing is twice."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from cli.processes import free_port
from predict.given import assert_whole, events_of, png, wait_until
from predict.processes_of_worker import WORK
from truthloop.errors import Unavailable
from truthloop.predict.documents import BatchState
from truthloop.settings import Settings, load_settings
from truthloop.store import embedded
from truthloop.workspace import Workspace

JOBS, IMAGES, KILLS = 1000, 200, 6


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A workspace with a server of its own, which may be killed."""
    for name in list(os.environ):
        if name.startswith("TRUTHLOOP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TRUTHLOOP_HOME", str(tmp_path / ".truthloop"))
    monkeypatch.setenv("TRUTHLOOP_JOB_LEASE_SECONDS", "2")
    yield load_settings()
    embedded.stop(tmp_path / ".truthloop")


def mongod_of(workspace: Workspace) -> int:
    """The process of a workspace's embedded server, once it answers."""
    while True:
        with suppress(Unavailable), workspace.store.errors():
            return int(workspace.store.client.admin.command("serverStatus")["pid"])


class Processes:
    """A service, which has a worker of its own, and one more worker; who was killed is replaced."""

    def __init__(self, port: str) -> None:
        self._commands = [[sys.executable, "-m", "truthloop", "up", "--port", port], [sys.executable, "-c", WORK]]
        self._processes = [self._start(place) for place in range(2)]

    def _start(self, place: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._commands[place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self, place: int) -> None:
        self._processes[place].kill()
        self._processes[place].wait()
        self.replace_ended()

    def replace_ended(self) -> None:
        for place, process in enumerate(self._processes):
            if process.poll() is not None:
                self._processes[place] = self._start(place)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def test_killed_services_workers_and_servers_lose_nothing_and_repeat_nothing(home: Settings) -> None:
    rng, port, kills = random.Random(7), free_port(), []
    address = f"http://127.0.0.1:{port}/api/v1/inference/jobs"
    pictures = [png(grey, size=40) for grey in range(20)]
    acknowledged: list[str] = []

    def submit() -> None:
        with httpx.Client(timeout=30) as client:
            while len(acknowledged) < JOBS:
                with suppress(httpx.TransportError, OSError):
                    answer = client.post(
                        address,
                        data={"model": "opencv_faces"},
                        files={"image": ("a.png", pictures[len(acknowledged) % len(pictures)])},
                        headers={"Authorization": f"Bearer {(home.home / 'token').read_text().strip()}"},
                    )
                    if answer.is_success:
                        acknowledged.append(answer.json()["id"])
                    else:
                        assert answer.status_code == 503, answer.text

    with Workspace.open(home, create=True) as workspace:
        for number in range(IMAGES):
            workspace.ingest_image(png(number, size=32), name=f"{number}.png")
        batch = workspace.batches.create("opencv_faces", query="all", record_as="auto")
        client = threading.Thread(target=submit, daemon=True)
        processes = Processes(port)
        try:
            client.start()
            for kill in range(KILLS):
                wait_until(lambda share=kill: len(acknowledged) >= JOBS * share // KILLS, seconds=120)
                time.sleep(rng.uniform(0.0, 0.3))  # a moment that is nothing's beginning or end
                kills.append(["worker", "MongoDB", "service"][kill % 3])
                if kills[-1] == "MongoDB":
                    os.kill(mongod_of(workspace), signal.SIGKILL)
                else:
                    processes.kill(kills[-1] == "worker")
            client.join(120)

            def all_ended() -> bool:
                processes.replace_ended()
                with suppress(Unavailable):
                    open_jobs = {"state": {"$in": ["created", "queued", "running"]}}
                    with workspace.store.errors():
                        waiting = workspace.store["truthloop.jobs"].count_documents(open_jobs)
                    return not waiting and workspace.batches.get(batch.id).state == BatchState.SUCCEEDED
                return False

            wait_until(all_ended, seconds=180)
        finally:
            processes.end()

        assert len(acknowledged) == JOBS
        store = workspace.store
        ended = list(store["truthloop.jobs"].find())
        there = {job["_id"]: job["state"] for job in ended}
        # One that was stored while its answer was lost is there, too; but none that was acknowledged is missing.
        assert set(acknowledged) <= there.keys()
        # A job that was begun by three workers that were killed has failed, as it should.
        assert sum(state == "succeeded" for state in there.values()) >= 0.95 * JOBS
        errors = [job["error"] for job in ended if job["state"] != "succeeded"]
        assert all(error.startswith("Tried 3 times. ") for error in errors), errors
        jobs_of_batches = {"_id": {"$regex": "/"}}
        assert store["truthloop.results"].count_documents(jobs_of_batches) == 0
        assert_whole(store)
        recorded = [(each["image_id"], each["model_version"]) for each in store["bbox.model"].find()]
        assert len(recorded) == len(set(recorded)) == IMAGES
        done = workspace.batches.get(batch.id)
        assert (done.done, done.predicted, done.refused) == (IMAGES, IMAGES, 0)
        events = events_of(store, batch.id)
        assert [sequence for sequence, _, _ in events] == list(range(1, done.revision + 1))
