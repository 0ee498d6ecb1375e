"""Storing prepared documents, so that each is there once, whoever else loads the same at the same time."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from operator import attrgetter
from typing import Any, Self, TypeAlias

import numpy as np
from bson.binary import Binary
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray
from pymongo import ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure

from truthloop.ingest.documents import (
    FIRST_ID,
    ID_BYTES,
    ID_SUBTYPE,
    LAST_ID,
    STORED,
    Document,
    Fault,
    Prepared,
    Refused,
    content,
    decoded,
    identity,
)
from truthloop.store.connection import Store

_RAW: CodecOptions[RawBSONDocument] = STORED.with_options(document_class=RawBSONDocument)
_BY_ID = attrgetter("id")
# `_id` is the first element of a stored document: after 4 bytes of length, 10 of type, name, length and subtype.
_ID_AT = slice(14, 14 + ID_BYTES)

_DUPLICATE_KEY = 11000
_VALIDATION_FAILED = 121  # a customer's own validator

# Replaced in one transaction, which may last 60 s; a thousand documents take a small part of one.
_REPLACED_AT_ONCE = 1000

# Asking first which documents are there costs a first load a sixth; inserting what is there already makes a
# repeated one six times slower (docs/decisions/0003). So it is asked while more than half of a batch was there.
_ASK_FROM, _ASK_AFTER_CLASHES = 0.5, 0.1


@dataclass(slots=True)
class Outcome:
    """What became of a batch."""

    new: int = 0
    already_there: int = 0
    replaced: int = 0
    conflicts: list[tuple[Prepared, Document]] = field(default_factory=list)  # with what is stored
    refused: list[tuple[Prepared, Fault]] = field(default_factory=list)


class Insertion:
    """Stores documents in one collection, over two connections at once.

    Which of the two a document takes is told by its `_id`, so that documents with one key are stored in the order
    in which they come, and the same load ends the same however the two run. Use it as a context manager.

    Args:
        store: the workspace, or None where there is none yet (dry run only).
        collection: one of the four.
        replace: whether another content under the same key is replaced rather than refused.
        dry_run: stores nothing, and tells what would become of the documents.
        before_write: called before something is written.
        seen: in a dry run, what would have been stored in this collection before.
    """

    def __init__(
        self,
        store: Store | None,
        collection: str,
        *,
        replace: bool = False,
        dry_run: bool = False,
        before_write: Callable[[], None] = lambda: None,
        seen: "Seen | None" = None,
    ) -> None:
        lock = threading.Lock()

        def announce() -> None:
            with lock:
                before_write()

        seen = seen or Seen()
        self._ways = tuple(
            _Way(store, collection, replace=replace, dry_run=dry_run, before_write=announce, seen=seen)
            for _ in range(2)
        )
        # A dry run notes what it has seen, which is one thing for both.
        self._pool = ThreadPoolExecutor(1 if dry_run else 2, thread_name_prefix="truthloop-load-store")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def wants_encoded(self) -> bool:
        """Whether documents had better be encoded when they come, since most are stored or compared."""
        return any(way.wants_encoded for way in self._ways)

    def add(self, batch: Sequence[Prepared]) -> Outcome:
        """Stores what isn't there. Of several with one key the first counts (with `replace`, the last).

        Raises:
            DatabaseUnavailable, DatabaseRefused, DiskFull: some of the batch may be stored by then; adding it
                again stores the rest.
        """
        parts: tuple[list[Prepared], list[Prepared]] = ([], [])
        for document in batch:
            parts[document.id[-1] & 1].append(document)
        outcome = Outcome()
        for part in self._pool.map(_Way.add, self._ways, parts):
            outcome.new += part.new
            outcome.already_there += part.already_there
            outcome.replaced += part.replaced
            outcome.conflicts += part.conflicts
            outcome.refused += part.refused
        return outcome


class _Way:
    """One of the two ways into a collection; see `Insertion`."""

    def __init__(
        self,
        store: Store | None,
        collection: str,
        *,
        replace: bool,
        dry_run: bool,
        before_write: Callable[[], None],
        seen: "Seen",
    ) -> None:
        self._store, self._name = store, collection
        self._replace, self._dry_run, self._before_write = replace, dry_run, before_write
        # An annotation's key is all of it, so two with one key have one content.
        self._key_is_all = collection == "bbox.human_annotation"
        self._seen = seen
        self._has_others = False
        self._ask = True
        if store is not None:
            self._raw: Collection[Any] = store.database.get_collection(collection, codec_options=_RAW)
            with store.errors():
                self._ask = self._raw.find_one({}, {"_id": 1}) is not None

    @property
    def wants_encoded(self) -> bool:
        return not (self._ask and self._key_is_all)

    def add(self, batch: Sequence[Prepared]) -> Outcome:
        """Stores what isn't there, in the batch's order as far as keys repeat."""
        outcome = Outcome()
        if self._ask and self._key_is_all and not self._dry_run and self._are_all_there(batch):
            outcome.already_there = len(batch)
            return outcome
        while batch:
            first: dict[bytes, Prepared] = {}
            repeated = [document for document in batch if first.setdefault(document.id, document) is not document]
            changed = self._add_distinct(sorted(first.values(), key=_BY_ID), outcome)
            batch = changed + repeated
            self._ask = self._ask or bool(batch)
        return outcome

    def _add_distinct(self, batch: list[Prepared], outcome: Outcome) -> list[Prepared]:
        """Stores documents with different keys; returns those under which the stored ones changed meanwhile."""
        if self._dry_run:
            self._pretend(batch, outcome)
            return []
        there = self._others(batch)
        if self._ask:
            there |= self._stored([document for document in batch if document.id not in there])
        fresh = [document for document in batch if document.id not in there]
        clashing = self._insert(fresh, outcome) if fresh else []
        self._ask = len(there) > _ASK_FROM * len(batch) or len(clashing) > _ASK_AFTER_CLASHES * len(batch)
        there |= self._after_a_clash(clashing, outcome)
        replacing = self._settle([document for document in batch if document.id in there], there, outcome)
        return self._replace_stored(replacing, there, outcome) if replacing else []

    # -- what is there

    def _are_all_there(self, batch: Sequence[Prepared]) -> bool:
        """Whether all of a batch is stored, as when a file is loaded again: to know their number is enough."""
        if self._store is None or not batch:
            return not batch
        ids = [Binary(id, ID_SUBTYPE) for id in {document.id for document in batch}]  # noqa: A001
        with self._store.errors():
            return self._raw.count_documents({"_id": {"$in": ids}}, hint="_id_") == len(ids)

    def _stored(self, batch: list[Prepared]) -> dict[bytes, bytes]:
        """Those of the batch that are stored under our `_id`: the stored BSON by id (b"" if it's the same)."""
        if self._store is None or not batch:
            return {}
        query = {"_id": {"$in": [Binary(document.id, ID_SUBTYPE) for document in batch]}}
        fields = {"_id": 1} if self._key_is_all else None
        with self._store.errors():
            found = [document.raw for document in self._raw.find(query, fields, batch_size=len(batch))]
        return {raw[_ID_AT]: b"" if self._key_is_all else raw for raw in found}

    def _others(self, batch: list[Prepared]) -> dict[bytes, bytes]:
        """Those of the batch whose key another system has stored, under an `_id` of another kind."""
        if self._store is None:
            return {}
        with self._store.errors():
            self._has_others = self._has_others or has_others(self._raw)
            if not self._has_others:
                return {}
            ids = sorted({document.image_id for document in batch})
            query = {"image_id": {"$in": ids}, "_id": {"$not": {"$gte": FIRST_ID, "$lte": LAST_ID}}}
            found = [document.raw for document in self._raw.find(query)]
        wanted = {document.id: document for document in batch}
        others: dict[bytes, bytes] = {}
        for raw in found:
            stored = decoded(raw)
            id = identity(self._name, stored)  # noqa: A001 - its name in MongoDB
            # Another system may hold a key twice: if one of them says the same, it is there.
            if id in wanted and self._key_is_all:
                others[id] = b""
            elif id in wanted and (id not in others or _same(wanted[id].encode(), raw)):
                others[id] = raw
        return others

    # -- writing

    def _insert(self, batch: list[Prepared], outcome: Outcome) -> list[Prepared]:
        """Inserts, and returns those that couldn't be because something with their key was there first."""
        assert self._store is not None
        encoded = []
        for document in batch:
            try:
                encoded.append(RawBSONDocument(document.encode()))
            except Refused as refused:
                outcome.refused.append((document, refused.faults[0]))
        if not encoded:
            return []
        if len(encoded) < len(batch):
            batch = [document for document in batch if document.raw]
        self._before_write()
        with self._store.errors():
            try:
                self._raw.insert_many(encoded, ordered=False)
            except BulkWriteError as error:
                details = error.details or {}
                outcome.new += details.get("nInserted", 0)
                clashing = []
                for fault in details.get("writeErrors", ()):
                    document = batch[fault["index"]]
                    if fault["code"] == _DUPLICATE_KEY:
                        clashing.append(document)
                    elif fault["code"] == _VALIDATION_FAILED:
                        reason = f"the collection's own validator refuses it: {fault['errmsg']}"
                        outcome.refused.append((document, Fault("", reason[:300])))
                    else:
                        raise OperationFailure(fault["errmsg"], fault["code"]) from error
                if details.get("writeConcernErrors"):
                    raise
                return clashing
        outcome.new += len(batch)
        return []

    def _after_a_clash(self, clashing: list[Prepared], outcome: Outcome) -> dict[bytes, bytes]:
        """What stands in the way of documents that couldn't be inserted."""
        if not clashing:
            return {}
        there = self._stored(clashing)
        rest = [document for document in clashing if document.id not in there]
        if rest:
            # Not our `_id`: a unique index of the customer's, so another system's document.
            self._has_others = True
            there |= self._others(rest)
            reason = "a unique index of this collection refuses it: another document has the same values"
            outcome.refused += [(document, Fault("", reason)) for document in rest if document.id not in there]
        return there

    def _settle(self, batch: list[Prepared], there: dict[bytes, bytes], outcome: Outcome) -> list[Prepared]:
        """Decides about documents whose key is there: the same content, a conflict, or one to be replaced."""
        replacing = []
        for document in batch:
            stored = there[document.id]
            if not stored or _same(document.encode(), stored):
                outcome.already_there += 1
            elif self._replace:
                replacing.append(document)
            else:
                outcome.conflicts.append((document, decoded(stored)))
        return replacing

    def _replace_stored(
        self, batch: list[Prepared], there: dict[bytes, bytes], outcome: Outcome
    ) -> list[Prepared]:
        """Replaces what still is as it was read; returns the documents for which it isn't."""
        self._before_write()
        changed = []
        for start in range(0, len(batch), _REPLACED_AT_ONCE):
            changed += self._replace_at_once(batch[start : start + _REPLACED_AT_ONCE], there, outcome)
        return changed

    def _replace_at_once(
        self, batch: list[Prepared], there: dict[bytes, bytes], outcome: Outcome
    ) -> list[Prepared]:
        assert self._store is not None
        # What another system has stored keeps its own `_id`.
        ids = [RawBSONDocument(there[document.id], _RAW)["_id"] for document in batch]

        def work(session: ClientSession) -> list[Prepared]:
            found = {document.raw for document in self._raw.find({"_id": {"$in": ids}}, session=session)}
            writes = [
                ReplaceOne({"_id": id}, document.fields())
                for id, document in zip(ids, batch, strict=True)  # noqa: A001 - its name in MongoDB
                if there[document.id] in found
            ]
            if writes:
                try:
                    self._raw.bulk_write(writes, session=session)
                except BulkWriteError as error:
                    (fault,) = (error.details or {}).get("writeErrors") or [{}]
                    if fault.get("code") not in (_DUPLICATE_KEY, _VALIDATION_FAILED):
                        raise
                    raise _CustomersRule(str(fault["errmsg"])) from error
            return [document for document in batch if there[document.id] not in found]

        try:
            changed = self._store.transaction(work)
        except _CustomersRule as rule:
            if len(batch) == 1:
                outcome.refused.append((batch[0], Fault("", f"the collection refuses it: {rule}"[:300])))
                return []
            half = len(batch) // 2  # which one it is shows alone
            return self._replace_at_once(batch[:half], there, outcome) + self._replace_at_once(
                batch[half:], there, outcome
            )
        outcome.replaced += len(batch) - len(changed)
        return changed

    # -- dry run

    def _pretend(self, batch: list[Prepared], outcome: Outcome) -> None:
        """What would become of documents, given what is stored and what earlier ones would have changed."""
        keys = _numbers(sha256(document.id).digest() for document in batch)
        said = keys
        if not self._key_is_all:
            said = _numbers(sha256(content(document.fields())).digest() for document in batch)
        is_seen, is_same = self._seen.find(keys, said)
        outcome.already_there += int(is_same.sum())
        differing = np.flatnonzero(is_seen & ~is_same)
        if self._replace:
            outcome.replaced += len(differing)
        else:
            earlier = {"earlier": "another document of this load has the same key"}
            outcome.conflicts += [(batch[place], earlier) for place in differing]
        rest = [batch[place] for place in np.flatnonzero(~is_seen)]
        there = self._others(rest) if rest else {}
        there |= self._stored([document for document in rest if document.id not in there])
        replaced = self._settle([document for document in rest if document.id in there], there, outcome)
        outcome.replaced += len(replaced)
        outcome.new += sum(document.id not in there for document in rest)
        unchanged = there.keys() - {document.id for document in replaced}
        changed = np.array([document.id not in unchanged for document in batch], np.bool_)
        changed &= ~is_seen | (~is_same & self._replace)
        self._seen.put(keys[changed], said[changed])


class _CustomersRule(Exception):
    """A validator or a unique index that the customer has made refuses a document of a transaction."""


_Numbers: TypeAlias = NDArray[np.uint64]
_Flags: TypeAlias = NDArray[np.bool_]


class Seen:
    """Which keys came by, and with which content, in 16 bytes each: sorted runs, merged as they grow.

    Keys and contents are the first 64 bits of a SHA-256. Among 50 million, two share them with a chance of one in
    ten thousand, which would make a dry run's count wrong by one.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[_Numbers, _Numbers]] = []

    def find(self, keys: _Numbers, contents: _Numbers) -> tuple[_Flags, _Flags]:
        """For each key whether it came by before, and whether with the same content."""
        is_there, is_same = np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.bool_)
        for run, said in self._runs:
            places = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            hits = run[places] == keys
            is_there |= hits
            is_same |= hits & (said[places] == contents)
        return is_there, is_same

    def put(self, keys: _Numbers, contents: _Numbers) -> None:
        """Notes keys, which differ from each other, with their contents, in place of earlier ones."""
        fresh = np.ones(len(keys), np.bool_)
        for run, said in self._runs:
            places = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            hits = run[places] == keys
            said[places[hits]] = contents[hits]
            fresh &= ~hits
        order = np.argsort(keys[fresh])
        if len(order):
            self._runs.append((keys[fresh][order], contents[fresh][order]))
        while len(self._runs) > 1 and 2 * len(self._runs[-1][0]) >= len(self._runs[-2][0]):
            last, before = self._runs.pop(), self._runs.pop()
            merged = np.concatenate((before[0], last[0]))
            order = np.argsort(merged, kind="stable")
            self._runs.append((merged[order], np.concatenate((before[1], last[1]))[order]))


def _numbers(digests: Iterable[bytes]) -> _Numbers:
    return np.frombuffer(b"".join(digest[:8] for digest in digests), dtype="<u8")


def has_others(collection: Collection[Any]) -> bool:
    """Whether other systems have stored documents there, under an `_id` of another kind than ours.

    Two reads of the `_id` index, whatever its size: all of ours stand together in its order.
    """
    for way in (1, -1):
        end = collection.find_one({}, {"_id": 1}, sort=[("_id", way)])
        if end is not None:
            id = end["_id"]  # noqa: A001 - its name in MongoDB
            if not (isinstance(id, Binary) and id.subtype == ID_SUBTYPE and len(id) == ID_BYTES):
                return True
    return False


def _same(raw: bytes, stored: bytes) -> bool:
    """Whether two documents say the same; mostly they do so byte by byte."""
    if raw == stored:
        return True
    try:
        return content(decoded(raw)) == content(decoded(stored))
    except Exception:
        return False
