"""The small process that keeps the embedded MongoDB of one workspace: starts it, restarts it, stops it.

    python -m truthloop.store.supervisor --folder HOME/mongodb --mongod PATH --idle-seconds 60 [--report FD]

`truthloop.store.embedded` starts it, and nobody else needs to. It holds its lock as long as it lives, so there
is one for each workspace; one that finds the lock taken leaves. It is no child of the process that needed it
(which may end any time), and keeps nothing of it open.

It has one thread and one loop, which waits for signals: SIGCHLD (mongod has died), SIGTERM and its like
(stop), or a second without any (look after the idle time, the log, the folder). Mongod lives no longer than its
supervisor: the kernel sends it SIGTERM when this process dies, however it dies.

It imports little: it starts in a few hundredths of a second and keeps 15 MB.
"""

import argparse
import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from truthloop.store import mongod_wire
from truthloop.store.mongod_files import (
    Files,
    Record,
    State,
    data_is_free,
    free_bytes,
    make_socket_folder,
    socket_folders,
    socket_in,
    write_record,
)

# With less than this mongod is not started: it aborts at the first write that doesn't fit, at worst while it
# recovers. It is several times what a start needs.
MIN_FREE_BYTES = 32 * 2**20

# Change-stream readers live from the oplog. This holds two million inserted documents of 800 bytes, so that a
# follower can sleep through a load of a million; compressed it takes a quarter of that on the disk, and only
# once that much was written. MongoDB's default, 5% of the free disk, is up to 50 GB.
OPLOG_MEGABYTES = 2048

# A process that is killed in a transaction leaves it to the server, and nobody can change what it has written
# until the server ends it. MongoDB's default is 60; ours (store/connection.py) end within 20.
TRANSACTION_SECONDS = 30

# A log with its predecessor is at most twice this, and what one look-round lets through.
MAX_LOG_BYTES = 8 * 2**20

# Mongod stops within about a second; a last checkpoint of gigabytes takes longer. After that it is killed,
# which costs a recovery at the next start and no data.
STOP_SECONDS = 60.0

# A mongod whose supervisor was killed is told to stop, and its data are free after that.
FREE_SECONDS = STOP_SECONDS + 30.0

# So often may mongod die within this time before the supervisor gives up.
MAX_DEATHS, DEATHS_SECONDS = 5, 60.0

LOOK_SECONDS = 1.0  # between two looks round, when nothing happens
_START_LOOK_SECONDS = 0.01  # while mongod starts: this long at most is a start delayed by asking

_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_SIGNALS = {signal.SIGCHLD, *_STOP_SIGNALS}

_PR_SET_PDEATHSIG = 1


