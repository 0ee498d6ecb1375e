"""Batches: one model over many images, as one document that is worked in slices.

A slice is claimed and finished like a job: one transaction each, and one event where it's finished. Several
workers work slices of one batch at once; each stands in the batch's document until it is finished, with the lease
of who works it. So a batch that is killed in the middle goes on where it was.
"""

import builtins
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import uuid_utils
from pymongo.client_session import ClientSession

from truthloop.errors import Conflict, InputRefused
from truthloop.events.passed_on import id_time_ms
from truthloop.monitor.read import is_image_id
from truthloop.predict.batch_change import OPEN, TOLD, change_batch, record_batch, released, stored_batch
from truthloop.predict.change import NOW
from truthloop.predict.documents import (
    BATCHES,
    RESULTS,
    Batch,
    BatchPage,
    BatchState,
    Query,
    Refusals,
)
from truthloop.predict.page import check_limit, checked_job_cursor
from truthloop.predict.record import (
    AUTO,
    VersionTaken,
    checked_version,
    choose_version,
    newer_than,
    older_of_others,
    provenance,
    recorded_versions,
    reserve_version,
    standing_versions,
)
from truthloop.predict.results import results_of
from truthloop.store.connection import Document, Store

if TYPE_CHECKING:
    from truthloop.models.documents import CatalogueEntry

# A list stands in the batch's document, which is written anew with each slice. For more there are queries.
MAX_LISTED, MAX_LISTED_BYTES = 10_000, 2 * 1024 * 1024
_ATTEMPTS = 10

# Gets the transaction's session and the batch as it is after the change; may run twice, as the transaction may.
Also = Callable[[ClientSession, Batch], None]


def create(
    store: Store,
    *,
    entry: "CatalogueEntry",
    image_ids: Sequence[str] | None = None,
    query: Query | None = None,
    record_as: str | None = None,
    also: Also | None = None,
) -> Batch:
    """A new batch, which workers begin at once.

    Args:
        store: the workspace.
        entry: the model, of the catalogue.
        image_ids: the images to be worked, at most 10,000; each counts once.
        query: instead of them `unprocessed`, the images without any prediction in `bbox.model`, or `all`.
        record_as: of a detection model, the version in `bbox.model` under which its boxes are recorded; `auto`
            for the one under which this very model stands there, else a new one. It may be older than others that
            are there, which `newer_version` of the batch then says. None keeps the results with the batch.
        also: what belongs to the change, done in its transaction.

    Raises:
        InputRefused: neither or both of `image_ids` and `query`, too many or unusable ids, a version that isn't
            numbers with dots between them, or boxes to be recorded of a model that finds none.
        Conflict: under that version stand another model's boxes.
    """
    ids = _checked_ids(image_ids, query)
    if record_as is not None and entry.task != "detection":
        raise InputRefused(
            f"{entry.name} is a {entry.task} model, which finds no boxes to be recorded. `truthloop jobs submit "
            f"{entry.name} IMAGE` runs it on an image; a batch without record_as, made over HTTP or in Python, on "
            "many. Or choose a detection model.",
            errors={"record_as": "only of a detection model"},
        )
    wanted = None if record_as in (None, AUTO) else checked_version(record_as)
    total = len(ids) if ids is not None else _count(store, query)
    batch_id = str(uuid_utils.uuid7())
    made_at = datetime.fromtimestamp(id_time_ms(batch_id) / 1000, UTC)
    document: Document = {
        "_id": batch_id,
        "revision": 1,
        "state": BatchState.QUEUED,
        "model": entry.name,
        "model_version": entry.version,
        "provenance": provenance(entry),
        "query": query,
        "image_ids": ids,
        "total": total,
        **dict.fromkeys(("done", "predicted", "already_there", "refused"), 0),
        "refusals": [],
        "record_asked": record_as,
        "cursor": {"after": "", "index": 0},
        "exhausted": False,
        "slices": [],
        "error": None,
        **dict.fromkeys(("created_at", "updated_at", "progressed_at"), made_at),
        "finished_at": None,
    }
    for attempt in range(_ATTEMPTS):
        version = newer = None
        if record_as is not None:
            standing = standing_versions(store)
            version = choose_version(standing, document["provenance"], wanted)
            newer = newer_than(version, standing)

        def work(session: ClientSession, version: str | None = version, newer: str | None = newer) -> Document:
            if version is not None:
                reserve_version(store, session, version, document["provenance"])
            made = document | {"record_as": version, "newer_version": newer}
            store[BATCHES].insert_one(made, session=session)
            record_batch(store, session, "created", made)
            if also is not None:
                also(session, Batch.of(made))
            return made

        try:
            return Batch.of(store.transaction(work))
        except VersionTaken:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError  # the loop returns or raises


