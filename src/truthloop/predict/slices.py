"""Slices of batches, as workers take, hold and finish them."""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uuid_utils
from pymongo.client_session import ClientSession

from truthloop.blobs import Blobs
from truthloop.errors import InputRefused, ModelUnavailable, NotFound, StorageUnavailable
from truthloop.logs import get_logger
from truthloop.models.documents import Boxes
from truthloop.monitor.read import is_image_id
from truthloop.predict.batch_change import OPEN, change_batch, fail_batch, record_batch
from truthloop.predict.change import NOW
from truthloop.predict.documents import BATCHES, MAX_ATTEMPTS, RESULTS, BatchState
from truthloop.predict.jobs import MAX_PAGE
from truthloop.predict.record import (
    PREDICTIONS,
    Collision,
    conflict_text,
    record_boxes,
    recorded_of,
    release_version,
)
from truthloop.predict.results import batch_result_id, result_fields
from truthloop.predict.work import Item, Outcome
from truthloop.store.connection import Document, Store

if TYPE_CHECKING:
    from truthloop.models.documents import Prediction

log = get_logger(__name__)

# Refused images that the batch itself names; all of them are among its results.
MAX_REFUSALS = 100
# How many ids of `metadata` one look for unprocessed images reads at once.
SCAN_PAGE = 2_000
# A slice that failed is left alone for so long before its next attempt.
RETRY_SECONDS = 5.0
# While storage can't be had a slice waits 2, 4, 8, ... seconds, at most so many each time; no attempt is counted.
AWAY_SECONDS = 60.0
# After so long without any progress of the batch it has failed.
AWAY_AT_MOST_SECONDS = 3600.0
# When so many slices of a batch wait, its next images had better stay where they are.
MAX_WAITING = 8
_ATTEMPTS = 10

# The batch has succeeded when no image is left and no slice is out.
_IS_DONE: Document = {"$and": ["$exhausted", {"$eq": [{"$size": "$slices"}, 0]}]}
_END: tuple[Document, ...] = (
    {
        "$set": {
            "state": {"$cond": [_IS_DONE, BatchState.SUCCEEDED, "$state"]},
            "finished_at": {"$cond": [_IS_DONE, NOW, "$finished_at"]},
            "total": {"$cond": [_IS_DONE, "$done", {"$max": ["$total", "$done"]}]},
        }
    },
)


def claim_slice(
    store: Store,
    blobs: Blobs,
    *,
    worker: str,
    size: Callable[[str], int],
    models: Collection[str] | None = None,
    without: Collection[str] = (),
    batch_id: str | None = None,
    load: Callable[[Document], bool] = lambda batch: True,  # noqa: ARG005
) -> "Slice | None":
    """Takes a slice of the oldest open batch: one whose lease ran out, else the next images.

    Args:
        store: the workspace.
        blobs: where results go that are large.
        worker: who takes it, for people to read.
        size: how many images of a model at most.
        models: only of these; None for any.
        without: not of these, for now.
        batch_id: only of this batch.
        load: loads the model of a batch before anything of it is taken; false to take nothing. A batch whose model
            is unavailable is left to other workers; one whose model isn't in the catalogue, or can't be used, has
            failed.

    Returns:
        None where there is nothing to take.
    """
    query: Document = {"state": {"$in": [*OPEN]}}
    if batch_id is not None:
        query["_id"] = batch_id
    wanted: Document = {}
    if models is not None:
        wanted["$in"] = [*models]
    if without:
        wanted["$nin"] = [*without]
    if wanted:
        query["model"] = wanted
    lapsed = {"$filter": {"input": "$slices", "cond": {"$lte": ["$$this.expires_at", NOW]}}}
    waits = {"$size": {"$filter": {"input": "$slices", "cond": _waits("$$this")}}}
    with store.errors():
        batches = (
            store[BATCHES].find(query, {"image_ids": 0, "refusals": 0}).sort("_id", 1).limit(MAX_PAGE).to_list()
        )
    for found_batch in batches:
        batch: Document | None = found_batch
        while batch is not None and batch["state"] in OPEN:
            with store.errors():
                found = store[BATCHES].find_one({"_id": batch["_id"]}, {"lapsed": lapsed, "waits": waits})
            if found is None:
                break
            if not found["lapsed"] and (batch["exhausted"] or found["waits"] >= MAX_WAITING):
                break
            if not _loads(store, batch, load):
                break
            if found["lapsed"]:
                taken, batch = _retake(store, blobs, batch, found["lapsed"][0], worker=worker)
            else:
                taken, batch = _take_next(store, blobs, batch, size(batch["model"]), worker=worker)
            if taken is not None:
                return taken
    return None


