"""A real MongoDB replica set of three members on loopback, each of which may be killed and started again."""

import signal
import subprocess
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from cli.processes import free_port, wait_for
from truthloop.store.mongod_binary import find_mongod

NAME = "nothing-lost"
MEMBERS = 3
# MongoDB's own is 10 s. Shorter makes a failover shorter, and no different.
ELECTION_MS = 2_000
HEARTBEAT_MS = 500
TRANSACTION_SECONDS = 10


class ReplicaSet:
    """Three members and their data, running after `start_all`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ports = [free_port() for _ in range(MEMBERS)]
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * MEMBERS
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.uri = f"mongodb://{hosts}/?replicaSet={NAME}"

    def start_all(self) -> None:
        """Starts all members as one set, and waits for its first primary."""
        for member in range(MEMBERS):
            self.start(member)
        for member in range(MEMBERS):
            self.command(member, {"ping": 1}, seconds=30)
        config = {
            "_id": NAME,
            "members": [{"_id": each, "host": f"127.0.0.1:{port}"} for each, port in enumerate(self.ports)],
            "settings": {"electionTimeoutMillis": ELECTION_MS, "heartbeatIntervalMillis": HEARTBEAT_MS},
        }
        self.command(0, {"replSetInitiate": config}, seconds=30)
        wait_for(lambda: self.primary() is not None, "a primary")

    def start(self, member: int) -> None:
        folder = self._folder / f"member-{member}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "out").open("ab") as out:
            self.processes[member] = subprocess.Popen(
                [
                    *(str(find_mongod()), "--dbpath", str(folder), "--replSet", NAME),
                    *("--bind_ip", "127.0.0.1", "--port", self.ports[member], "--nounixsocket"),
                    *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "128"),
                    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
                    # As the embedded server has it, or shorter: after it what a killed process has locked is free.
                    *("--setParameter", f"transactionLifetimeLimitSeconds={TRANSACTION_SECONDS}"),
                    # For the points at which a test stops replication without stopping a member.
                    *("--setParameter", "enableTestCommands=1"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def kill(self, member: int) -> None:
        """kill -9; its data stay."""
        process = self.processes[member]
        assert process is not None
        process.kill()
        process.wait()

    def is_running(self, member: int) -> bool:
        process = self.processes[member]
        return process is not None and process.poll() is None

    def command(self, member: int, command: dict, *, seconds: float = 2.0) -> dict:
        """Asks one member itself, whatever it is in the set."""
        with MongoClient(
            "127.0.0.1",
            int(self.ports[member]),
            directConnection=True,
            serverSelectionTimeoutMS=round(seconds * 1000),
            socketTimeoutMS=round(seconds * 1000),
        ) as client:
            return client.admin.command(command)

    def primary(self) -> int | None:
        """Which member takes writes now, if any."""
        for member in range(MEMBERS):
            if self.is_running(member):
                with suppress(PyMongoError):
                    if self.command(member, {"hello": 1}, seconds=0.5)["isWritablePrimary"]:
                        return member
        return None

    def wait_for_primary(self, *, other_than: int | None = None) -> int:
        found: list[int | None] = [None]

        def is_there() -> bool:
            found[0] = self.primary()
            return found[0] is not None and found[0] != other_than

        wait_for(is_there, "a new primary")
        assert found[0] is not None
        return found[0]

    def step_down(self) -> int:
        """Has the primary give its place to another; returns which it was."""
        member = self.wait_for_primary()
        with suppress(OperationFailure):  # none has caught up yet; by force, then
            self.command(member, {"replSetStepDown": 10, "secondaryCatchUpPeriodSecs": 1}, seconds=10)
            return member
        self.command(member, {"replSetStepDown": 10, "force": True}, seconds=10)
        return member

    def stop_replication(self, members: Collection[int], *, stopped: bool = True) -> None:
        """Has members fetch nothing more of what the primary writes, though they still vote for it."""
        for member in members:
            mode = "alwaysOn" if stopped else "off"
            # One that was just started needs a moment until it answers.
            self.command(member, {"configureFailPoint": "stopReplProducer", "mode": mode}, seconds=30)

    def end(self) -> None:
        for process in self.processes:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
