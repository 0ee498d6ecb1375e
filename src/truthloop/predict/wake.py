"""What wakes a worker that has nothing to do: MongoDB's change stream, or Kafka where its address is set."""

import threading
from collections.abc import Callable, Collection
from typing import Literal, Protocol

from bson.errors import BSONError
from pymongo.errors import PyMongoError

from truthloop.logs import get_logger
from truthloop.predict.documents import BATCHES, JOBS
from truthloop.settings import Settings
from truthloop.store.connection import Document, Store

WokenBy = Literal["change stream", "kafka"]
Tell = Callable[[Document | None], None]

log = get_logger(__name__)

# How long one look into the stream waits for something to come.
AWAIT_MS = 500
# Between two attempts to open the stream; without one, so often is it said that something may have come.
PAUSE_SECONDS = 0.5

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


class WakeUp(Protocol):
    """Tells, on a thread of its own, whenever something is put into the queue.

    It is a hint, never a promise: who is told also looks every few seconds.
    """

    def begin(self) -> None:
        """Starts to listen."""

    def end(self) -> None:
        """Tells no more; the thread ends by itself."""


def woken_by(settings: Settings) -> WokenBy:
    """What tells workers of new work."""
    return "change stream" if settings.kafka_bootstrap_servers is None else "kafka"


def wake_up(store: Store, tell: Tell, *, models: Collection[str] | None = None) -> WakeUp:
    """What tells a worker of new work, by its settings.

    Args:
        store: the workspace.
        tell: called with a job as it was put into the queue, where that is known: it may be taken without looking
            for it. With None where something else came, or may have come.
        models: those that the worker works; None for any. It may be told of others.

    Raises:
        SettingRefused: Kafka's settings can't be used.
    """
    by = woken_by(store.settings)
    log.info("worker_wakes", by=by)
    if by == "change stream":
        return StreamWakeUp(store, tell)
    from truthloop.predict.kafka_wake import KafkaWakeUp

    return KafkaWakeUp(store.settings, tell, models=models)


class StreamWakeUp:
    """Tells of what MongoDB's change stream shows; see `WakeUp`.

    Args:
        store: the workspace.
        tell: called with each job that was put into the queue; with None for a batch, and where something may have
            come.
    """

    def __init__(self, store: Store, tell: Tell) -> None:
        self._store, self._tell = store, tell
        self._ended = threading.Event()

    def begin(self) -> None:
        """Starts to listen."""
        threading.Thread(target=self._run, name="truthloop-wake", daemon=True).start()

    def end(self) -> None:
        """Tells no more; the thread ends by itself when its look into the stream is over."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._listen()
            except (PyMongoError, BSONError) as error:
                if not self._ended.is_set():
                    log.warning("queue_stream_lost", error=str(error)[:300])
                    self._tell(None)
            self._ended.wait(PAUSE_SECONDS)

    def _listen(self) -> None:
        with self._store.database.watch(_NEW_WORK, max_await_time_ms=AWAIT_MS) as stream:
            self._tell(None)  # what came before it listened
            while not self._ended.is_set() and stream.alive:
                change = stream.try_next()
                if change is not None and not self._ended.is_set():
                    self._tell(change.get("fullDocument") if change["ns"]["coll"] == JOBS else None)