@dataclass(slots=True)
class Slice:
    """Images of a batch that a worker holds; see `truthloop.predict.work.Work`."""

    store: Store
    blobs: Blobs
    batch: Document
    number: int
    token: str
    attempts: int
    given: Sequence[str] = ()  # the ids of all its images
    ids: Sequence[str] = ()  # of those that are to be worked
    refused: dict[str, str] = field(default_factory=dict)
    already_there: int = 0
    items: Sequence[Item] = ()
    model: str = ""
    model_version: str = ""
    taken: threading.Event = field(default_factory=threading.Event)
    lost: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(
        cls,
        store: Store,
        blobs: Blobs,
        batch: Document,
        *,
        number: int,
        token: str,
        ids: Sequence[str],
        attempts: int,
    ) -> "Slice":
        """The slice of these images, without those that have no pixels here or are recorded already."""
        from truthloop.ingest.images import StoredImage, find_images

        piece = cls(store, blobs, batch, number, token, attempts)
        piece.given, piece.model, piece.model_version = ids, batch["model"], batch["model_version"]
        there: dict[str, object] = {}
        if batch["record_as"] is not None:
            there = recorded_of(store, ids, batch["record_as"])
        images = find_images(store, ids)
        wanted, items = [], []
        for image_id in ids:
            image = images[image_id]
            if image_id in there and there[image_id] == batch["provenance"]:
                piece.already_there += 1
            elif image_id in there:
                piece.refused[image_id] = conflict_text(batch["record_as"])
            elif isinstance(image, StoredImage):
                wanted.append(image_id)
                items.append(Item(blob=image.blob, width=image.width, height=image.height))
            else:
                piece.refused[image_id] = image
        piece.ids, piece.items = wanted, items
        piece.taken.set()
        return piece

    def renew(self) -> None:
        """Holds it for another lease's time, or sets `lost`."""
        with self.store.errors():
            held = self.store[BATCHES].update_one(
                self._mine(),
                [{"$set": {"slices": _each("$slices", self.token, {"expires_at": _lease(self.store)})}}],
            )
        if held.matched_count == 0:
            self.lost.set()

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Stores results and counts in one transaction; of a slice that was stopped in the middle nothing."""
        if len(outcomes) < len(self.items):
            self.put_back(None)
            return
        away = next((outcome.retry for outcome in outcomes if outcome.unavailable), None)
        if away is not None:
            self.put_back(away, unavailable=True)
            return
        refused = dict(self.refused)
        predicted: dict[str, Prediction] = {}
        for image_id, outcome in zip(self.ids, outcomes, strict=True):
            if outcome.prediction is not None:
                predicted[image_id] = outcome.prediction
            else:
                refused[image_id] = outcome.error or outcome.retry or ""
        boxes: dict[str, Boxes] | None = None
        results: list[Document] = []
        if self.batch["record_as"] is not None:
            boxes = {image_id: found for image_id, found in predicted.items() if isinstance(found, Boxes)}
        else:
            sizes = dict(zip(self.ids, self.items, strict=True))
            try:
                results = [
                    self._result(
                        image_id,
                        result_fields(
                            self.blobs,
                            prediction,
                            width=sizes[image_id].width,
                            height=sizes[image_id].height,
                            tolerance=None,
                        ),
                    )
                    for image_id, prediction in predicted.items()
                ]
            except StorageUnavailable as error:
                self.put_back(str(error), unavailable=True)
                return
        for attempt in range(_ATTEMPTS):
            try:
                done = self.store.transaction(
                    lambda session: self._finish(session, boxes, results, refused, len(predicted))
                )
                if not done:
                    self.lost.set()
                return
            except Collision:
                if attempt == _ATTEMPTS - 1:
                    raise

    def put_back(self, error: str | None, *, unavailable: bool = False) -> None:
        """Lets another try; after too many attempts the batch has failed.

        Without an error no attempt is counted, nor where what it needs is `unavailable`: then it waits, and longer
        each time. After an hour without any progress of the batch that has failed.
        """
        if error is None:
            fields = {"claim": None, "expires_at": NOW, "attempts": {"$subtract": ["$$this.attempts", 1]}}
            with self.store.errors():
                self.store[BATCHES].update_one(
                    self._mine(), [{"$set": {"slices": _each("$slices", self.token, fields)}}]
                )
        elif unavailable:
            self._put_off(error)
        elif self.attempts >= MAX_ATTEMPTS:
            self.refuse(f"Tried {self.attempts} times. {error}")
        else:
            self._delay(error, round(1000 * RETRY_SECONDS))

    def _put_off(self, error: str) -> None:
        fail_batch(self.store, {**self._mine(), "$expr": _waited_too_long(self.token)}, error)
        waits = {"$add": [{"$ifNull": ["$$this.waits", 0]}, 1]}
        self._delay(
            error,
            {"$multiply": [1000, {"$min": [AWAY_SECONDS, {"$pow": [2, {"$min": [waits, 16]}]}]}]},
            attempts={"$subtract": ["$$this.attempts", 1]},
            waits=waits,
            waits_since={"$ifNull": ["$$this.waits_since", NOW]},
        )

    def _delay(self, error: str, delay_ms: Document | int, **fields: Document) -> None:
        """Gives it back for somebody to take later; why is told, so it is a change of the batch."""
        fields |= {"claim": {"$literal": None}, "expires_at": {"$add": [NOW, delay_ms]}}

        def work(session: ClientSession) -> None:
            slices = _each("$slices", self.token, fields)
            batch = change_batch(
                self.store, session, self._mine(), {"slices": slices, "error": {"$literal": error}}
            )
            if batch is not None:
                record_batch(self.store, session, "delayed", batch)

        self.store.transaction(work)

    def refuse(self, error: str) -> None:
        """Fails the batch."""
        fail_batch(self.store, self._mine(), error)

    def _finish(
        self,
        session: ClientSession,
        boxes: dict[str, Boxes] | None,
        results: "Sequence[Document]",
        refused: dict[str, str],
        predicted: int,
    ) -> bool:
        """Writes it all; false if the slice isn't held any more."""
        refused, already_there = dict(refused), self.already_there
        if boxes is not None:
            recorded = record_boxes(
                self.store, session, boxes, version=self.batch["record_as"], model=self.batch["provenance"]
            )
            predicted, already_there = recorded.new, already_there + recorded.already_there
            refused |= recorded.conflicts
        told = [{"image_id": image_id, "reason": reason} for image_id, reason in refused.items()]
        before = 0
        if "seen" in self.batch["cursor"]:  # images that were refused before it was resumed are tried again
            mine = {"_id": {"$in": [batch_result_id(self.batch["_id"], image_id) for image_id in self.given]}}
            before = self.store[RESULTS].delete_many(mine, session=session).deleted_count
        others = {"$not": [{"$in": ["$$this.image_id", {"$literal": [*self.given]}]}]}
        kept = {"$filter": {"input": "$refusals", "cond": others}} if before else "$refusals"
        counted = len(refused) - before
        rest = {"$filter": {"input": "$slices", "cond": {"$ne": ["$$this.claim", self.token]}}}
        # What was away is there again, so those that wait for it are free at once.
        free = {"$and": [{"$eq": ["$$this.claim", None]}, _waits("$$this")]}
        soon = {"$cond": [free, {"$mergeObjects": ["$$this", {"expires_at": NOW}]}, "$$this"]}
        batch = change_batch(
            self.store,
            session,
            self._mine(),
            {
                "slices": {"$map": {"input": rest, "as": "this", "in": soon}},
                "predicted": {"$add": ["$predicted", predicted]},
                "already_there": {"$add": ["$already_there", already_there]},
                "refused": {"$add": ["$refused", counted]},
                "done": {"$add": ["$done", predicted + already_there + counted]},
                "refusals": {"$slice": [{"$concatArrays": [kept, {"$literal": told}]}, MAX_REFUSALS]},
                "error": None,
                "progressed_at": NOW,
            },
            *_END,
        )
        if batch is None:
            session.abort_transaction()
            return False
        documents = [*results, *(self._result(image_id, {"error": why}) for image_id, why in refused.items())]
        if documents:
            self.store[RESULTS].insert_many(documents, session=session)
        if batch["state"] == BatchState.SUCCEEDED:
            _complete(self.store, session, batch)
        else:
            record_batch(self.store, session, "progressed", batch)
        return True

    def _result(self, image_id: str, fields: Document) -> Document:
        return {
            "_id": batch_result_id(self.batch["_id"], image_id),
            "model": self.model,
            "model_version": self.model_version,
            "image_id": image_id,
            **fields,
        }

    def _mine(self) -> Document:
        return {"_id": self.batch["_id"], "state": BatchState.RUNNING, "slices.claim": self.token}


