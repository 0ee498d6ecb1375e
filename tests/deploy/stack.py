"""The services of the compose file as processes of this machine: commands, settings, order and health checks.

What a container has of its own is mapped: the names of the others become loopback, its ports free ones of this
machine, its volumes and its /tmp folders. All else is as the file says. MongoDB is the `mongod` of the tests,
Kafka is made of its own jars, by the program that its image starts with; ours run from this installation, or in
the image that was built (image.py).
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cli.processes import free_port
from deploy import shell
from deploy.compose import TOKEN, Document, seconds
from kafka import JAVA, classpath
from truthloop.store.mongod_binary import find_mongod

# What the containers of the file listen on.
PORTS = ("27017", "9092", "9093", "9094", "8080")
NAMES = ("mongodb", "kafka", "api", "localhost")
KAFKA_PROGRAMS = {
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-console-consumer.sh": "org.apache.kafka.tools.consumer.ConsoleConsumer",
}
STOP_SECONDS = 60.0
# The services share their processors with a whole test suite: so many times longer than in the file all may take.
PATIENCE = 4.0
# A simulation of so many jobs.
JOBS, SIMULATION_SECONDS = 30, 180
# A process that ends at its start is seen within this time.
LOOK_SECONDS = 0.2


class Runner(Protocol):
    """How a process of ours is run."""

    def command(self, service: "Service", arguments: Sequence[str]) -> list[str]:
        """The command of this machine for a command in a container of the service."""

    def environment(self, service: "Service") -> dict[str, str]:
        """The environment of that command."""

    def map_paths(self, volumes: Mapping[str, Path], text: str) -> str:
        """A text with the paths of a container as the process has them."""

    def signal(self, process: "subprocess.Popen[bytes]", number: int) -> None:
        """Sends a signal to the process in the container."""


class Installed:
    """Runs this installation, in place of the image's entry point."""

    def command(self, service: "Service", arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "truthloop", *arguments[1:]] if arguments[0] == "truthloop" else [*arguments]

    def environment(self, service: "Service") -> dict[str, str]:
        search = [str(Path(sys.executable).parent), str(shell.programs()), os.environ["PATH"]]
        return {"PATH": ":".join(search), "HOME": str(service.folder), "LANG": "C.UTF-8", **service.settings}

    def map_paths(self, volumes: Mapping[str, Path], text: str) -> str:
        return replaced({path: str(folder) for path, folder in volumes.items()}, text)

    def signal(self, process: "subprocess.Popen[bytes]", number: int) -> None:
        process.send_signal(number)


