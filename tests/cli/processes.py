"""Runs the commands as a user does, as processes of their own."""

import os
import pty
import re
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


def on_a_terminal(terminal: Terminal, *arguments: str, into: Path | None = None) -> str:
    """What a command writes to a terminal of 80 columns; its standard output may go into a file."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb", buffering=0) as screen, (into or Path(os.devnull)).open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "truthloop", *arguments],
            env=terminal.environment | {"TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=file if into is not None else screen,
            stderr=screen,
        )
    written = b""
    with os.fdopen(ours, "rb", buffering=0) as screen:
        try:
            while part := screen.read(65536):
                written += part
        except OSError:  # the other side is closed
            pass
    assert process.wait() == 0
    # Without colours, and without lines that are overwritten.
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    return "\n".join(line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n"))


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