def _take_next(
    store: Store, blobs: Blobs, batch: Document, size: int, *, worker: str
) -> "tuple[Slice | None, Document | None]":
    """The next images of a batch; with it the batch as it is now, None if it can't be gone on with."""
    ids, cursor, exhausted = _next_images(store, batch, size)
    token = str(uuid_utils.uuid7())
    number = batch["cursor"].get("number", 0) + 1
    fields: Document = {"cursor": {"$literal": {**cursor, "number": number}}, "exhausted": exhausted}
    if ids:
        piece = {
            "number": number,
            "claim": token,
            "worker": {"$literal": worker},
            "attempts": 1,
            "waits": 0,
            "waits_since": None,
            "image_ids": {"$literal": ids},
            "expires_at": _lease(store),
        }
        fields |= {"state": BatchState.RUNNING, "slices": {"$concatArrays": ["$slices", [piece]]}}
    if batch["state"] == BatchState.QUEUED:
        fields["error"] = None  # why it has waited

    def work(session: ClientSession) -> Document | None:
        # Beginning is a change of the batch; taking one more slice isn't, it only holds a place.
        begins = bool(ids) and batch["state"] == BatchState.QUEUED
        changed = change_batch(
            store,
            session,
            {"_id": batch["_id"], "state": batch["state"], "cursor": batch["cursor"]},
            fields,
            *_END,
            is_change=begins or not ids,
        )
        if changed is not None and changed["state"] == BatchState.SUCCEEDED:
            _complete(store, session, changed)
        elif changed is not None and begins:
            record_batch(store, session, "started", changed)
        elif changed is not None and not ids:
            record_batch(store, session, "progressed", changed)
        return changed

    changed = store.transaction(work)
    if changed is None:  # another worker has taken these
        with store.errors():
            return None, store[BATCHES].find_one({"_id": batch["_id"]}, {"image_ids": 0, "refusals": 0})
    if not ids:
        return None, None
    return Slice.of(store, blobs, changed, number=number, token=token, ids=ids, attempts=1), changed


