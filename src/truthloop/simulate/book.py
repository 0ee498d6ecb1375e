"""What the clients of a run were told of their jobs."""

import hashlib
import secrets
import threading
from dataclasses import dataclass

from truthloop.simulate.limits import MAX_JOBS
from truthloop.simulate.verify import Said

# A job's deadline, in whole seconds, says which run it is of: days, so that no job fails by it, and chosen so that
# hardly two runs have the same. Its millionths say which of the run's jobs it is. The API has no field for a note
# of the client's, and a job that was made twice for one request can be found by nothing else.
_DEADLINES = range(200_000, 2_000_000)


@dataclass(slots=True)
class Entry:
    """A job that the service has acknowledged."""

    number: int
    model: str  # that was asked for
    image_id: str  # the SHA-256 of the image that is sent
    said: Said
    result: bytes | None = None  # the digest of what was read


class Book:
    """The acknowledged jobs of a run; each is written by the one client whose job it is."""

    def __init__(self) -> None:
        self._run = secrets.choice(_DEADLINES)
        self._lock = threading.Lock()
        self.entries: dict[str, Entry] = {}

    def deadline_seconds(self, number: int) -> float:
        """The deadline that marks a job of this run."""
        return round(self._run + number / MAX_JOBS, 6)

    def number(self, deadline_seconds: float | None) -> int | None:
        """Which job of this run a deadline marks; None for somebody else's."""
        if deadline_seconds is None or int(deadline_seconds) != self._run:
            return None
        return round((deadline_seconds - self._run) * MAX_JOBS)

    def enter(self, job: str, entry: Entry) -> Entry:
        """Notes a job that the service has acknowledged."""
        with self._lock:
            self.entries[job] = entry
        return entry


def digest(result: bytes) -> bytes:
    """Stands for a result in the book."""
    return hashlib.blake2b(result, digest_size=16).digest()
