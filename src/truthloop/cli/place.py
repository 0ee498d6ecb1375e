"""The place of a workspace's one service: who holds it, its token, its log.

A running service holds a POSIX lock on `service.lock` for as long as it lives, and says in `service.json` where it
can be reached. Who it is, the kernel says, which knows the lock's holder and lets go of the lock when that process
dies in whatever way. A `service.json` of any other process was left behind, and means nothing.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from truthloop.errors import AlreadyRunning, SettingRefused
from truthloop.store.locks import lock_holder, signal_holder

if TYPE_CHECKING:
    from truthloop.settings import Settings

LOCK_NAME, LOG_NAME = "service.lock", "service.log"
# The log is kept up to this size, and its predecessor beside it.
MAX_LOG_BYTES = 10 * 1024 * 1024
LOG_CHECK_SECONDS = 30.0
PROBE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service: its process, and its address from this machine."""

    pid: int
    url: str

    def is_ready(self) -> bool:
        """Whether it answers that it is ready."""
        try:
            # Around any proxy: it is on this machine.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{self.url}/readyz", timeout=PROBE_SECONDS) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


@contextmanager
def claim(home: Path, url: str) -> Iterator[Service]:
    """Holds the place for the calling process.

    Raises:
        AlreadyRunning: another process holds it.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    service = Service(pid=os.getpid(), url=url)
    with _lock_file(home) as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows both
            other = find(home)
            raise AlreadyRunning(
                "Truthloop already runs for this workspace"
                + (f" at {other.url} (process {other.pid})." if other else ".")
                + " Stop it with `truthloop down`."
            ) from None
        write_private(home / "service.json", json.dumps(asdict(service)) + "\n")
        try:
            yield service
        finally:
            (home / "service.json").unlink(missing_ok=True)


def find(home: Path) -> Service | None:
    """The service that runs for the workspace, or none; whether it is ready is another question."""
    try:
        said = Service(**json.loads((home / "service.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    # Otherwise whoever holds the place has only just taken it, or is leaving it, and this is of an earlier one.
    return said if holds(home, said) else None


def is_held(home: Path) -> bool:
    """Whether a live process holds the place."""
    return lock_holder(home / LOCK_NAME) is not None


def holds(home: Path, service: Service) -> bool:
    """Whether it is this service that holds the place."""
    return lock_holder(home / LOCK_NAME) == service.pid


def send(home: Path, service: Service, number: signal.Signals) -> bool:
    """Signals the service, and no process that has its pid by now; returns whether it still had the place.

    Raises:
        PermissionError: it is another user's.
    """
    return signal_holder(service.pid, number, home / LOCK_NAME)


def token(settings: "Settings") -> str:
    """The token that requests must carry: TRUTHLOOP_TOKEN, else the workspace's own, made at its first use."""
    if settings.token is not None:
        return settings.token.get_secret_value()
    path = settings.home / "token"
    with suppress(FileNotFoundError):
        kept = path.read_text(encoding="utf-8").strip()
        if len(kept) < 32:
            raise SettingRefused(f"{path} holds no token of 32 characters or more. Remove it to get a new one.")
        path.chmod(0o600)
        return kept
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine = path.with_name(f"token.{os.getpid()}.new")
    write_private(mine, secrets.token_urlsafe(32) + "\n")
    with suppress(FileExistsError):  # of two processes at once, both take the first one's
        path.hardlink_to(mine)
    mine.unlink()
    return path.read_text(encoding="utf-8").strip()


def link(settings: "Settings", service: Service) -> str:
    """The address to open in a browser, with the token in it, as Jupyter does."""
    return f"{settings.public_url or service.url}/?token={token(settings)}"


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - the mode must be right from the start
        file.write(text)
    new.replace(path)


@contextmanager
def bounded_log(path: Path) -> Iterator[None]:
    """Keeps a log that is written in append mode from growing without end."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOG_CHECK_SECONDS):
            bound_log(path)

    bound_log(path)
    thread = threading.Thread(target=watch, name="truthloop-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def bound_log(path: Path, limit: int = MAX_LOG_BYTES) -> None:
    """Begins the log anew where it has reached the limit; what it held is kept as `.1`."""
    with suppress(OSError):  # no room, or no such file: the service goes on
        if path.stat().st_size > limit:
            shutil.copy(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)  # whoever writes in append mode goes on at the beginning


@contextmanager
def open_log(path: Path) -> Iterator[int]:
    """The log for a process to append to, as a file descriptor; only its owner can read it.

    Makes the workspace's folder where there is none: with TRUTHLOOP_TOKEN set, nothing has been put there before.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def last_lines(path: Path, number: int = 10) -> str:
    """The end of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-number:])


@contextmanager
def _lock_file(home: Path) -> Iterator[int]:
    descriptor = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # and with it the lock
