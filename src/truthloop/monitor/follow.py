"""Keeping the figures current from the change streams of the four collections.

One process at a time leads, by lease. It reads which images changed, reads their documents again in those
collections, and writes what differs (their states, the figures and its place in the stream) in one transaction.
Reading again, instead of applying what the event says, makes each step repeatable: a step done twice, or ahead of
its event, ends with the same figures.

Its own renewals of the lease come by in the same stream, in order with everything else. Whoever sees one knows
that all that was written before it has been counted; `as_of` is the server's time of the last event seen.
"""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bson.errors import BSONError
from pymongo import ReturnDocument
from pymongo.change_stream import ChangeStream, DatabaseChangeStream
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError, OperationFailure

from truthloop.errors import FiguresBehind, LeaseLost, TruthloopError
from truthloop.logs import get_logger
from truthloop.monitor.figures import Figures
from truthloop.monitor.read import is_image_id, read_changed, read_written, write_states
from truthloop.monitor.recount import recount
from truthloop.store import lease as leases
from truthloop.store.connection import Document, Store
from truthloop.store.lease import Lease
from truthloop.store.migrations import SOURCES, prepare_sources

log = get_logger(__name__)

COLLECTION = "truthloop.figures"
FIGURES_ID = LEASE_NAME = "figures"
LEASE_SECONDS = 3.0
BEAT_SECONDS = 0.5
# A leader that counts anew takes about half a minute for a million images.
UP_TO_NOW_SECONDS = 120.0
# How long one look into the stream waits for something to come.
AWAIT_MS = 200
# A step ends after so many events, or so long after it began: short steps keep `as_of` fresh under load.
STEP_EVENTS = 5_000
STEP_SECONDS = 0.3
# Counting anew costs about as much as following changes to a third of the images.
RECOUNT_SHARE = 1 / 3
RECOUNT_FROM = 20_000

