"""The whole system as processes of its own: MongoDB, Kafka, service, workers, relay. Any may be killed."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from cli.processes import Terminal, free_port, wait_for
from kafka import Kafka
from nothing_lost.replica_set import ReplicaSet

TOKEN = "only-for-tests-and-of-thirty-two-characters"
DATABASE = "nothing-lost"
# Long enough for an election, so that a failover alone costs no job an attempt.
LEASE_SECONDS = 6


PROGRAMS = {
    "api": ("up",),
    "worker 1": ("worker",),
    "worker 2": ("worker",),
    "relay": ("relay",),
}


@dataclass
class Program:
    """A `truthloop` command that is started again when it has ended, as a container would be."""

    name: str
    arguments: Sequence[str]
    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    ended: list[int] = field(default_factory=list)  # the codes with which it ended without being killed by us

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "truthloop", *self.arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart_if_ended(self) -> None:
        if self.process is not None and (code := self.process.poll()) is not None:
            self.ended.append(code)
            self.start()


class Cluster:
    """All of it, running after `start`."""

    def __init__(self, folder: Path, kafka: Kafka) -> None:
        self.kafka = kafka
        self.mongodb = ReplicaSet(folder / "mongodb")
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.terminal = Terminal(
            folder / "home",
            TRUTHLOOP_MONGODB_URI=self.mongodb.uri,
            TRUTHLOOP_DATABASE=DATABASE,
            TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS=kafka.servers,
            TRUTHLOOP_JOB_LEASE_SECONDS=str(LEASE_SECONDS),
            TRUTHLOOP_TOKEN=TOKEN,
            TRUTHLOOP_URL=self.url,
            TRUTHLOOP_PORT=port,
        )
        self.programs = {
            name: Program(name, arguments, self.terminal.environment, self.logs / name)
            for name, arguments in PROGRAMS.items()
        }
        self._watch: threading.Thread | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        self.mongodb.start_all()
        self.programs["api"].start()
        wait_for(self.is_ready, f"the service: {self.last_words()}")
        for name in ("worker 1", "worker 2", "relay"):
            self.programs[name].start()
        self._watch = threading.Thread(target=self._restart_ended, daemon=True)
        self._watch.start()

    def is_ready(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def _restart_ended(self) -> None:
        while not self._over.wait(0.2):
            with self._lock:
                for program in self.programs.values():
                    program.restart_if_ended()

    def kill(self, name: str) -> None:
        """kill -9 of one of the programs, which is started again at once."""
        with self._lock:
            self.programs[name].kill()
            self.programs[name].start()

    def errors(self) -> list[str]:
        """What the programs have logged as an error, and who ended without being killed."""
        lines = [line for path in self.logs.iterdir() for line in path.read_text(errors="replace").splitlines()]
        return [
            *(line for line in lines if '"level": "error"' in line or line.startswith("Traceback")),
            *(f"{each.name} ended with {each.ended}" for each in self.programs.values() if each.ended),
        ]

    def last_words(self) -> str:
        """The end of each log."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(self.logs.iterdir())
        )

    def end(self) -> None:
        self._over.set()
        if self._watch is not None:
            self._watch.join()
        for program in self.programs.values():
            if program.process is not None:
                program.kill()
        self.mongodb.end()
