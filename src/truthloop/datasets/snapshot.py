"""Reading the database as it was at one moment, from several threads at once."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from bson.codec_options import CodecOptions
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo.collection import Collection
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from truthloop.datasets.layouts import Batch, elements
from truthloop.errors import Conflict
from truthloop.store.connection import Store

_RAW = CodecOptions(RawBSONDocument)
# More than a reply ever holds; its 16 MB end it before.
_BATCH = 1_000_000

# MongoDB's codes: the moment is no longer kept, and a collection has changed its shape since.
_TOO_OLD, _UNAVAILABLE = 239, 246


class _At(ReadConcern):
    """Snapshot reads at a cluster time. A session of PyMongo's can do this too, but belongs to one thread."""

    def __init__(self, time: Timestamp) -> None:
        super().__init__("snapshot")
        self._time = time

    @property
    def document(self) -> dict[str, Any]:
        return {"level": "snapshot", "atClusterTime": self._time}


class Snapshot:
    """The database at the latest moment that a majority of its servers has; safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        with errors(store):
            first = store.database.command(
                {"find": "metadata", "limit": 1, "projection": {"_id": 1}, "readConcern": {"level": "snapshot"}}
            )
        self.time: Timestamp = first["cursor"]["atClusterTime"]

    @property
    def cluster_time(self) -> str:
        """Seconds and increment.

        It names one moment exactly, for whoever wants to read the same.
        """
        return f"{self.time.time}.{self.time.inc}"

    @property
    def as_of(self) -> datetime:
        """The same for people, to the second."""
        return datetime.fromtimestamp(self.time.time, UTC)

    def collection(self, name: str) -> Collection[dict[str, Any]]:
        """A collection as it was then."""
        return self._store.database.get_collection(name, read_concern=_At(self.time))

    def find_raw(
        self, name: str, query: Mapping[str, Any], *, hint: Sequence[str], fields: Mapping[str, int]
    ) -> list[Batch]:
        """Documents of a collection as they were then, as their bytes.

        The commands are sent as they are: a raw cursor of PyMongo's makes an object of each document first, which
        takes most of its time.

        Args:
            name: of the collection.
            query: which documents.
            hint: the fields of the index to use.
            fields: the projection.
        """
        command = {
            "find": name,
            "filter": query,
            "hint": dict.fromkeys(hint, 1),
            "projection": fields,
            "batchSize": _BATCH,
            "readConcern": _At(self.time).document,
        }
        batches = []
        # One session for all, as a cursor demands; a causal one would ask for another time than ours.
        with self._store.client.start_session(causal_consistency=False) as session:
            while True:
                reply = bytes(self._store.database.command(command, session=session, codec_options=_RAW).raw)
                cursor = elements(reply, elements(reply, 0)["cursor"].begin)
                batch = cursor.get("firstBatch") or cursor["nextBatch"]
                batches.append(Batch.of_array(reply, batch.begin))
                more = struct.unpack_from("<q", reply, cursor["id"].begin)[0]
                if not more:
                    return batches
                command = {"getMore": Int64(more), "collection": name, "batchSize": _BATCH}


@contextmanager
def errors(store: Store) -> Iterator[None]:
    """As `Store.errors`, with words for what can happen to a snapshot alone.

    Raises:
        Conflict: it isn't kept any longer, or a collection was remade meanwhile.
    """
    with store.errors():
        try:
            yield
        except OperationFailure as error:
            if error.code == _TOO_OLD:
                raise Conflict(
                    "The build took longer than MongoDB keeps its past. Raise it there, and build again: "
                    "db.adminCommand({setParameter: 1, minSnapshotHistoryWindowInSeconds: 3600})"
                ) from error
            if error.code == _UNAVAILABLE:
                raise Conflict(
                    "A collection or an index was made or removed while the database was read. Try again."
                ) from error
            raise
