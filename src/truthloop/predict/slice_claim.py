"""How workers take slices of batches: which images come next, and whose lease has run out."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import uuid_utils
from pymongo.client_session import ClientSession

from truthloop.blobs import Blobs
from truthloop.errors import InputRefused, ModelUnavailable, NotFound
from truthloop.logs import get_logger
from truthloop.monitor.read import is_image_id
from truthloop.predict.batch_change import OPEN, change_batch, fail_batch, record_batch
from truthloop.predict.change import NOW
from truthloop.predict.claim import of_models
from truthloop.predict.documents import BATCHES, MAX_ATTEMPTS, RESULTS, BatchState
from truthloop.predict.page import MAX_PAGE
from truthloop.predict.record import PREDICTIONS, recorded_of
from truthloop.predict.results import batch_result_id
from truthloop.predict.slices import AT_END, Slice, complete, lease, waits
from truthloop.store.connection import Document, Locked, Store

log = get_logger(__name__)

# How many ids of `metadata` one look for unprocessed images reads at once.
SCAN_PAGE = 2_000
# How long a batch is tried for while another transaction holds it: jobs wait meanwhile.
PATIENCE_SECONDS = 0.5
# When so many slices of a batch wait, its next images had better stay where they are.
MAX_WAITING = 8


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
) -> Slice | None:
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
    query: Document = {"state": {"$in": [*OPEN]}, **of_models(models, without)}
    if batch_id is not None:
        query["_id"] = batch_id
    lapsed = {"$filter": {"input": "$slices", "cond": {"$lte": ["$$this.expires_at", NOW]}}}
    waiting = {"$size": {"$filter": {"input": "$slices", "cond": waits("$$this")}}}
    with store.errors():
        batches = (
            store[BATCHES].find(query, {"image_ids": 0, "refusals": 0}).sort("_id", 1).limit(MAX_PAGE).to_list()
        )
    for found_batch in batches:
        batch: Document | None = found_batch
        while batch is not None and batch["state"] in OPEN:
            with store.errors():
                found = store[BATCHES].find_one({"_id": batch["_id"]}, {"lapsed": lapsed, "waits": waiting})
            if found is None:
                break
            if not found["lapsed"] and (batch["exhausted"] or found["waits"] >= MAX_WAITING):
                break
            if not _loads(store, batch, load):
                break
            try:
                if found["lapsed"]:
                    taken, batch = _retake(store, blobs, batch, found["lapsed"][0], worker=worker)
                else:
                    taken, batch = _take_next(store, blobs, batch, size(batch["model"]), worker=worker)
            except Locked:  # maybe by a worker that was killed: others can be gone on with
                break
            if taken is not None:
                return taken
    return None


def _take_next(
    store: Store, blobs: Blobs, batch: Document, size: int, *, worker: str
) -> tuple[Slice | None, Document | None]:
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
            "expires_at": lease(store),
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
            *AT_END,
            is_change=begins or not ids,
        )
        if changed is not None and changed["state"] == BatchState.SUCCEEDED:
            complete(store, session, changed)
        elif changed is not None and begins:
            record_batch(store, session, "started", changed)
        elif changed is not None and not ids:
            record_batch(store, session, "progressed", changed)
        return changed

    changed = store.transaction(work, patience_seconds=PATIENCE_SECONDS)
    if changed is None:  # another worker has taken these
        with store.errors():
            return None, store[BATCHES].find_one({"_id": batch["_id"]}, {"image_ids": 0, "refusals": 0})
    if not ids:
        return None, None
    return Slice.of(store, blobs, changed, number=number, token=token, ids=ids, attempts=1), changed


def _retake(
    store: Store, blobs: Blobs, batch: Document, lapsed: Document, *, worker: str
) -> tuple[Slice | None, Document | None]:
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
        "expires_at": lease(store),
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

    changed = store.transaction(work, patience_seconds=PATIENCE_SECONDS)
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


def is_any_unprocessed(store: Store) -> bool:
    """Whether a batch of the query `unprocessed` would find an image at this moment.

    The status may be a moment behind. Where there is none this reads all ids, as such a batch does.
    """
    ids, _, _ = _next_images(store, {"query": "unprocessed", "cursor": {"after": "", "index": 0}}, 1)
    return bool(ids)


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

    with suppress(Locked):  # it is said at the next look
        store.transaction(work, patience_seconds=PATIENCE_SECONDS)
