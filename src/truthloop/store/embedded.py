"""The embedded MongoDB: one server for each workspace, started by whoever needs it first.

    with embedded.use(home, idle_seconds=60) as use:
        client = pymongo.MongoClient(use.uri)

Each user holds a shared lock; `supervisor.py` keeps the server, and stops it when nobody has held the lock for
a while. Importing this starts nothing.
"""

import errno
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from truthloop.errors import DiskFull, EmbeddedServerFailed, Unavailable
from truthloop.store import mongod_wire, supervisor
from truthloop.store.locks import lock_holder, signal_holder
from truthloop.store.mongod_binary import find_mongod
from truthloop.store.mongod_failure import OWN_SERVER, Failure, explain, readable
from truthloop.store.mongod_files import (
    Files,
    Record,
    free_bytes,
    mongod_holder,
    read_record,
    socket_folders,
    socket_in,
)

__all__ = ["ServerState", "Use", "find_mongod", "inspect", "stop", "use"]

# A start takes about a second; recovery after a crash of a full server takes minutes. A supervisor that
# neither gets there nor gives up is stuck.
START_SECONDS = 600.0

# A server that is ready answers at once; this long it may be busy, or about to be found dead and restarted.
ANSWER_SECONDS = 5.0

# A supervisor whose folder was moved away from under it notices that within a second and stops.
FOREIGN_SECONDS = 90.0

# Starts that were lost with a supervisor that somebody killed are tried again this often.
MAX_LOST_STARTS = 5

_LOOK_SECONDS = 0.01  # between two looks at a server that others start
_WAIT_SAID_SECONDS = 1.0  # a wait longer than this is told
_LOG_BYTES = 256 * 1024  # of the log's end, read to explain a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What `inspect` found."""

    running: bool  # the supervisor lives, or a mongod that it left behind
    state: str  # "absent", "starting", "ready", "stopping", "stopped", "failed", or "lost": it was killed
    supervisor_pid: int | None
    mongod_pid: int | None
    socket: Path  # where it listens, or would
    data: Path
    log: Path
    supervisor_log: Path
    restarts: int  # how often mongod died under this supervisor and was started again
    reason: str  # of the last change of state
    log_lines: tuple[str, ...]  # the last telling lines of mongod's log