@dataclass
class Service:
    """A container of the file, as a process."""

    name: str  # of the container: worker-2
    document: Document  # what the file says of the service
    settings: dict[str, str]  # its environment, by the file
    volumes: dict[str, Path]  # by the path in the container
    folder: Path
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        return self.processes[-1]

    def said(self) -> str:
        """The end of its log."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]


class Stack:
    """The services, none of them running at first.

    Args:
        project: the file, as Compose reads it.
        folder: where the processes keep everything.
        ours: how a process of Truthloop is run.
    """

    def __init__(self, project: Document, folder: Path, ours: Runner) -> None:
        self._project, self._folder, self._ours = project, folder, ours
        self._installed = Installed()
        self._ports = {port: free_port() for port in PORTS}
        self.services: dict[str, Service] = {}

    def address(self, port: str) -> str:
        """Where a port of a container is on this machine."""
        return f"127.0.0.1:{self._ports[port]}"

    def up(self, *, scale: Mapping[str, int] | None = None) -> None:
        """Starts everything in the order of `depends_on`, each once what it needs is well; waits until all are."""
        for service in self.order():
            for needed, how in self._project["services"][service].get("depends_on", {}).items():
                assert how["condition"] == "service_healthy"
                self.wait_until_well(needed)
            for number in range(1, (scale or {}).get(service, 1) + 1):
                self.start(f"{service}-{number}")
        for name in self.services:
            self.wait_until_well(name)

    def order(self) -> list[str]:
        """The services, each behind those that it depends on."""
        left = {name: set(each.get("depends_on", {})) for name, each in self._project["services"].items()}
        order: list[str] = []
        while left:
            free = sorted(name for name, needed in left.items() if needed <= set(order))
            assert free, f"they wait for each other: {left}"
            order.append(free[0])
            del left[free[0]]
        return order

    def start(self, name: str) -> Service:
        """Starts a container: `worker-2` is the second of the service `worker`."""
        service = self.services.get(name) or self._create(name)
        runner = self._runner(service)
        commands = self._commands(service)
        for command in commands[:-1]:
            done = self._run(service, command, timeout=120)
            # As the image's own start has it: a volume that was used before stays as it is.
            assert done.returncode == 0 or "is already formatted" in done.stdout, done.stdout
        with (service.folder / "log").open("ab") as log:
            service.processes.append(
                subprocess.Popen(
                    runner.command(service, commands[-1]),
                    cwd=service.folder,
                    env=runner.environment(service),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
        return service

    def wait_until_well(self, name: str) -> None:
        """Runs the health check of the file until it succeeds, as often and as long as the file says."""
        service = self.services[name if name in self.services else f"{name}-1"]
        check = service.document["healthcheck"]
        deadline = time.monotonic() + PATIENCE * seconds(check["start_period"])
        while True:
            done = self.check(service)
            if done.returncode == 0:
                return
            assert service.process.poll() is None, f"{service.name} ended: {service.said()}"
            assert time.monotonic() < deadline, f"{service.name} isn't well: {done.stdout}\n{service.said()}"
            time.sleep(seconds(check["start_interval"]))

    def check(self, service: Service) -> "subprocess.CompletedProcess[str]":
        """Runs the health check of the file once."""
        check = service.document["healthcheck"]
        kind, *arguments = [self._text(service, each) for each in check["test"]]
        assert kind in ("CMD", "CMD-SHELL")
        return self._run(service, arguments if kind == "CMD" else ["sh", "-c", *arguments])

    def exec(self, name: str, *arguments: str) -> str:
        """`docker compose exec`: what a command in a running container prints."""
        service = self.services[f"{name}-1"]
        done = self._run(service, [self._text(service, each) for each in arguments], timeout=120)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        """Ends a container; its exit code."""
        service = self.services[name]
        self._runner(service).signal(service.process, number)
        limit = seconds(service.document.get("stop_grace_period", "10s"))
        return service.process.wait(PATIENCE * limit if number == signal.SIGTERM else STOP_SECONDS)

    def down(self) -> dict[str, int]:
        """Ends everything with SIGTERM, in the order opposite to the start; the exit codes."""
        return {
            name: self.stop(name)
            for name, service in reversed(self.services.items())
            if service.process.poll() is None
        }

    def kill(self) -> None:
        """Leaves no process behind."""
        for service in self.services.values():
            for process in service.processes:
                if process.poll() is None:
                    self._runner(service).signal(process, signal.SIGKILL)
                    process.wait(STOP_SECONDS)

    # -- from the container to this machine

    def _create(self, name: str) -> Service:
        document = self._project["services"][name.rpartition("-")[0]]
        folder = self._folder / name
        volumes = {"/tmp": folder / "tmp"} if "/tmp" in document.get("tmpfs", []) else {}
        for volume in document.get("volumes", []):
            assert volume["type"] == "volume", "a folder of this machine isn't portable"
            volumes[volume["target"]] = self._folder / "volumes" / volume["source"]
        for path in (folder, *volumes.values()):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o777)  # in the image it is another user who writes there
        service = Service(name, document, {}, volumes, folder)
        # Compose takes one without a value from its own environment; there it has none.
        given = {key: value for key, value in (document.get("environment") or {}).items() if value is not None}
        service.settings = {key: self._text(service, value) for key, value in given.items()}
        self.services[name] = service
        return service

    def _commands(self, service: Service) -> list[list[str]]:
        """What the container runs at its start: the last one is its process."""
        given = [self._text(service, each) for each in service.document["command"] or []]
        if service.document["image"].startswith("mongo:"):
            assert given[0] == "mongod"
            return [[str(find_mongod()), *given[1:]]]
        if service.document["image"].startswith("apache/kafka:"):
            assert not given
            return self._kafka_commands(service)
        return [["truthloop", *given]]

    def _kafka_commands(self, service: Service) -> list[list[str]]:
        """What the image's own start does: writes the settings from the environment, formats, runs the broker."""
        kafka = service.folder
        folders = {name: kafka / name for name in ("bin", "default", "mounted", "config")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        for name, program in KAFKA_PROGRAMS.items():
            script = folders["bin"] / name
            script.write_text(f'#!/bin/sh\nexec {shlex.join([*JAVA, "-cp", classpath(), program])} "$@"\n')
            script.chmod(0o755)
        for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):  # as in the image, of no use here
            (folders["default"] / name).touch()
        java = [*JAVA, "-cp", classpath()]
        setup = ["setup", "--default-configs-dir", str(folders["default"]), "--mounted-configs-dir"]
        setup += [str(folders["mounted"]), "--final-configs-dir", str(folders["config"])]
        return [
            [*java, "kafka.docker.KafkaDockerWrapper", *setup],
            [*java, "kafka.Kafka", str(folders["config"] / "server.properties")],
        ]

    def _runner(self, service: Service) -> Runner:
        return self._ours if service.document["image"] == "truthloop" else self._installed

    def _run(
        self, service: Service, command: Sequence[str], *, timeout: float | None = None
    ) -> "subprocess.CompletedProcess[str]":
        runner = self._runner(service)
        limit = timeout or PATIENCE * seconds(service.document["healthcheck"]["timeout"])
        try:
            return subprocess.run(
                runner.command(service, command),
                cwd=service.folder,
                env=runner.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess([*command], -1, f"longer than {limit:.0f} s")

    def _text(self, service: Service, text: str) -> str:
        """A text of the file with names and ports, and where they are others, paths of this machine."""
        names = "|".join(NAMES)

        def address(found: "re.Match[str]") -> str:
            return f"{'127.0.0.1:' if found[1] is not None else ''}{self._ports[found[2]]}"

        mapped = re.sub(rf"\b(?:({names}|127\.0\.0\.1):)?\b({'|'.join(PORTS)})\b", address, text)
        return self._runner(service).map_paths(service.volumes, mapped)


def replaced(by: Mapping[str, str], text: str) -> str:
    """The text with all of these put in place of each other at once."""
    if not by:
        return text
    return re.sub(rf"(?:{'|'.join(map(re.escape, by))})(?=/|\b)", lambda found: by[found[0]], text)


@contextmanager
def running(project: Document, ours: Runner) -> Iterator[Stack]:
    """A stack in a folder of its own, of which nothing is left behind."""
    # Not pytest's folder: that is for its user alone, and in the image another one runs.
    with tempfile.TemporaryDirectory(prefix="truthloop-stack-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        stack = Stack(project, Path(name), ours)
        try:
            yield stack
        finally:
            stack.kill()


def simulate(stack: Stack) -> None:
    """Traffic over HTTP: jobs end well; nothing acknowledged is lost, doubled or out of order, in Kafka either."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("TRUTHLOOP_")}
    done = subprocess.run(
        [sys.executable, "-m", "truthloop", "simulate", "--jobs", str(JOBS), "--json"],
        env=others
        | {
            "TRUTHLOOP_URL": f"http://{stack.address('8080')}",
            "TRUTHLOOP_TOKEN": TOKEN,
            "TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS": stack.address("9093"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SIMULATION_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["ok"], summary
    assert summary["jobs"] == summary["acknowledged"] == JOBS
    assert summary["lost"] == summary["doubled"] == summary["out_of_order"] == []
    assert summary["unexpected"] == summary["unanswered"] == []
    # Of the others, which are cancelled or deleted, a few are too quick for it.
    assert 0.8 * JOBS <= summary["states"]["succeeded"] <= 0.9 * JOBS, summary
    assert summary["events_in_kafka"] == summary["events"] > 0


def wait_for(condition: Callable[[], bool], what: str, *, deadline_seconds: float = 150.0) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + deadline_seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(LOOK_SECONDS)
