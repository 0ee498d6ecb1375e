"""What the tests of the embedded MongoDB do from outside: users in processes of their own, and kill -9."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure

from truthloop.store import embedded

DEADLINE_SECONDS = 60.0

T = TypeVar("T")

# A user in a process of its own: says the server's pid, then stays until its input ends.
STAYING_USER = """
import sys
from pathlib import Path
from truthloop.store import embedded
home = Path(sys.argv[1])
with embedded.use(home, idle_seconds=float(sys.argv[2])):
    print(embedded.inspect(home).mongod_pid, flush=True)
    sys.stdin.read()
"""


def wait_for(condition: Callable[[], T], what: str) -> T:
    """Waits until the condition gives something true, and gives that."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)


class UserProcess:
    """A process that uses the server of a workspace until it is ended or killed."""

    def __init__(self, home: Path, idle_seconds: float = 60.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", STAYING_USER, str(home), str(idle_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def mongod_pid(self) -> int:
        """The server that it found or started; waits until it has one."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self.end()

    def end(self) -> None:
        with suppress(BrokenPipeError):
            self._process.communicate("", timeout=DEADLINE_SECONDS)


@contextmanager
def connected(uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    client: MongoClient[dict[str, Any]] = MongoClient(uri, w="majority", serverSelectionTimeoutMS=1_000)
    try:
        yield client
    finally:
        client.close()


def retried(use: embedded.Use, work: Callable[[MongoClient[dict[str, Any]]], T]) -> T:
    """Does some work as the connection code does: a server that went away is asked for again."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            with connected(use.ensure()) as client:
                return work(client)
        except ConnectionFailure:
            assert time.monotonic() < deadline, "no server came back"


def write(use: embedded.Use, number: int) -> None:
    """Stores a number; returns only when the server has acknowledged it."""
    retried(
        use,
        lambda client: client.test.numbers.update_one({"_id": number}, {"$set": {"stored": True}}, upsert=True),
    )


def stored(use: embedded.Use) -> set[int]:
    return retried(use, lambda client: {document["_id"] for document in client.test.numbers.find()})


def kill_supervisor(home: Path) -> int | None:
    return _kill(embedded.inspect(home).supervisor_pid)


def kill_mongod(home: Path) -> int | None:
    return _kill(embedded.inspect(home).mongod_pid)


def _kill(pid: int | None) -> int | None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pid


def mongods_on(data: Path) -> list[int]:
    """The mongod processes that were started on a data folder and live."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().count(b"--dbpath\0" + bytes(data)):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"--dbpath" in words and words[words.index(b"--dbpath") + 1] == bytes(data):
                    found.append(int(entry.name))
    return found


def end_at_once(home: Path) -> None:
    """Leaves nothing of a test's server: no process and no file."""
    state = embedded.inspect(home)
    while embedded.inspect(home).running:
        kill_supervisor(home)
        kill_mongod(home)
    shutil.rmtree(home, ignore_errors=True)
    if state.socket.parent.name.startswith("truthloop-"):
        shutil.rmtree(state.socket.parent, ignore_errors=True)