def get(store: Store, batch_id: str) -> Batch:
    """A batch as it stands.

    Raises:
        NotFound: there is none of this id.
    """
    return Batch.of(stored_batch(store, batch_id))


def list(  # noqa: A001 - the verb's name
    store: Store, *, state: BatchState | str | None = None, limit: int = 100, after: str | None = None
) -> BatchPage:
    """A page of batches, the newest first.

    Raises:
        CursorRefused: `after` isn't a batch's id.
        InputRefused: the limit or the state isn't allowed.
    """
    check_limit(limit)
    query: Document = {}
    if state is not None:
        if state not in [*BatchState]:
            allowed = ", ".join(BatchState)
            raise InputRefused(
                f"state is {state[:64]!r}; give one of {allowed}.", errors={"state": f"must be one of {allowed}"}
            )
        query["state"] = state
    if after is not None:
        query["_id"] = {"$lt": checked_job_cursor(after)}
    with store.errors():
        found = builtins.list(store[BATCHES].find(query, TOLD).sort("_id", -1).limit(limit + 1))
    page = found[:limit]
    return BatchPage(
        items=[Batch.of(document) for document in page], next=page[-1]["_id"] if len(found) > limit else None
    )


def unfinished(store: Store, *, entry: "CatalogueEntry", query: Query, record_as: str | None) -> Batch | None:
    """The newest batch of the same question, if it has not come to its end.

    The same question names the same model, images and version to record as, `auto` and None among them: what
    another was asked to record, or not to record, is another question.
    """
    asked: Document = {"provenance": provenance(entry), "query": query, "record_asked": record_as}
    with store.errors():
        # Only the newest one: an older one that was left has been overtaken by it.
        found = store[BATCHES].find_one(asked, TOLD, sort=[("_id", -1)])
    if found is None or found["state"] == BatchState.SUCCEEDED:
        return None
    return Batch.of(found)


def goes_on(batch: Batch) -> str:
    """How a batch that is left open is gone on with, and what ends it; a sentence for people. Pure."""
    # A list of images is asked anew each time; only a query is found again.
    by = "the same command goes on with it, and so does a worker" if batch.query else "a worker goes on with it"
    return f"Batch {batch.id} stays open: {by} that has the model; `truthloop batches cancel {batch.id}` ends it."


def outdone(store: Store, batch_id: str) -> tuple[str, str | None] | None:
    """The newest version of another model that the one a batch recorded under outdoes; a scan of all predictions.

    Of an image that has boxes under both, those of the batch count from now on. One that had no boxes before, as
    those of the query `unprocessed`, has none under both.

    Returns:
        The version, and the name of the model whose boxes stand under it, None where they don't say. None where
        the batch has recorded nothing, there are none such, or a newer one counts before the batch's anyway.

    Raises:
        NotFound: there is no such batch.
    """
    batch = stored_batch(store, batch_id)
    if batch["record_as"] is None or not batch["predicted"] or batch["query"] == "unprocessed":
        return None
    return older_of_others(batch["record_as"], recorded_versions(store), batch["provenance"])


def refusals(store: Store, batch_id: str) -> builtins.list[Refusals]:
    """For which reasons images of a batch were refused, and how many for each: the commonest first.

    Raises:
        NotFound: there is no such batch.
    """
    stored_batch(store, batch_id)
    by_reason: builtins.list[Document] = [
        {"$match": {"_id": results_of(batch_id), "error": {"$type": "string"}}},
        {"$group": {"_id": "$error", "images": {"$sum": 1}, "example": {"$min": "$image_id"}}},
        {"$sort": {"images": -1, "example": 1}},
    ]
    with store.errors():
        found = store[RESULTS].aggregate(by_reason).to_list()
    return [Refusals(reason=each.pop("_id"), **each) for each in found]


