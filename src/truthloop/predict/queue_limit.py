"""How many jobs may wait: counted seldom, and never further than the limit."""

import threading
import time

from truthloop.errors import QueueFull
from truthloop.predict.documents import JOBS, JobState
from truthloop.store.connection import Store

# Counting ten thousand waiting jobs takes milliseconds, so it isn't done for each new one.
COUNT_SECONDS = 1.0


class QueueLimit:
    """Refuses jobs while too many wait.

    Between two counts it adds what this process itself has queued. Several processes at once may exceed the limit
    by what they queue within a second. May be called from several threads.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limit = store.settings.max_queued_jobs
        self._lock = threading.Lock()
        self._waiting = 0
        self._counted = float("-inf")

    def admit(self) -> None:
        """Counts one job more.

        Raises:
            QueueFull: the limit is reached.
        """
        with self._lock:
            if time.monotonic() - self._counted > COUNT_SECONDS or self._waiting >= self._limit:
                with self._store.errors():
                    self._waiting = self._store[JOBS].count_documents(
                        {"state": JobState.QUEUED}, limit=self._limit
                    )
                self._counted = time.monotonic()
            if self._waiting >= self._limit:
                raise QueueFull(
                    f"{self._limit:,} jobs wait already, as many as are taken. Try again when some are done; "
                    "another `truthloop worker` makes it faster, TRUTHLOOP_MAX_QUEUED_JOBS is the limit."
                )
            self._waiting += 1
