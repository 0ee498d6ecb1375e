"""What wakes a worker that has nothing to do: MongoDB's change stream."""

import threading
import time
from contextlib import suppress

from pymongo.change_stream import DatabaseChangeStream
from pymongo.errors import PyMongoError

from truthloop.logs import get_logger
from truthloop.predict.documents import BATCHES, JOBS
from truthloop.store.connection import Document, Store

log = get_logger(__name__)

# How long one look into the stream waits for something to come; also how long stopping may have to wait for it.
AWAIT_MS = 500
# A stream that was not read for so long holds much that has been done since; a new one is cheaper than reading it.
STALE_SECONDS = 1.0

_NEW_WORK: list[Document] = [
    {
        "$match": {
            "ns.coll": {"$in": [JOBS, BATCHES]},
            "$or": [
                {"operationType": "insert", "fullDocument.state": "queued"},
                {"operationType": "update", "updateDescription.updatedFields.state": "queued"},
            ],
        }
    },
    {"$project": {"ns": 1, "fullDocument": 1}},
]


class WakeUp:
    """Waits until something is put into the queue. One thread uses it; close it when that is done.

    It is a hint, never a promise: who waits also looks every few seconds.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stream: DatabaseChangeStream[Document] | None = None
        self._read = float("-inf")

    def listen(self) -> bool:
        """Listens from now on; false if it begins only now, so that one more look is due before waiting."""
        if self._stream is not None and time.monotonic() - self._read < STALE_SECONDS:
            return True
        self.close()
        try:
            self._stream = self._store.database.watch(_NEW_WORK, max_await_time_ms=AWAIT_MS)
        except PyMongoError as error:
            log.warning("queue_stream_lost", error=str(error)[:300])
            return True  # `wait` pauses
        self._read = time.monotonic()
        return False

    def wait(self, seconds: float, stop: threading.Event) -> Document | None:
        """Returns when something came, when the time is up or when `stop` is set.

        Returns:
            A job as it was put into the queue, where that is known: it may be taken without looking for it.
        """
        deadline = time.monotonic() + seconds
        while not stop.is_set() and time.monotonic() < deadline:
            if self._stream is None:
                stop.wait(min(AWAIT_MS / 1000, seconds))
                return None
            try:
                change = self._stream.try_next()
            except PyMongoError as error:
                log.warning("queue_stream_lost", error=str(error)[:300])
                self.close()
                continue
            self._read = time.monotonic()
            if change is not None:
                return change.get("fullDocument") if change["ns"]["coll"] == JOBS else None
        return None

    def close(self) -> None:
        """Ends the stream; twice does no harm."""
        if self._stream is not None:
            with suppress(PyMongoError):  # else the server has forgotten it with the connection
                self._stream.close()
            self._stream = None
