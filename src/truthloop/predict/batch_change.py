"""One change of one batch, with its event, in the caller's transaction."""

from contextlib import nullcontext
from typing import Any

from pymongo import ReturnDocument
from pymongo.client_session import ClientSession

from truthloop.errors import NotFound
from truthloop.events.record import record
from truthloop.predict.change import NOW
from truthloop.predict.documents import BATCHES, SOURCE, BatchState
from truthloop.store.connection import Document, Store

OPEN = (BatchState.QUEUED, BatchState.RUNNING)
# What of a batch is told; a long list of images is not read for it.
TOLD: Document = {"image_ids": 0, "slices": 0, "cursor": 0}


def change_batch(
    store: Store,
    session: ClientSession,
    query: Document,
    fields: Document,
    *more: Document,
    is_change: bool = True,
) -> Document | None:
    """Changes the batch that a query finds.

    Args:
        store: where the batch is.
        session: the transaction's.
        query: the batch's id, with what must hold of it.
        fields: new fields, as expressions of an update pipeline.
        more: further stages of that pipeline.
        is_change: whether it counts as a revision, which has an event; holding a slice doesn't.

    Returns:
        The batch after the change, without its list of images; None if there is none such.
    """
    if is_change:
        fields = {**fields, "revision": {"$add": ["$revision", 1]}, "updated_at": NOW}
    return store[BATCHES].find_one_and_update(
        query,
        [{"$set": fields}, *more],
        projection={"image_ids": 0},
        session=session,
        return_document=ReturnDocument.AFTER,
    )


def fail_batch(store: Store, query: Document, error: str) -> None:
    """Ends the batch that a query finds as failed; its slices are free for those who resume it."""

    def work(session: ClientSession) -> None:
        batch = change_batch(
            store,
            session,
            query,
            {
                "state": BatchState.FAILED,
                "finished_at": NOW,
                "error": {"$literal": error},
                "slices": released("$slices"),
            },
        )
        if batch is not None:
            record_batch(store, session, "failed", batch)

    store.transaction(work)


def record_batch(store: Store, session: ClientSession, verb: str, batch: Document) -> None:
    """Records what happened to a batch, with its counts."""
    told = ("state", "model", "record_as", "total", "done", "predicted", "already_there", "refused")
    data = {name: batch[name] for name in told}
    if batch["error"] is not None:
        data["error"] = batch["error"]
    record(
        store,
        session,
        type=f"batch.{verb}",
        subject=batch["_id"],
        source=SOURCE,
        sequence=batch["revision"],
        data=data,
    )


def stored_batch(store: Store, batch_id: str, session: ClientSession | None = None) -> Document:
    """The batch's document, without its list of images.

    Raises:
        NotFound: there is none.
    """
    # Inside a transaction its own repetition needs PyMongo's errors as they are.
    with store.errors() if session is None else nullcontext():
        document = store[BATCHES].find_one({"_id": batch_id}, {"image_ids": 0}, session=session)
    if document is None:
        raise NotFound(f"There is no batch {batch_id[:64]!r}. `truthloop batches list` shows those there are.")
    return document


def released(slices: str, **fields: Any) -> Document:
    """The slices, free for whoever comes next."""
    free = {"$mergeObjects": ["$$this", {"claim": None, "expires_at": NOW, **fields}]}
    return {"$map": {"input": slices, "as": "this", "in": free}}