def _complete(store: Store, session: ClientSession, batch: Document) -> None:
    """Records the end of a batch; a version under which it has found nothing to record is free again."""
    if batch["record_as"] is not None and not batch["predicted"] + batch["already_there"]:
        release_version(store, session, batch)
    record_batch(store, session, "completed", batch)


def _retake(
    store: Store, blobs: Blobs, batch: Document, lapsed: Document, *, worker: str
) -> "tuple[Slice | None, Document | None]":
    """A slice whose lease has run out; one that was begun too often fails the batch."""
    held: Document = {
        "_id": batch["_id"],
        "state": {"$in": [*OPEN]},
        "slices": {"$elemMatch": {"number": lapsed["number"], "claim": lapsed["claim"]}},
    }
    if lapsed["attempts"] >= MAX_ATTEMPTS:
        who = f"{lapsed['attempts']} workers have begun a slice of it and given no sign of life"
        fail_batch(store, held, f"{who}; its first image is {lapsed['image_ids'][0]}.")
        return None, None
    token = str(uuid_utils.uuid7())
    fields = {
        "claim": token,
        "worker": {"$literal": worker},
        "attempts": {"$add": ["$$this.attempts", 1]},
        "expires_at": _lease(store),
    }
    matches = {"$and": [{"$eq": ["$$this.number", lapsed["number"]]}, {"$eq": ["$$this.claim", lapsed["claim"]]}]}
    merged = {"$cond": [matches, {"$mergeObjects": ["$$this", fields]}, "$$this"]}

    def work(session: ClientSession) -> Document | None:
        begins = batch["state"] == BatchState.QUEUED
        changed = change_batch(
            store,
            session,
            held,
            {"state": BatchState.RUNNING, "slices": {"$map": {"input": "$slices", "as": "this", "in": merged}}},
            is_change=begins,
        )
        if changed is not None and begins:
            record_batch(store, session, "started", changed)
        return changed

    changed = store.transaction(work)
    if changed is None:
        return None, None
    again = Slice.of(
        store,
        blobs,
        changed,
        number=lapsed["number"],
        token=token,
        ids=lapsed["image_ids"],
        attempts=lapsed["attempts"] + 1,
    )
    return again, changed