def cancel(store: Store, batch_id: str) -> Batch:
    """Stops a batch: what is being worked is dropped; what is stored stays. It can be resumed.

    Raises:
        NotFound: there is no such batch.
        Conflict: it has ended already.
    """

    def work(session: ClientSession) -> Document:
        batch = change_batch(
            store,
            session,
            {"_id": batch_id, "state": {"$in": [*OPEN]}},
            {"state": BatchState.CANCELLED, "finished_at": NOW, "slices": released("$slices")},
        )
        if batch is None:
            state = stored_batch(store, batch_id, session)["state"]
            raise Conflict(f"Batch {batch_id} is {state}; there is nothing to cancel.")
        record_batch(store, session, "cancelled", batch)
        return batch

    return Batch.of(store.transaction(work))


def resume(store: Store, batch_id: str, *, anew: bool = False) -> Batch:
    """Goes on with a batch that was cancelled or has failed; one that is open stays as it is.

    A query is asked again from the first image on, since new images stand between the old ones: ids are hashes.
    What the batch has done before is not done again, but images that were refused are tried again.

    Args:
        store: the workspace.
        batch_id: which batch.
        anew: asks the query of an open batch again, too.

    Raises:
        NotFound: there is no such batch.
        Conflict: it has succeeded, so there is nothing left.
    """
    found = stored_batch(store, batch_id)
    again: Document = {}
    if found["query"] is not None and found["state"] != BatchState.SUCCEEDED:
        seen = {"$max": ["$cursor.after", {"$ifNull": ["$cursor.seen", ""]}]}
        again = {
            "cursor": {"$mergeObjects": ["$cursor", {"after": "", "seen": seen}]},
            "exhausted": False,
            "total": _total_again(found, _count(store, found["query"])),
        }

    def work(session: ClientSession) -> Document:
        batch = change_batch(
            store,
            session,
            {"_id": batch_id, "state": {"$in": [BatchState.CANCELLED, BatchState.FAILED]}},
            {
                "state": BatchState.QUEUED,
                "finished_at": None,
                "error": None,
                "slices": released("$slices", attempts=0, waits=0, waits_since=None),
                "progressed_at": NOW,
                **again,
            },
        )
        if batch is None and anew and again:
            batch = change_batch(store, session, {"_id": batch_id, "state": {"$in": [*OPEN]}}, again)
        if batch is None:
            now = stored_batch(store, batch_id, session)
            if now["state"] in OPEN:
                return now
            raise Conflict(f"Batch {batch_id} has succeeded; there is nothing left of it. Make a new one.")
        record_batch(store, session, "resumed", batch)
        return batch

    return Batch.of(store.transaction(work))


def _total_again(batch: Document, count: int) -> Document | int:
    """The total of a batch whose query is asked again: what it has done, and what the query means now."""
    if batch["query"] == "all":
        return count
    if batch["record_as"] is None:  # what it has done is still unprocessed
        return {"$max": ["$done", count]}
    return {"$add": [{"$subtract": ["$done", "$refused"]}, count]}


def _count(store: Store, query: Query | None) -> int:
    from truthloop.monitor.status import status

    now = status(store)
    return now.images if query == "all" else now.images - now.processed.count


def _checked_ids(image_ids: Sequence[str] | None, query: Query | None) -> builtins.list[str] | None:
    if (image_ids is None) == (query is None):
        raise InputRefused("Give either image_ids or a query.", errors={"image_ids": "either these or a query"})
    if image_ids is None:
        if query not in ("unprocessed", "all"):
            raise InputRefused(
                f"query is {str(query)[:64]!r}; give unprocessed or all.",
                errors={"query": "must be unprocessed or all"},
            )
        return None
    ids = builtins.list(dict.fromkeys(image_ids))
    if not ids:
        raise InputRefused("image_ids is empty.", errors={"image_ids": "empty"})
    for place, image_id in enumerate(ids):
        if not (isinstance(image_id, str) and image_id and is_image_id(image_id)):
            raise InputRefused(
                f"image_ids[{place}] can't be an image's id.", errors={f"image_ids[{place}]": "no image's id"}
            )
    if len(ids) > MAX_LISTED or sum(len(image_id.encode()) for image_id in ids) > MAX_LISTED_BYTES:
        raise InputRefused(
            f"image_ids has {len(ids):,} ids; at most {MAX_LISTED:,} of {MAX_LISTED_BYTES:,} bytes together are "
            "taken. Make several batches, or use a query.",
            errors={"image_ids": f"at most {MAX_LISTED}"},
        )
    return ids
