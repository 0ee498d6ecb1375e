"""The files of the embedded MongoDB: where they lie, who holds their locks, what the record says.

Imported by the supervisor, so only the standard library is imported here, and little of it.

    HOME/mongodb/             mode 0700
        data/                 mongod's own files
        mongod.log, .log.1    its log, bounded: see supervisor.py
        supervisor.log        what the supervisor did and why
        supervisor.lock       held by the supervisor as long as it lives; its content is the record
        users.lock            held, shared, by each user

The supervisor's lock is a POSIX one, whose holder can be asked for without taking it (locks.py). The users' lock
is a `flock`: it belongs to the open file, so it goes with the process that dies, and a fork shares it.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from truthloop.store.locks import lock_holder

RECORD_BYTES = 4096  # one page: written in place, so an update needs no room on a full disk

SOCKET_PATH_BYTES = 107  # sun_path of sockaddr_un holds 108 with its closing zero

# PyMongo writes a member's host in lower case, and a colon, comma, percent or question mark has a meaning in a
# list of hosts: a socket under such a path is never found again.
_PLAIN_PATH = re.compile(r"(/[a-z0-9._+=@~-]+)+")

State = Literal["starting", "ready", "stopping", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Files:
    """Where the files of one embedded server lie."""

    folder: Path  # HOME/mongodb, links resolved

    @classmethod
    def of(cls, home: Path) -> "Files":
        """Of the workspace in `home`, which need not exist yet."""
        return cls((home.expanduser() / "mongodb").resolve())

    @property
    def data(self) -> Path:
        """Mongod's own files."""
        return self.folder / "data"

    @property
    def mongod_lock(self) -> Path:
        """WiredTiger's own lock, held by the mongod that has the data open."""
        return self.data / "WiredTiger.lock"

    @property
    def log(self) -> Path:
        """Mongod's log."""
        return self.folder / "mongod.log"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor did and why."""
        return self.folder / "supervisor.log"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor as long as it lives; its content is the record."""
        return self.folder / "supervisor.lock"

    @property
    def users_lock(self) -> Path:
        """Held, shared, by each user."""
        return self.folder / "users.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the supervisor says of itself; true only while it holds its lock, and its last words afterwards."""

    state: State
    supervisor_pid: int
    folder: str  # a folder that was moved or copied takes its record along: this tells
    socket: str
    restarts: int = 0  # how often mongod died and was started again
    reason: str = ""  # of the last change of state, for people


def read_record(path: Path) -> Record | None:
    """The record in `path`; none if there is no file, or if it is just being written."""
    try:
        with path.open("rb", buffering=0) as file:
            text = file.read(RECORD_BYTES)
        return Record(**json.loads(text))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def write_record(descriptor: int, record: Record) -> None:
    """Writes it over the old one, in one call and with the same length."""
    line = json.dumps(asdict(record), separators=(",", ":")).encode()
    os.pwrite(descriptor, line.ljust(RECORD_BYTES - 1) + b"\n", 0)


def mongod_holder(files: Files) -> int | None:
    """The mongod that has the data open; as `lock_holder` answers."""
    return lock_holder(files.mongod_lock)


def data_is_free(files: Files) -> bool:
    """Whether no mongod has the data open or is about to open it.

    Tries mongod's own lock, so only the supervisor may ask, which alone starts one.
    """
    if mongod_holder(files) is not None:
        return False
    try:
        descriptor = os.open(files.data / "mongod.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def socket_folders(folder: Path, environment: Mapping[str, str], *, uid: int) -> Iterator[Path]:
    """The folders that could hold the socket of the data in `folder`, the best first.

    The name is a hash of the folder, so two workspaces never meet; the base is short enough for a socket's
    path and written so that every client finds it again.
    """
    name = "truthloop-" + hashlib.sha256(f"{uid}:{folder}".encode()).hexdigest()[:16]
    for base in (environment.get("XDG_RUNTIME_DIR"), environment.get("TMPDIR"), "/tmp", "/var/tmp"):
        if not base or not _PLAIN_PATH.fullmatch(base.rstrip("/")):
            continue
        found = Path(base) / name
        if len(bytes(socket_in(found))) <= SOCKET_PATH_BYTES:
            yield found


def socket_in(folder: Path) -> Path:
    """The socket's path in its folder."""
    return folder / "mongod.sock"


def make_socket_folder(candidates: Iterator[Path]) -> Path:
    """Makes the first folder that can be made, private to this user, or takes the one that is there.

    Raises:
        PermissionError: it is there and isn't ours: somebody else could answer in MongoDB's place.
        OSError: none can be made.
    """
    refused: OSError = FileNotFoundError(errno.ENOENT, "No folder can hold the socket of MongoDB", "/tmp")
    for folder in candidates:
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except OSError as error:  # no such base, or not writable: the next may do
            refused = error
            continue
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "It belongs to somebody else", str(folder))
        if stat.S_IMODE(found.st_mode) != 0o700:
            folder.chmod(0o700)
        return folder
    raise refused


def free_bytes(path: Path) -> int:
    """How much an ordinary user can still write to the disk that holds `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
