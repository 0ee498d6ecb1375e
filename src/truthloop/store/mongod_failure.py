"""What a failed start of the embedded MongoDB means, and what the user can do. Pure: facts in, an error out."""

import errno
import json
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truthloop.errors import DiskFull, EmbeddedServerFailed, Unavailable
from truthloop.store.mongod_files import Files

OWN_SERVER = "set TRUTHLOOP_MONGODB_URI to a MongoDB replica set of your own"

# A start after a full disk replays the journal, up to two files of 100 MB, into the data, and begins a new one.
WORKING_ROOM_BYTES = 300 * 2**20

SHOWN_LINES = 8
_LINE_LENGTH = 300

# Which package of Debian and Ubuntu carries a library that the server needs.
_PACKAGES = {
    "libcurl": "libcurl4",
    "libssl": "libssl3",
    "libcrypto": "libssl3",
    "liblzma": "liblzma5",
    "libresolv": "libc6",
    "libgcc_s": "libgcc-s1",
    "libstdc++": "libstdc++6",
}

_MISSING_LIBRARY = re.compile(r"error while loading shared libraries: (\S+?):")
_OLD_SYSTEM = re.compile(r"version `(GLIBC\w*_[\d.]+)' not found")
_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded")
_OTHER_VERSION = re.compile(
    r"UPGRADE PROBLEM|Wrong mongod version|too recent to start up|unsupported WiredTiger"
    r"|Version incompatibility|unknown storage engine|created by (?:the )?'?\w+'? storage engine"
    r"|featureCompatibilityVersion"
)
_DAMAGED = re.compile(
    r"corrupt|checksum error|WT_TRY_SALVAGE|--repair|WT_PANIC|Cursor not found|InvalidBSON"
    r"|Unable to read the storage engine metadata"
)
# What every crash writes; it says nothing of the reason.
_EMPTY_WORDS = re.compile(r"Fatal assertion|aborting after|Writing fatal message|__wt_bm_corrupt_dump|BACKTRACE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is known of a start that failed, as the supervisor reports it."""

    kind: str  # "exit": mongod ended; "disk_full"; "in_use"; "os": the system refused; else: see `text`
    status: int | None = None  # mongod's exit status, or minus the signal that ended it
    output: str = ""  # what mongod wrote before it had a log
    free_bytes: int | None = None
    errno: int | None = None
    path: str | None = None
    text: str = ""
    log_offset: int = 0  # where in mongod's log this start begins

    @classmethod
    def of(cls, report: dict[str, Any]) -> "Failure":
        """Of the supervisor's report; what isn't known here is left out."""
        known = {name: value for name, value in report.items() if name in cls.__slots__}
        return cls(**{"kind": "unknown", **known})


def explain(failure: Failure, *, files: Files, log: Sequence[str]) -> Unavailable:
    """The error for a start that failed.

    Args:
        failure: what the supervisor knows.
        files: where the data and the log lie, to be named.
        log: the lines of mongod's log since this start, unread JSON; may be empty.
    """
    shown = readable(log)
    everything = "\n".join([failure.output, failure.text, *log])
    no_room = failure.errno in (errno.ENOSPC, errno.EDQUOT) or _NO_ROOM.search(everything)
    if failure.kind == "disk_full" or no_room:
        return DiskFull(
            f"No room is left on the disk that holds {files.folder}{_free(failure.free_bytes)}. Free "
            f"{WORKING_ROOM_BYTES // 2**20} MB or more, so that MongoDB can finish what it was writing, then "
            "try again. Nothing that was stored is lost."
        )
    if failure.kind == "os":
        return _refused_by_system(failure)
    if failure.kind == "in_use":
        return EmbeddedServerFailed(
            f"Another MongoDB works on {files.data}, one that Truthloop did not start or that does not stop. "
            f"Stop it, then try again.{_quoted(shown, files.log)}"
        )
    return EmbeddedServerFailed(_exited(failure, everything, files) + _quoted(shown, files.log, failure.output))


def _refused_by_system(failure: Failure) -> EmbeddedServerFailed:
    if failure.path and "truthloop-" in failure.path and failure.errno == errno.EPERM:
        return EmbeddedServerFailed(
            f"{failure.path} belongs to somebody else, who could answer there in the place of MongoDB. Remove "
            "it, or set XDG_RUNTIME_DIR to a folder that only you can write to."
        )
    if failure.errno in (errno.ENOEXEC, errno.EACCES) and failure.path and Path(failure.path).name == "mongod":
        return EmbeddedServerFailed(
            f"{failure.path} can't be run on this machine. Put a `mongod` that can on the PATH, or {OWN_SERVER}."
        )
    return EmbeddedServerFailed(
        f"The embedded MongoDB can't start: {failure.text}. Make that possible, or {OWN_SERVER}."
    )


def _exited(failure: Failure, everything: str, files: Files) -> str:
    library = _MISSING_LIBRARY.search(everything)
    if library:
        name = library[1]
        package = _PACKAGES.get(name.split(".so")[0], f"the package that has {name}")
        return (
            f"The embedded MongoDB can't start, since the library {name} is missing. "
            f"Install it (Debian, Ubuntu: apt-get install {package}), or {OWN_SERVER}."
        )
    system = _OLD_SYSTEM.search(everything)
    if system:
        return (
            f"The embedded MongoDB can't start: it needs {system[1]}, and this system is older. Use Debian 12, "
            f"Ubuntu 22.04 or newer, or {OWN_SERVER}."
        )
    if failure.status == -signal.SIGILL:
        return (
            "The embedded MongoDB can't start: this processor lacks AVX, which MongoDB needs since version 5. "
            f"Use a machine that has it, or {OWN_SERVER}."
        )
    if failure.status == -signal.SIGKILL:
        return (
            "The embedded MongoDB was killed while it started, by a person or for lack of memory. Free some "
            f"memory, then try again, or {OWN_SERVER}."
        )
    if _OTHER_VERSION.search(everything):
        return (
            f"The embedded MongoDB can't read {files.data}, which another version of MongoDB wrote. Open it with "
            f"the version that wrote it, put a matching `mongod` on the PATH, or {OWN_SERVER}."
        )
    if _DAMAGED.search(everything):
        return (
            f"The embedded MongoDB can't read {files.data}: files in it are damaged or missing. Put back a copy "
            "of the folder, or move it away to begin anew and load the data again."
        )
    if failure.kind != "exit":
        return (
            f"The embedded MongoDB can't be started: {failure.text or failure.kind}. Mend that, or {OWN_SERVER}."
        )
    return (
        f"The embedded MongoDB ended while it started ({_ending(failure.status)}). "
        f"See the reason below, mend it and try again, or {OWN_SERVER}."
    )


def _ending(status: int | None) -> str:
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"


def _free(free: int | None) -> str:
    return f" ({free / 2**20:.0f} MB are free)" if free is not None else ""


def _quoted(lines: Sequence[str], log: Path, output: str = "") -> str:
    lines = lines or [line[:_LINE_LENGTH] for line in output.strip().splitlines()[-SHOWN_LINES:]]
    if not lines:
        return ""
    return f"\nThe last lines of {log}:\n" + "\n".join(f"  {line}" for line in lines)


def readable(log: Sequence[str]) -> list[str]:
    """The lines of mongod's JSON log that say why, for people: the errors, else the last ones.

    >>> readable(['{"s": "F", "c": "CONTROL", "msg": "Not started", "attr": {"error": {"errmsg": "no"}}}'])
    ['CONTROL: Not started: no']
    """
    entries = [entry for line in log if (entry := _entry(line)) is not None]
    telling = [
        text
        for severity, text in entries
        if severity in ("E", "F") and not _EMPTY_WORDS.search(text) and "\x00" not in text
    ]
    lines = telling or [text for _, text in entries]
    return list(dict.fromkeys(lines))[-SHOWN_LINES:]


def _entry(line: str) -> tuple[str, str] | None:
    try:
        found = json.loads(line)
        text = f"{found['c']}: {' '.join(found['msg'].split())}"
        reason = _reason(found.get("attr") or {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # blank, or cut off by a crash
    return found.get("s", "I"), (f"{text}: {reason}" if reason else text)[:_LINE_LENGTH]


def _reason(attributes: dict[str, Any]) -> str:
    """The part of a line's attributes that a person would read first."""
    error = attributes.get("error")
    if isinstance(error, dict):
        return str(error.get("errmsg", error))
    message = attributes.get("message")
    if isinstance(message, dict):  # WiredTiger's own
        return f"{message.get('msg', '')} ({message.get('error_str', 'no further reason')})"
    if isinstance(message, str):
        return " ".join(message.split())
    return str(error) if isinstance(error, str) else str(attributes.get("reason", ""))