class StartFailed(Exception):
    """Mongod can't be started; `facts` say what is known, in words of JSON."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(str(facts))
        self.facts = facts


class Stopped(Exception):
    """Somebody asks this process to end."""


class FolderGone(Exception):
    """The folder isn't at its path any more: what is there now, socket and data, is another supervisor's."""


@dataclass(kw_only=True)
class Supervisor:
    """One mongod and what keeps it. Not frozen: it is the state of a process."""

    files: Files
    binary: Path
    idle_seconds: float
    lock: int  # descriptor that holds the supervisor's lock, and by which the record is written
    users: int  # descriptor of the users' lock
    report: int | None  # where the process that needed the server waits for the answer
    socket: Path = Path()
    mongod: subprocess.Popen[bytes] | None = None
    output: int = -1  # what mongod writes before it has a log
    log_offset: int = 0  # where the log of this start begins
    deaths: list[float] = field(default_factory=list)
    restarts: int = 0

    def run(self) -> int:
        """Keeps mongod until nobody needs it; gives the exit status of this process."""
        try:
            self._say("starting", "asked by a user")
            self._wait_for_data()
            self._start()
            self._ready()
            self._answer({"state": "ready"})
            while True:
                reason = self._watch()
                if reason is not None:
                    self._end(*reason)
                    return 0
        except Stopped as asked:
            self._end("stopped", str(asked))
            return 0
        except FolderGone:
            # Mongod can't write a last checkpoint to a path that is gone; the journal has everything.
            if self.mongod is not None:
                self.mongod.kill()
            self._end("stopped", "the folder was moved or removed")
            return 0
        except StartFailed as failed:
            self._kill()
            self._fail(failed.facts)
        except OSError as error:  # no room, no right, no process
            self._kill()
            self._fail({"kind": "os", "errno": error.errno, "path": error.filename, "text": str(error)})
        return 1

    # -- starting ------------------------------------------------------------------------------------

    def _wait_for_data(self) -> None:
        """Waits until a mongod that was left behind has stopped."""
        self.files.data.mkdir(mode=0o700, exist_ok=True)
        deadline = time.monotonic() + FREE_SECONDS
        while not data_is_free(self.files):
            if time.monotonic() > deadline:
                raise StartFailed(kind="in_use")
            self._wait_for_signal(0.05)

    def _start(self) -> None:
        """Starts mongod and waits until it takes writes.

        Raises:
            StartFailed: it ended before that.
            FolderGone: the data aren't there any more.
        """
        self._check_folder()
        free = free_bytes(self.files.data)
        if free < MIN_FREE_BYTES:
            raise StartFailed(kind="disk_full", free_bytes=free)
        folder = make_socket_folder(
            socket_folders(self.files.folder, os.environ, uid=os.geteuid())  # afresh: the last may have gone
        )
        self.socket = socket_in(folder)
        self.socket.unlink(missing_ok=True)
        self._rotate_log()
        deadline = time.monotonic() + FREE_SECONDS
        while True:
            self._spawn()
            if self._becomes_primary():
                return
            self._check_folder()
            assert self.mongod is not None
            in_use = b"DBPathInUse" in _read_from(self.files.log, self.log_offset)
            if not in_use or time.monotonic() > deadline:
                raise StartFailed(
                    kind="in_use" if in_use else "exit",
                    status=self.mongod.returncode,
                    output=_tail_of(self.output),
                    log_offset=self.log_offset,
                    free_bytes=free_bytes(self.files.data),
                )
            # One that was left behind came first after all; it stops soon.
            self._wait_for_signal(0.1)

    def _spawn(self) -> None:
        self.log_offset = self.files.log.stat().st_size if self.files.log.exists() else 0
        if self.output >= 0:
            os.close(self.output)
        # In memory, for the loader's complaints (a missing library) must be readable on a full disk, too.
        self.output = os.memfd_create("mongod-output")
        self.mongod = subprocess.Popen(
            [str(self.binary), *mongod_options(self.files, self.socket, cache_gigabytes=cache_gigabytes())],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            cwd="/",
            preexec_fn=_die_with(os.getpid()),  # safe: this process has one thread
        )
        _log(f"mongod {self.mongod.pid} started with its socket at {self.socket}")

    def _becomes_primary(self) -> bool:
        """Waits until mongod takes writes (true) or has died (false)."""
        assert self.mongod is not None
        asked = False
        while self.mongod.poll() is None:
            self._check_folder()
            primary = mongod_wire.is_writable_primary(self.socket, timeout_seconds=5)
            if primary:
                return True
            if primary is not None and not asked:
                try:
                    mongod_wire.make_primary(self.socket)
                    asked = True
                    continue
                except OSError as error:  # it has just opened its socket, or died: the loop finds out
                    _log(f"forming the replica set: {error}")
            self._wait_for_signal(_START_LOOK_SECONDS)
        return False

    def _ready(self) -> None:
        self._say("ready", "")

    def _has_folder(self) -> bool:
        return _same_file(self.files.supervisor_lock, self.lock)

    def _check_folder(self) -> None:
        if not self._has_folder():
            raise FolderGone

    # -- watching ------------------------------------------------------------------------------------

    def _watch(self) -> tuple[State, str] | None:
        """Waits until it ought to end; gives the last state and why. None if mongod had to be started anew."""
        assert self.mongod is not None
        seen = time.monotonic()
        touched = os.fstat(self.users).st_mtime_ns
        look_seconds = min(LOOK_SECONDS, self.idle_seconds / 4)
        while True:
            self._wait_for_signal(look_seconds)
            # First, for mongod dies by itself when it misses its folder, and a new one may be at the path by now.
            self._check_folder()
            if self.mongod.poll() is not None:
                self._restart(f"mongod died ({_status_text(self.mongod.returncode)})")
                return None
            if not self.socket.exists():  # a session's runtime folder goes with the session
                _log("the socket was removed")
                self._stop_mongod()
                self._restart("the socket was removed", is_death=False)
                return None
            self._rotate_log()
            touched_now = os.fstat(self.users).st_mtime_ns
            with _nobody_uses(self.users) as alone:
                if not alone or touched_now != touched:
                    # A command may come and go between two looks; it leaves its mark on the file's time.
                    seen, touched = time.monotonic(), touched_now
                elif time.monotonic() - seen >= self.idle_seconds:
                    # Said under the exclusive lock: whoever holds the shared one and reads `ready` keeps it.
                    self._say("stopping", "")
                    return "stopped", f"no user for {self.idle_seconds:g} s"

    def _restart(self, reason: str, *, is_death: bool = True) -> None:
        """Starts mongod again, unless it dies time and again."""
        while True:
            now = time.monotonic()
            self.deaths = [death for death in self.deaths if death > now - DEATHS_SECONDS]
            self.deaths += [now] * is_death
            if len(self.deaths) > MAX_DEATHS:
                raise StartFailed(kind="restarts", text=reason)
            _log(f"{reason}; starting it again")
            self.restarts += 1
            self._say("starting", reason)
            try:
                self._start()
            except StartFailed as failed:
                if failed.facts["kind"] != "exit":  # a disk stays full; mongod itself may do better next time
                    raise
                is_death, reason = True, f"mongod didn't start: {failed}"
            else:
                self._ready()
                return

    def _wait_for_signal(self, seconds: float) -> None:
        """Waits for SIGCHLD or the time, whichever is first.

        Raises:
            Stopped: another of the signals came.
        """
        found = signal.sigtimedwait(_SIGNALS, seconds)
        if found is not None and found.si_signo in _STOP_SIGNALS:
            raise Stopped(f"{signal.Signals(found.si_signo).name} from process {found.si_pid}")

    # -- ending --------------------------------------------------------------------------------------

    def _end(self, state: State, reason: str) -> None:
        _log(f"stopping: {reason}")
        self._say("stopping", reason)
        self._answer({"state": "taken"})  # whoever still waits for this start tries again
        self._stop_mongod()
        self._say(state, reason)

    def _fail(self, facts: dict[str, Any]) -> None:
        _log(f"failed: {json.dumps(facts)}")
        self._answer({"state": "failed", **facts})
        self._say("failed", facts["kind"])

    def _stop_mongod(self) -> None:
        """Stops it cleanly, with a last checkpoint; kills it if that takes too long."""
        if self.mongod is not None and self.mongod.poll() is None:
            self.mongod.terminate()
            try:
                self.mongod.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                _log(f"mongod doesn't stop within {STOP_SECONDS:g} s and is killed")
            if self.mongod.returncode not in (None, 0):
                _log(f"mongod ended with {_status_text(self.mongod.returncode)}")
        self._kill()

    def _kill(self) -> None:
        if self.mongod is not None:
            self.mongod.kill()
            self.mongod.wait()
        if self.socket != Path() and self._has_folder():
            with suppress(OSError):
                self.socket.unlink(missing_ok=True)
                self.socket.parent.rmdir()

    # -- telling -------------------------------------------------------------------------------------

    def _say(self, state: State, reason: str) -> None:
        record = Record(
            state=state,
            supervisor_pid=os.getpid(),
            folder=str(self.files.folder),
            socket=str(self.socket) if self.socket != Path() else "",
            restarts=self.restarts,
            reason=reason[:500],
        )
        try:
            write_record(self.lock, record)
        except OSError as error:
            if error.errno != errno.ENOSPC or state in ("starting", "ready"):
                raise
            _log("no room for the last record")  # the process that waits is answered all the same

    def _answer(self, answer: dict[str, Any]) -> None:
        if self.report is not None:
            with suppress(BrokenPipeError):
                os.write(self.report, json.dumps(answer).encode() + b"\n")
            os.close(self.report)
            self.report = None

    def _rotate_log(self) -> None:
        """Puts mongod's log aside when it is long, so that it can't fill the disk."""
        log = self.files.log
        with suppress(FileNotFoundError):
            if log.stat().st_size > MAX_LOG_BYTES:
                log.replace(log.with_name(log.name + ".1"))
                if self.mongod is not None and self.mongod.poll() is None:
                    self.mongod.send_signal(signal.SIGUSR1)  # it opens the log anew


def mongod_options(files: Files, socket: Path, *, cache_gigabytes: float) -> list[str]:
    """How mongod is started: a replica set of one that can be reached by one Unix socket and nothing else."""
    parameters = {
        "diagnosticDataCollectionEnabled": "false",  # up to 200 MB of figures for MongoDB's own support
        "transactionLifetimeLimitSeconds": str(TRANSACTION_SECONDS),
    }
    return [
        *("--dbpath", str(files.data)),
        *("--replSet", mongod_wire.REPLICA_SET),  # transactions and change streams need one
        *("--oplogSize", str(OPLOG_MEGABYTES)),
        *("--bind_ip", str(socket), "--port", "27017"),  # a port must be named; with a socket alone none is opened
        "--nounixsocket",  # the second socket, in /tmp, that everyone could see
        *("--filePermissions", "0600"),
        *("--logpath", str(files.log), "--logappend", "--logRotate", "reopen", "--quiet"),
        "--noscripting",  # no JavaScript in queries: Truthloop has none
        *("--wiredTigerCacheSizeGB", f"{cache_gigabytes:.2f}"),
        # Two spare journal files of 100 MB each would be laid out beforehand: two thirds of a new workspace.
        *("--wiredTigerEngineConfigString", "log=(prealloc=false)"),
        *(word for name, value in parameters.items() for word in ("--setParameter", f"{name}={value}")),
    ]


def cache_gigabytes() -> float:
    """A quarter of the memory, from 0.25 to 4: MongoDB's default is half, and models need the rest."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max", or no such file
            memory = min(memory, int(Path(limit).read_text()))
    return min(max(memory / 4 / 2**30, 0.25), 4.0)