class Use:
    """The right to a running server, until it is released. Threads may share it, and so may forked processes.

    A fork shares the lock: the server stays until both sides have released it or ended.
    """

    def __init__(self, files: Files, idle_seconds: float, lock: int, uri: str) -> None:
        self.uri = uri
        self._files = files
        self._idle_seconds = idle_seconds
        self._locks = [lock]  # taken out by the one who closes it: `pop` is atomic, and needs no lock of its own
        self._abandoned = weakref.finalize(self, _close_all, self._locks)

    def ensure(self, on_wait: Callable[[str], None] | None = None) -> str:
        """Makes sure that the server runs, for a user that finds it gone; gives its address.

        Costs a millisecond where it runs. The address changes only when the folder of the socket had to
        change; then a new client is needed.

        Raises:
            EmbeddedServerFailed, DiskFull: as `use`.
            ValueError: it was released.
        """
        try:
            lock = self._locks[0]
        except IndexError:
            raise _Released from None
        if not _is_file_of(self._files.users_lock, lock):
            # The lock on a folder that is no more keeps nothing alive. A new one is followed; but an empty one
            # isn't made behind the back of a process that had data a moment ago.
            if not self._files.folder.is_dir():
                raise EmbeddedServerFailed(
                    f"{self._files.folder} was moved or removed while it was in use. Put it back, or open the "
                    "workspace at its new place."
                )
            self._locks.append(_hold(self._files))
            try:
                os.close(self._locks.pop(0))
            except IndexError:
                raise _Released from None
        self.uri = _ensure_running(self._files, self._idle_seconds, on_wait)
        return self.uri

    def revive(self) -> bool:
        """As `ensure`, but only after a crash: a server that was stopped on purpose stays so.

        For whoever looks after the server without needing it at the moment, such as a client's heartbeat:
        `truthloop down` would otherwise be undone by every idle notebook. Gives whether it runs.

        Raises:
            EmbeddedServerFailed, DiskFull: as `use`.
        """
        if lock_holder(self._files.supervisor_lock) is None:
            record = read_record(self._files.supervisor_lock)
            if record is not None and record.state in ("stopping", "stopped", "failed"):
                return False
        try:
            self.ensure()
        except _Released:  # while the server was looked for, maybe: by its owner, on another thread
            return False
        return True

    def release(self) -> None:
        """Lets go of the server; a second time does nothing."""
        self._abandoned.detach()
        _close_all(self._locks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _Released(ValueError):
    """`ensure` was called on a use that was released, or is just now."""

    def __init__(self) -> None:
        super().__init__("this use of the embedded MongoDB was released; call `use` again")


def use(home: Path, *, idle_seconds: float, on_wait: Callable[[str], None] | None = None) -> Use:
    """Gives a running server of the workspace in `home`, and starts it if nobody has.

    Args:
        home: the workspace folder; made if it isn't there.
        idle_seconds: how long the server stays after its last user; whoever starts it decides.
        on_wait: is told, in a few words, what takes more than a second.

    Returns:
        The use, whose `uri` leads to a primary that takes writes.

    Raises:
        EmbeddedServerFailed: it can't start; the text has the last lines of its log and what to do.
        DiskFull: no room is left for it.
    """
    files = Files.of(home)
    _make_folder(files)
    lock = _hold(files)
    try:
        uri = _ensure_running(files, idle_seconds, on_wait)
    except BaseException:
        os.close(lock)
        raise
    return Use(files, idle_seconds, lock, uri)


def inspect(home: Path) -> ServerState:
    """What is known of the server of the workspace in `home`. Starts, makes and changes nothing.

    Raises:
        EmbeddedServerFailed: the folder belongs to another user.
    """
    files = Files.of(home)
    _check_owner(files)
    holder = lock_holder(files.supervisor_lock)
    mongod = mongod_holder(files)
    record = read_record(files.supervisor_lock)
    state: str = "absent" if record is None else record.state
    if holder is None and state in ("starting", "ready", "stopping"):
        state = "lost"
    if record is not None and record.folder != str(files.folder):
        record = None  # it came along with a folder that was moved or copied: what it says is of another server
    would_be = next(socket_folders(files.folder, os.environ, uid=os.geteuid()), Path("/tmp"))
    return ServerState(
        running=holder is not None or mongod is not None,
        state=state,
        supervisor_pid=holder,
        mongod_pid=mongod,
        socket=Path(record.socket) if record is not None and record.socket else socket_in(would_be),
        data=files.data,
        log=files.log,
        supervisor_log=files.supervisor_log,
        restarts=record.restarts if record is not None else 0,
        reason=record.reason if record is not None else "",
        log_lines=tuple(readable(_log_lines(files, 0))),
    )


def stop(home: Path, *, timeout_seconds: float = 30) -> bool:
    """Stops the server now and cleanly, even while others use it; their next `ensure` gets a new one.

    Returns:
        Whether it was running.

    Raises:
        EmbeddedServerFailed: it still runs after `timeout_seconds`, or belongs to another user.
    """
    files = Files.of(home)
    _check_owner(files)
    deadline = time.monotonic() + timeout_seconds
    asked: set[int] = set()  # who was sent the signal
    first: int | None = None
    while True:
        holder = lock_holder(files.supervisor_lock)
        if holder is not None and first is not None and holder != first:
            return True  # ours is gone; this is a fresh one of somebody who came at the same moment
        if holder is None:
            holder = mongod_holder(files)  # its supervisor was killed, so it is stopping already
            if holder is None:
                return bool(asked)
        else:
            first = holder
        if holder == 0:
            raise EmbeddedServerFailed(_elsewhere(files))
        if holder not in asked and _ask_to_stop(files, holder):
            asked.add(holder)
        if time.monotonic() > deadline:
            raise EmbeddedServerFailed(
                f"The embedded MongoDB (process {holder}) did not stop within {timeout_seconds:g} s; it may be "
                f"writing a lot. Wait and try again; {files.log} says what it does."
            )
        time.sleep(_LOOK_SECONDS)


def _ask_to_stop(files: Files, pid: int) -> bool:
    try:
        return signal_holder(pid, signal.SIGTERM, files.supervisor_lock, files.mongod_lock)
    except PermissionError as error:
        raise EmbeddedServerFailed(
            f"The embedded MongoDB (process {pid}) was started by somebody else. Stop it as that user."
        ) from error


def _make_folder(files: Files) -> None:
    try:
        files.folder.parent.mkdir(parents=True, exist_ok=True)
        files.folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _not_writable(files, error) from error
    _check_owner(files)


def _check_owner(files: Files) -> None:
    """Refuses the folder of another user, whose right to it a server of this one would take."""
    try:
        owner = files.folder.stat().st_uid
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _not_writable(files, error) from error
    if owner != os.geteuid():
        raise EmbeddedServerFailed(
            f"{files.folder} belongs to another user (number {owner}), who could not use it any more after a "
            "server of yours. Work as that user, or name a workspace of your own in TRUTHLOOP_HOME."
        )


def _hold(files: Files) -> int:
    """Takes the shared lock of a user; gives the descriptor that holds it."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            lock = os.open(files.users_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _not_writable(files, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if _is_file_of(files.users_lock, lock):
                os.utime(lock)  # the supervisor sees that somebody was there, however short
                return lock
        except BlockingIOError:  # the supervisor looks whether anybody uses it: a moment
            pass
        except OSError as error:
            os.close(lock)
            raise _not_writable(files, error) from error
        os.close(lock)
        if time.monotonic() > deadline:
            raise EmbeddedServerFailed(f"{files.users_lock} is locked by another program. End that program.")
        time.sleep(_LOOK_SECONDS / 2)


def _not_writable(files: Files, error: OSError) -> Unavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        failure = Failure(kind="os", errno=error.errno)
        return explain(failure, files=files, log=[])
    return EmbeddedServerFailed(
        f"{error.filename or files.folder} can't be written: {error.strerror}. Make the workspace folder "
        "writable, or name another in TRUTHLOOP_HOME."
    )


def _ensure_running(files: Files, idle_seconds: float, on_wait: Callable[[str], None] | None) -> str:
    """Waits until a server takes writes, starting it where nobody has; gives its address."""
    waiting = _Waiting(on_wait)
    lost = 0
    foreign_since: float | None = None
    while True:
        holder = lock_holder(files.supervisor_lock)
        record = read_record(files.supervisor_lock)
        if holder is None:
            report = _start(files, idle_seconds, waiting)
            if report["state"] == "failed":
                raise _explained(files, Failure.of(report))
            lost += report["state"] == "lost"
            if lost > MAX_LOST_STARTS:
                raise EmbeddedServerFailed(
                    f"The process that keeps the embedded MongoDB ends as soon as it starts: {report['text']}. "
                    f"See {files.supervisor_log}, or {OWN_SERVER}."
                )
            continue
        ours = record is not None and record.supervisor_pid == holder and record.folder == str(files.folder)
        if ours and record is not None and record.state == "ready" and _answers(record):
            return _uri(record)
        if holder == 0:
            raise EmbeddedServerFailed(_elsewhere(files))
        # Somebody holds the lock whose record isn't his, or is of another folder: he has just started, or the
        # folder was moved from under him.
        foreign_since = None if ours else foreign_since or time.monotonic()
        if foreign_since is not None and time.monotonic() > foreign_since + FOREIGN_SECONDS:
            raise EmbeddedServerFailed(_elsewhere(files))
        waiting.look(record.state if ours and record is not None else "starting")
        if waiting.seconds() > START_SECONDS:
            raise _explained(
                files, Failure(kind="stuck", text=f"it is not ready after {START_SECONDS / 60:g} minutes")
            )
        time.sleep(_LOOK_SECONDS)


def _answers(record: Record) -> bool:
    return bool(mongod_wire.is_writable_primary(Path(record.socket), timeout_seconds=ANSWER_SECONDS))


def _uri(record: Record) -> str:
    return f"mongodb://{quote(record.socket, safe='')}/?replicaSet={mongod_wire.REPLICA_SET}"


def _start(files: Files, idle_seconds: float, waiting: "_Waiting") -> dict[str, Any]:
    """Starts a supervisor and waits for its answer.

    Returns:
        Its report: `state` is "ready", "taken" (another was faster; look again), "failed" (with the facts),
        or "lost" (it was killed before it could answer).
    """
    program = find_mongod()
    answer, question = os.pipe()
    try:
        with files.supervisor_log.open("ab") as log:
            if log.tell() > supervisor.MAX_LOG_BYTES:
                log.truncate(0)
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", supervisor.__name__),
                    *("--folder", str(files.folder), "--mongod", str(program)),
                    *("--idle-seconds", str(idle_seconds), "--report", str(question)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                pass_fds=[question],
                start_new_session=True,  # Ctrl-C in this terminal is not meant for it
            )
    except OSError as error:
        os.close(answer)
        raise _not_writable(files, error) from error
    finally:
        os.close(question)
    try:
        line = _read_line(answer, waiting)
    finally:
        os.close(answer)
        process.wait()  # it has forked and gone
    if line:
        report: dict[str, Any] = json.loads(line)
        return report
    if process.returncode != 0:
        with suppress(OSError):
            last = files.supervisor_log.read_text(errors="replace").strip().splitlines()[-1:]
            return {"state": "failed", "kind": "python", "text": f"{sys.executable}: {' '.join(last)}"}
    return {"state": "lost", "text": "it gave no answer"}


def _read_line(descriptor: int, waiting: "_Waiting") -> bytes:
    """What comes before the first newline; empty if the other side ends without one."""
    found = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not found.endswith(b"\n"):
        if poll.poll(100):
            piece = os.read(descriptor, 65_536)
            if not piece:
                return b""
            found += piece
        waiting.look("starting")
        if waiting.seconds() > START_SECONDS:
            return b""
    return found


def _explained(files: Files, failure: Failure) -> Unavailable:
    log = _log_lines(files, failure.log_offset)
    error = explain(failure, files=files, log=log)
    if not isinstance(error, DiskFull):
        with suppress(OSError):
            # A server that has no room left dies in many ways, and not all of them say so.
            free = free_bytes(files.folder)
            if free < supervisor.MIN_FREE_BYTES:
                failure = Failure(kind="disk_full", free_bytes=free)
                return explain(failure, files=files, log=[])
    return error


def _log_lines(files: Files, offset: int) -> list[str]:
    try:
        with files.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            # A log that is shorter than the offset was put aside in the meantime.
            log.seek(max(offset if offset <= size else 0, size - _LOG_BYTES))
            return log.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _elsewhere(files: Files) -> str:
    return (
        f"The MongoDB on {files.folder} is kept by another container or machine, or under another path of that "
        f"folder. End Truthloop there, or {OWN_SERVER} in both places."
    )


def _is_file_of(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _close_all(descriptors: list[int]) -> None:
    """Closes without unlocking: a forked process that shares the open file keeps the lock."""
    while True:
        try:
            descriptor = descriptors.pop()
        except IndexError:
            return
        with suppress(OSError):
            os.close(descriptor)


class _Waiting:
    """Tells the user what a wait is for, once it is long."""

    def __init__(self, on_wait: Callable[[str], None] | None) -> None:
        self._on_wait = on_wait
        self._began = time.monotonic()
        self._said = ""

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def look(self, state: str) -> None:
        if self._on_wait is None or self.seconds() < _WAIT_SAID_SECONDS:
            return
        text = {
            "stopping": "The embedded MongoDB is stopping; it starts again right after.",
            "ready": "The embedded MongoDB does not answer at the moment.",
        }.get(state, "The embedded MongoDB is starting.")
        if text != self._said:
            self._said = text
            self._on_wait(text)