def _next_images(store: Store, batch: Document, size: int) -> tuple[list[str], Document, bool]:
    """The ids that come next, where to go on after them, and whether they are the last."""
    cursor = batch["cursor"]
    if batch["query"] is None:
        start = cursor["index"]
        with store.errors():
            found = store[BATCHES].find_one(
                {"_id": batch["_id"]}, {"image_ids": {"$slice": [start, size + 1]}, "state": 1}
            )
        listed = found["image_ids"] if found is not None else []
        return listed[:size], {**cursor, "index": start + len(listed[:size])}, len(listed) <= size
    ids: list[str] = []
    after = cursor["after"]
    while True:
        page = _page(store, after)
        for image_id in _wanted(store, batch, page):
            if len(ids) == size:
                return ids, {**cursor, "after": ids[-1]}, False
            ids.append(image_id)
        if len(page) < SCAN_PAGE:
            return ids, {**cursor, "after": ids[-1] if ids else after}, True
        after = page[-1]


def _page(store: Store, after: str) -> list[str]:
    """The next ids of `metadata`, in order, each as often as it stands there."""
    with store.errors():
        found = (
            store["metadata"]
            .find({"image_id": {"$gt": after}}, {"_id": 0, "image_id": 1}, hint=[("image_id", 1)])
            .sort("image_id", 1)
            .limit(SCAN_PAGE)
            .to_list()
        )
    return [each["image_id"] for each in found]


