"""Slices of batches, as workers hold and finish them; how they are taken is in slice_claim.py."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymongo.client_session import ClientSession

from truthloop.blobs import Blobs
from truthloop.errors import StorageUnavailable
from truthloop.models.documents import Boxes
from truthloop.predict.batch_change import change_batch, fail_batch, record_batch
from truthloop.predict.change import NOW
from truthloop.predict.documents import BATCHES, MAX_ATTEMPTS, RESULTS, BatchState
from truthloop.predict.record import (
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

# Refused images that the batch itself names; all of them are among its results.
MAX_REFUSALS = 100
# A slice that failed is left alone for so long before its next attempt.
RETRY_SECONDS = 5.0
# While storage can't be had a slice waits 2, 4, 8, ... seconds, at most so many each time; no attempt is counted.
AWAY_SECONDS = 60.0
# After so long without any progress of the batch it has failed.
AWAY_AT_MOST_SECONDS = 3600.0
_ATTEMPTS = 10
# How a worker begins to say that the blob store lacks an image's file; the file's own key comes after it.
_GONE = "The image's file is gone."

_IS_DONE: Document = {"$and": ["$exhausted", {"$eq": [{"$size": "$slices"}, 0]}]}
# A stage of a change after which the batch has succeeded if no image is left and no slice is out.
AT_END: tuple[Document, ...] = (
    {
        "$set": {
            "state": {"$cond": [_IS_DONE, BatchState.SUCCEEDED, "$state"]},
            "finished_at": {"$cond": [_IS_DONE, NOW, "$finished_at"]},
            "total": {"$cond": [_IS_DONE, "$done", {"$max": ["$total", "$done"]}]},
        }
    },
)


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
                [{"$set": {"slices": _each("$slices", self.token, {"expires_at": lease(self.store)})}}],
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
                refused[image_id] = self._reason(outcome)
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
        free = {"$and": [{"$eq": ["$$this.claim", None]}, waits("$$this")]}
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
            *AT_END,
        )
        if batch is None:
            session.abort_transaction()
            return False
        documents = [*results, *(self._result(image_id, {"error": why}) for image_id, why in refused.items())]
        if documents:
            self.store[RESULTS].insert_many(documents, session=session)
        if batch["state"] == BatchState.SUCCEEDED:
            complete(self.store, session, batch)
        else:
            record_batch(self.store, session, "progressed", batch)
        return True

    def _reason(self, outcome: Outcome) -> str:
        """Why an image is refused, in the same words for all that are refused for it: they are counted by it."""
        reason = outcome.error or outcome.retry or ""
        if reason.startswith(_GONE):
            place = self.blobs.place
            return f"{_GONE} It isn't in {place}. `truthloop ingest FOLDER` of the same files brings it back."
        return reason

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


def complete(store: Store, session: ClientSession, batch: Document) -> None:
    """Records the end of a batch; a version under which it has found nothing to record is free again."""
    if batch["record_as"] is not None and not batch["predicted"] + batch["already_there"]:
        release_version(store, session, batch)
    record_batch(store, session, "completed", batch)


def waits(piece: str) -> Document:
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


def lease(store: Store) -> Document:
    """When what is held from now on runs out."""
    return {"$add": [NOW, round(store.settings.job_lease_seconds * 1000)]}


def _each(slices: str, token: str, fields: Document) -> Document:
    """The slices, with new fields for the one of a claim."""
    merged = {"$mergeObjects": ["$$this", fields]}
    one = {"$cond": [{"$eq": ["$$this.claim", token]}, merged, "$$this"]}
    return {"$map": {"input": slices, "as": "this", "in": one}}
