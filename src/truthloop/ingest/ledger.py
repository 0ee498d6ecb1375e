"""The record of each load in `truthloop.loads`: what it stored, and whether it came to its end.

A load that dies leaves `loading` and a heartbeat that stands still; the next load closes it. `complete` says
whether its file has been read to its end and stored, by that load or by one that began after it.
"""

import time
from collections.abc import Callable
from typing import Any

from pymongo import ReturnDocument
from pymongo.client_session import ClientSession

from truthloop.errors import Conflict
from truthloop.events.record import record
from truthloop.ingest.documents import Document
from truthloop.ingest.reports import InterruptedLoad
from truthloop.store.connection import Store

COLLECTION = "truthloop.loads"
# Heartbeats come every second or after the batch that took longer; one that stops for this long has died.
LEASE_SECONDS = 60.0
BEAT_SECONDS = 1.0


class Ledger:
    """The record of one file's load; it exists from just before the first write on.

    Args:
        store: the workspace.
        id: the load's, unique.
        collection: where its documents go.
        file: its name, for people.
        path: where it lies; loads of one path into one collection are loads of one file.
        command: what is to be typed to load it again.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        store: Store,
        *,
        id: str,  # noqa: A002 - its name in MongoDB
        collection: str,
        file: str,
        path: str,
        command: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self.id, self._clock = store, id, clock
        self._collection, self._file, self._path, self._command = collection, file, path, command
        self._is_open = False
        self._began, self._beaten = clock(), 0.0

    def open(self) -> None:
        """Makes the record, unless it's there."""
        if self._is_open:
            return
        fields = {
            "state": "loading",
            "collection": self._collection,
            "file": self._file,
            "path": self._path,
            "command": self._command,
        }
        with self._store.errors():
            self._store[COLLECTION].update_one(
                {"_id": self.id},
                [
                    {"$set": _literal({**fields, "revision": 0, "complete": False, "counts": {}})},
                    {"$set": {"started": "$$NOW", "heartbeat": "$$NOW"}},
                ],
                upsert=True,
            )
        self._is_open, self._beaten = True, self._clock()

    def beat(self, counts: dict[str, int]) -> None:
        """Says that the load lives and how far it is; called after each batch, writes once a second."""
        if self._is_open and self._clock() - self._beaten >= BEAT_SECONDS:
            with self._store.errors():
                self._store[COLLECTION].update_one(
                    {"_id": self.id, "state": "loading"},
                    [{"$set": {"heartbeat": "$$NOW", **_literal({"counts": counts})}}],
                )
            self._beaten = self._clock()

    def close(self, counts: dict[str, int], *, complete: bool, may_have_changed: bool = False) -> None:
        """Ends the record, with its event; a load that changed nothing leaves neither.

        Args:
            counts: what became of the documents.
            complete: whether the file was read and stored to its end.
            may_have_changed: whether something may have been stored that the counts don't have.

        Raises:
            Conflict: the record has vanished.
        """
        if self._is_open and not (counts["new"] or counts["replaced"] or may_have_changed):
            with self._store.errors():
                self._store[COLLECTION].delete_one({"_id": self.id, "state": "loading", "revision": 0})
        elif self._is_open:
            # By now it may have been taken for dead and closed: then this is its next revision.
            _end(self._store, {"_id": self.id}, complete=complete, counts=counts)
        self._is_open = False
        if complete:
            self._complete_earlier()

    def _complete_earlier(self) -> None:
        """A file that was read to its end makes good the loads of it that began before and were cut short."""
        lasted = int(1000 * (self._clock() - self._began))
        query = {
            "complete": False,
            "path": self._path,
            "collection": self._collection,
            "$expr": {"$lte": ["$started", {"$subtract": ["$$NOW", lasted]}]},
        }
        with self._store.errors():
            # Whether one that is still loading was killed a moment ago can't be known. If it lives, it ends its
            # record itself; so this only notes what is true either way.
            self._store[COLLECTION].update_many({"state": "loading", **query}, {"$set": {"complete": True}})
            query["state"] = "loaded"
            earlier = [found["_id"] for found in self._store[COLLECTION].find(query, {"_id": 1})]
        for id in earlier:  # noqa: A001 - its name in MongoDB
            _end(self._store, {**query, "_id": id}, complete=True, only_if_there=True)


def close_dead_loads(store: Store, *, lease_seconds: float = LEASE_SECONDS) -> int:
    """Closes the records of loads that were killed, each with its event; returns how many."""
    query = {"state": "loading", "$expr": _is_dead(lease_seconds)}
    with store.errors():
        dead = [found["_id"] for found in store[COLLECTION].find(query, {"_id": 1})]
    for id in dead:  # noqa: A001 - its name in MongoDB
        _end(store, {**query, "_id": id}, complete=False, only_if_there=True)
    return len(dead)


def interrupted_loads(store: Store, *, lease_seconds: float = LEASE_SECONDS) -> list[InterruptedLoad]:
    """The loads that were cut short, and whose file hasn't been loaded to its end since."""
    query = {
        "complete": False,
        "$or": [{"state": "loaded"}, {"state": "loading", "$expr": _is_dead(lease_seconds)}],
    }
    fields = ("path", "collection", "command")
    with store.errors():
        found = list(store[COLLECTION].find(query, fields))
    kinds = sorted({tuple(document[name] for name in fields) for document in found})
    return [
        InterruptedLoad(file=path, collection=collection, command=command) for path, collection, command in kinds
    ]


def unfinished_loads(store: Store) -> int:
    """How many loads run at this moment, or were cut short and not repeated since."""
    with store.errors():
        return store[COLLECTION].count_documents({"complete": False})


def _is_dead(lease_seconds: float) -> Document:
    return {"$lt": ["$heartbeat", {"$subtract": ["$$NOW", round(lease_seconds * 1000)]}]}


def _end(
    store: Store,
    query: Document,
    *,
    complete: bool,
    counts: dict[str, int] | None = None,
    only_if_there: bool = False,
) -> None:
    fields = _literal({"state": "loaded", **({"counts": counts} if counts is not None else {})})
    fields["complete"] = {"$or": ["$complete", complete]}

    def work(session: ClientSession) -> None:
        ended = store[COLLECTION].find_one_and_update(
            query,
            [{"$set": {**fields, "ended": "$$NOW", "revision": {"$add": ["$revision", 1]}}}],
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if ended is None:
            if only_if_there:  # another load was quicker
                return
            raise Conflict(
                "The record of this load was removed from truthloop.loads while it ran. Its documents are "
                "stored; load the file again to be sure that all of them are."
            )
        record(
            store,
            session,
            type="documents.loaded",
            subject=str(ended["_id"]),
            source="/ingest",
            sequence=int(ended["revision"]),
            data={
                "collection": ended["collection"],
                "file": ended["file"],
                **ended["counts"],
                "complete": ended["complete"],
            },
        )

    store.transaction(work)


def _literal(fields: dict[str, Any]) -> dict[str, Any]:
    """Values for an update by pipeline, where a file named `$x` would be read as a field."""
    return {name: {"$literal": value} for name, value in fields.items()}