def _wanted(store: Store, batch: Document, page: Sequence[str]) -> list[str]:
    """Those of a page that a batch's query means, each once; of a resumed batch not what it has done before."""
    ids = [image_id for image_id in dict.fromkeys(page) if is_image_id(image_id)]
    if batch["query"] == "unprocessed":
        with store.errors():
            found = store[PREDICTIONS].find(
                {"image_id": {"$in": ids}},
                {"_id": 0, "image_id": 1},
                hint=[("image_id", 1), ("model_version", 1)],
            )
            processed = {each["image_id"] for each in found}
        ids = [image_id for image_id in ids if image_id not in processed]
    seen = batch["cursor"].get("seen", "")
    done = _done_before(store, batch, [image_id for image_id in ids if image_id <= seen])
    return [image_id for image_id in ids if image_id not in done]


def _done_before(store: Store, batch: Document, ids: Sequence[str]) -> set[str]:
    """Those images of a resumed batch that are out in a slice, or have what it was to find."""
    if not ids:
        return set()
    done = {image_id for piece in batch["slices"] for image_id in piece["image_ids"]}
    if batch["record_as"] is not None:
        recorded = recorded_of(store, ids, batch["record_as"])
        return done | {image_id for image_id, whose in recorded.items() if whose == batch["provenance"]}
    query = {"_id": {"$in": [batch_result_id(batch["_id"], image_id) for image_id in ids]}, "error": None}
    with store.errors():
        return done | {each["image_id"] for each in store[RESULTS].find(query, {"_id": 0, "image_id": 1})}


def _loads(store: Store, batch: Document, load: Callable[[Document], bool]) -> bool:
    """Whether a batch's model is there; fails the batch if it can't be used."""
    try:
        return load(batch)
    except ModelUnavailable as error:
        log.warning("model_unavailable", model=batch["model"], error=str(error))
        say_why_it_waits(store, batch["_id"], str(error))
        return False
    except (NotFound, InputRefused) as error:
        fail_batch(store, {"_id": batch["_id"], "state": {"$in": [*OPEN]}}, str(error))
        return False


def say_why_it_waits(store: Store, batch_id: str, error: str) -> None:
    """Has a batch that nobody works say why this worker can't, either."""
    is_held = {"$and": ["$$this.claim", {"$gt": ["$$this.expires_at", NOW]}]}
    idle: Document = {
        "_id": batch_id,
        "state": {"$in": [*OPEN]},
        "error": {"$ne": error},
        "$expr": {"$eq": [{"$filter": {"input": "$slices", "cond": is_held}}, []]},
    }

    def work(session: ClientSession) -> None:
        batch = change_batch(store, session, idle, {"error": {"$literal": error}})
        if batch is not None:
            record_batch(store, session, "delayed", batch)

    store.transaction(work)


def _waits(piece: str) -> Document:
    """Whether a slice was put back because something was away, and has not come on since."""
    return {"$gt": [{"$ifNull": [f"{piece}.waits", 0]}, 0]}


def _waited_too_long(token: str) -> Document:
    """Whether the slice of a claim has waited for too long since it, or anything of its batch, came on."""
    mine = {"$filter": {"input": "$slices", "cond": {"$eq": ["$$this.claim", token]}}}
    since = {"$first": {"$map": {"input": mine, "in": "$$this.waits_since"}}}
    ago = {"$subtract": [NOW, round(1000 * AWAY_AT_MOST_SECONDS)]}
    return {
        "$and": [
            {"$ne": [{"$ifNull": [since, None]}, None]},
            {"$lt": [{"$max": ["$progressed_at", since]}, ago]},
        ]
    }


def _lease(store: Store) -> Document:
    return {"$add": [NOW, round(store.settings.job_lease_seconds * 1000)]}


def _each(slices: str, token: str, fields: Document) -> Document:
    """The slices, with new fields for the one of a claim."""
    merged = {"$mergeObjects": ["$$this", fields]}
    one = {"$cond": [{"$eq": ["$$this.claim", token]}, merged, "$$this"]}
    return {"$map": {"input": slices, "as": "this", "in": one}}
