"""POSIX locks (fcntl), which tell who holds them.

Nothing goes by process ids that were written down: a pid can be another program's by now. Who runs is asked of the
kernel, which knows the holder of a lock and lets go of it when that process ends, however it does.

Only the standard library is imported here, and little of it: the supervisor of the embedded MongoDB imports it.
"""

import fcntl
import os
import signal
import struct
from pathlib import Path

# struct flock of 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi0q")


def lock_holder(path: Path) -> int | None:
    """Which process holds the POSIX lock on a file; none if nobody does, 0 if it can't be seen from here.

    Asking takes no lock, so it disturbs nobody. 0 is a process of another container or machine. The holder itself
    must not ask: a process that closes a file loses its locks on it, whichever descriptor they were taken by.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


def signal_holder(pid: int, number: signal.Signals, *paths: Path) -> bool:
    """Signals the process that holds one of the locks, and nobody else who may have its pid by now.

    Returns:
        Whether the signal was sent; if not, that process has let go.

    Raises:
        PermissionError: the process is another user's.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor means one process for good; if that one still has the lock, it is the right one.
        if pid not in map(lock_holder, paths):
            return False
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True
