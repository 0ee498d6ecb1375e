"""Runs the commands as a user does, as processes of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cli.forks import Forks

TIMEOUT_SECONDS = 120
FORKS = Forks()


class Terminal:
    """Runs `truthloop` with the settings of one workspace; what it prints goes to pipes."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TRUTHLOOP_")
        } | {"TRUTHLOOP_HOME": str(home), "COLUMNS": "80", **settings}

    def run(self, *arguments: str | Path, **settings: str) -> "subprocess.CompletedProcess[str]":
        """One command, to its end."""
        return FORKS.run([*map(str, arguments)], self.environment | settings, timeout=TIMEOUT_SECONDS)

    def answer(self, *arguments: str | Path) -> str:
        """The output of a command that succeeds."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        """A command that goes on until it is stopped."""
        return subprocess.Popen(
            [sys.executable, "-m", "truthloop", *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def interrupt(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Ctrl-C: its exit code, and what it says on the standard error."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, errors


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits until it holds, with a deadline."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def free_port() -> str:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