# MongoDB's codes for a right that is missing, which a recount doesn't mend; any other failure to open the stream
# is a place that is gone: history lost, a token of another cluster, a resumption that is impossible.
_NOT_ALLOWED = {13, 18}
# An event that can't be passed on, though the stream was open: history lost, too large, fatal.
_STREAM_FAILED = {10334, 280, 286}
# An index that the readers name is gone; counting anew makes it again.
_BAD_HINT = 2
_GONE = {"drop", "rename", "dropDatabase", "invalidate"}
_PIPELINE: list[Document] = [
    {
        "$match": {
            "$or": [
                {"ns.coll": {"$in": [*SOURCES]}},
                {"to.coll": {"$in": [*SOURCES]}},
                {"ns.coll": leases.COLLECTION, "documentKey._id": LEASE_NAME},
                {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
            ]
        }
    },
    {
        "$project": {
            "operationType": 1,
            "wallTime": 1,
            "collection": "$ns.coll",
            "now": "$fullDocument.image_id",
            "before": "$fullDocumentBeforeChange.image_id",
            "had_before": {"$gt": ["$fullDocumentBeforeChange", None]},
            "changed_to": "$updateDescription.updatedFields.image_id",
            "lease": {"$eq": ["$ns.coll", leases.COLLECTION]},
            "beat": {"$ifNull": ["$updateDescription.updatedFields.beat", "$fullDocument.beat"]},
        }
    },
]


class _StreamLost(Exception):
    """The place in the stream is gone; only a recount helps."""


@dataclass(slots=True)
class _Step:
    """What one look into the stream brought."""

    changed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # image ids by collection
    as_of: datetime | None = None
    beat: int = 0


class Leader:
    """The one process that keeps the figures, for as long as it holds the lease."""

    def __init__(self, store: Store, lease: Lease, progress: Callable[[int], None] | None = None) -> None:
        self._store = store
        self._lease = lease
        self._progress = progress
        self._figures = Figures()

    def lead(self, *, stop: threading.Event | None = None, until_beat: int | None = None) -> None:
        """Follows until `stop` is set, or until that beat of the lease has come by.

        Raises:
            LeaseLost: another process leads now.
            DatabaseUnavailable, DatabaseRefused, DiskFull: as their texts say.
        """
        with self._store.errors():
            token = self._resume()
            while True:
                if token is None:
                    token = self._recount()
                    if until_beat is not None:  # the stream begins after the beat that was asked for
                        until_beat = leases.renew(self._store, self._lease)
                try:
                    self._follow(token, stop=stop, until_beat=until_beat)
                    return
                except _StreamLost as lost:
                    log.warning("counting anew", reason=str(lost)[:200])
                    token = None

    def _resume(self) -> Document | None:
        """Takes up what the last leader left; None if it has to be counted anew.

        Claims the figures with what it reads, so that nothing an earlier leader still has in hand comes after.
        """
        kept = self._store[COLLECTION].find_one_and_update(
            {"_id": FIGURES_ID, "term": {"$lte": self._lease.term}},
            {"$set": {"term": self._lease.term}},
            return_document=ReturnDocument.AFTER,
        )
        if kept is None or not kept["complete"]:
            return None
        self._figures = Figures.of(kept)
        then, now = kept["documents"], self._documents()
        changed = sum(abs(now[name] - then.get(name, 0)) for name in SOURCES)
        if changed > max(RECOUNT_FROM, RECOUNT_SHARE * sum(now.values())):
            return None
        token: Document = kept["token"]
        return token

    def _documents(self) -> dict[str, int]:
        return {name: self._store[name].estimated_document_count() for name in SOURCES}

    def _recount(self) -> Document:
        prepare_sources(self._store.database)
        self._replace({"complete": False, "states": {}, "versions": []})
        with self._store.database.watch(_PIPELINE, batch_size=0) as stream:
            token = stream.resume_token
        assert token is not None
        self._figures = recount(self._store, self._check, self._progress)
        # A reader still finds nothing: `as_of` comes with the first step that follows.
        self._replace(
            self._figures.document() | {"complete": True, "token": token, "documents": self._documents()}
        )
        return dict(token)

    def _follow(self, token: Document, *, stop: threading.Event | None, until_beat: int | None) -> None:
        written = 0.0
        with (
            self._store.client.start_session(causal_consistency=True) as session,
            self._open(token, session) as stream,
        ):
            while stop is None or not stop.is_set():
                if self._lease.lost.is_set():
                    raise LeaseLost(f"Another process has taken over {LEASE_NAME}.")
                step = _look(stream)
                reached = until_beat is not None and step.beat >= until_beat
                due = step.changed or reached or time.monotonic() - written > BEAT_SECONDS
                if due and step.as_of is not None:
                    self._apply(step, stream.resume_token, session)
                    written = time.monotonic()
                if reached:
                    return

    def _open(self, token: Document, session: ClientSession) -> DatabaseChangeStream[Document]:
        try:
            return self._store.database.watch(
                _PIPELINE,
                resume_after=token,
                full_document_before_change="whenAvailable",
                batch_size=STEP_EVENTS,
                max_await_time_ms=AWAIT_MS,
                session=session,
            )
        except OperationFailure as error:
            if error.code in _NOT_ALLOWED:
                raise
            raise _StreamLost(str(error)) from error

    def _apply(self, step: _Step, token: Any, session: ClientSession) -> None:
        fields: Document = {"as_of": step.as_of, "token": token}
        if not step.changed:
            self._keep(fields)
            return
        old = read_written(self._store, {"$in": sorted(set().union(*step.changed.values()))})
        try:
            new = read_changed(self._store, step.changed, old, session)
        except OperationFailure as error:
            if error.code != _BAD_HINT:
                raise
            raise _StreamLost(str(error)) from error
        for image_id in new.keys() | old.keys():
            if new.get(image_id) != old.get(image_id):
                if image_id in old:
                    self._figures.take_away(old[image_id])
                if image_id in new:
                    self._figures.add(new[image_id])
        fields |= self._figures.document() | {"documents": self._documents()}

        def write(transaction: ClientSession) -> None:
            write_states(self._store, old, new, transaction)
            self._keep(fields, transaction)

        self._store.transaction(write)

    def _keep(self, fields: Document, session: ClientSession | None = None) -> None:
        """Writes into complete figures, unless a later leader has, or they were declared void (`void`).

        Raises:
            LeaseLost: so it is.
        """
        kept = self._store[COLLECTION].update_one(
            {"_id": FIGURES_ID, "complete": True, "term": {"$lte": self._lease.term}},
            {"$set": fields | {"term": self._lease.term}},
            session=session,
        )
        if not kept.matched_count:
            raise LeaseLost("The figures are no longer this process's to keep.")

    def _check(self, session: ClientSession) -> None:
        """Makes sure, in a transaction, that no later leader has begun; if one begins now, one of the two fails.

        Raises:
            LeaseLost: one has.
        """
        found = self._store[COLLECTION].update_one(
            {"_id": FIGURES_ID, "term": self._lease.term}, {"$inc": {"steps": 1}}, session=session
        )
        if not found.matched_count or self._lease.lost.is_set():
            raise LeaseLost("The figures are no longer this process's to keep.")

    def _replace(self, fields: Document) -> None:
        """Writes the figures, unless a later leader has.

        Raises:
            LeaseLost: one has.
        """
        try:
            self._store[COLLECTION].update_one(
                {"_id": FIGURES_ID, "term": {"$lte": self._lease.term}},
                {"$set": fields | {"term": self._lease.term}, "$unset": {"as_of": ""}},
                upsert=True,
            )
        except DuplicateKeyError:  # it's there with a greater term, so the upsert clashed with it
            raise LeaseLost("The figures are no longer this process's to keep.") from None


def _look(stream: ChangeStream[Document]) -> _Step:
    step, ends = _Step(), time.monotonic() + STEP_SECONDS
    for _ in range(STEP_EVENTS):
        try:
            change = stream.try_next()
        except BSONError as error:  # an event that can't be read can't be passed by either
            raise _StreamLost(str(error)) from error
        except OperationFailure as error:
            if error.code not in _STREAM_FAILED:
                raise
            raise _StreamLost(str(error)) from error
        if change is None:
            break
        step.as_of = change.get("wallTime", step.as_of)
        kind = change["operationType"]
        if change["lease"]:
            step.beat = change.get("beat") or 0
            break  # a reader may wait for this one; what follows can wait for the next step
        if kind in _GONE or (kind in ("update", "replace", "delete") and not change["had_before"]):
            raise _StreamLost(f"{kind} without the image it was about")  # dropped, renamed, or pre-images off
        for name in ("now", "before", "changed_to"):
            if is_image_id(image_id := change.get(name)):
                step.changed[change["collection"]].add(image_id)
        if time.monotonic() > ends:
            break
    return step


def follow(store: Store, stop: threading.Event) -> None:
    """Keeps the figures current until `stop` is set: leads while the place is free, stands by while it's taken."""
    holder = _holder()
    while not stop.is_set():
        try:
            lease = leases.acquire(store, LEASE_NAME, holder=holder, seconds=LEASE_SECONDS)
            if lease is not None:
                with leases.held(store, lease, every_seconds=BEAT_SECONDS):
                    Leader(store, lease).lead(stop=stop)
        except LeaseLost:
            log.warning("another process keeps the figures now")
        except TruthloopError as error:
            log.warning("the figures can't be kept current; trying again", error=str(error))
        except Exception:  # whatever it is, the service must not go on for days with figures that stand still
            log.exception("the figures can't be kept current; trying again")
        stop.wait(BEAT_SECONDS)


def catch_up(store: Store, progress: Callable[[int], None] | None = None) -> bool:
    """Counts in all that was written before this call, if no other process leads.

    Args:
        store: the workspace.
        progress: called with the number of images counted, where it comes to a recount.

    Returns:
        False if another process leads; its figures are current within moments.
    """
    lease = leases.acquire(store, LEASE_NAME, holder=_holder(), seconds=LEASE_SECONDS)
    if lease is None:
        return False
    with leases.held(store, lease, every_seconds=BEAT_SECONDS):
        beat = leases.renew(store, lease)
        Leader(store, lease, progress).lead(until_beat=beat)
    return True


def up_to_now(store: Store) -> Figures:
    """The figures with all that was written before this call, whoever keeps them.

    Raises:
        FiguresBehind: another process leads and doesn't get there within `UP_TO_NOW_SECONDS`.
    """
    if not catch_up(store):
        with store.errors():
            begun = store.client.admin.command("hello")["localTime"]
        deadline = time.monotonic() + UP_TO_NOW_SECONDS
        while not store[COLLECTION].find_one({"_id": FIGURES_ID, "complete": True, "as_of": {"$gt": begun}}):
            if time.monotonic() > deadline:
                raise FiguresBehind(
                    f"The process that keeps the figures hasn't counted anything for {UP_TO_NOW_SECONDS:.0f} s. "
                    "Start the service anew: truthloop down, then truthloop up --detach"
                )
            if catch_up(store):
                break
            time.sleep(0.05)
    with store.errors():
        kept = store[COLLECTION].find_one({"_id": FIGURES_ID}) or {"states": {}, "versions": []}
    return Figures.of(kept)


def void(store: Store) -> None:
    """Declares the figures void: whoever leads or reads next counts everything anew.

    Until that is done there are none: a reader waits for it, the running service's too.
    """
    with store.errors():
        store[COLLECTION].update_one({"_id": FIGURES_ID}, {"$set": {"complete": False}})


def _holder() -> str:
    return uuid.uuid4().hex