def _die_with(supervisor: int) -> Any:
    """What the child does before it becomes mongod."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != supervisor:  # it died before that, so no signal will come
            os._exit(1)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # WiredTiger has a file for each index
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core as large as the cache fills the disk

    return prepare


@contextmanager
def _nobody_uses(users: int) -> Iterator[bool]:
    """Holds the users' lock exclusively, if nobody holds it."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(users, fcntl.LOCK_UN)


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _tail_of(output: int) -> str:
    size = os.fstat(output).st_size
    return os.pread(output, 4000, max(0, size - 4000)).decode(errors="replace")


def _read_from(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(2 * MAX_LOG_BYTES)
    except OSError:
        return b""


def _status_text(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _log(text: str) -> None:
    """One line in supervisor.log, which is this process's standard error."""
    with suppress(OSError):  # a full disk must not end the one who copes with it
        print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), os.getpid(), text, file=sys.stderr, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Becomes the supervisor of a folder, or leaves if it has one."""
    parser = argparse.ArgumentParser(prog="python -m truthloop.store.supervisor", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--mongod", type=Path, required=True)
    parser.add_argument("--idle-seconds", type=float, required=True)
    parser.add_argument("--report", type=int)
    options = parser.parse_args(arguments)

    if os.fork():
        os._exit(0)  # the process that needed the server waits for this one, so that it has no dead child
    os.umask(0o077)
    # Before the lock is taken: who holds it can be asked to stop, and never dies of that in the middle.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    files = Files(options.folder)
    lock = os.open(files.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # This file is opened once in this process: a POSIX lock goes with the first descriptor that is closed.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        if options.report is not None:
            os.write(options.report, b'{"state": "taken"}\n')
        os._exit(0)
    supervisor = Supervisor(
        files=files,
        binary=options.mongod,
        idle_seconds=options.idle_seconds,
        lock=lock,
        users=os.open(files.users_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600),
        report=options.report,
    )
    sys.exit(supervisor.run())


if __name__ == "__main__":
    main()
