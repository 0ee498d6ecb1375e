"""Slices of a batch: worked at once, lost, put back, waited for, and resumed where they were stopped."""

import threading
from typing import Any

import pytest

from predict.given import FINDER, TinyModel, events_of, png
from predict.given_batches import assert_events_in_order, found, predictions, take, work
from truthloop.blobs import Blobs
from truthloop.errors import Conflict, ModelUnavailable, StorageUnavailable
from truthloop.models.documents import Boxes, CatalogueEntry
from truthloop.predict import batches, results, slices
from truthloop.predict.documents import BatchState
from truthloop.predict.loaded import LoadedModels
from truthloop.predict.run import slices_of, work_batch
from truthloop.predict.slice_claim import claim_slice
from truthloop.predict.work import Outcome
from truthloop.store.connection import Store
from truthloop.workspace import Workspace


def test_a_slice_that_was_lost_records_nothing(store: Store, blobs: Blobs, images: list[str]) -> None:
    batch = batches.create(store, entry=FINDER, query="all", record_as="auto")
    late = take(store, blobs)
    store["truthloop.batches"].update_one({}, [{"$set": {"slices.expires_at": {"$subtract": ["$$NOW", 1]}}}])
    again = take(store, blobs)
    assert again.ids == late.ids

    late.finish(found(late))
    assert late.lost.is_set()
    assert predictions(store) == []
    again.finish(found(again))
    late.finish(found(late))

    assert [image_id for image_id, _ in predictions(store)] == images[:4]
    now = batches.get(store, batch.id)
    assert (now.state, now.done, now.predicted) == ("running", 4, 4)
    assert work(store, blobs, now).done == 10
    assert_events_in_order(store, batches.get(store, batch.id))


def test_slices_of_one_batch_are_worked_at_once(store: Store, blobs: Blobs, images: list[str]) -> None:
    batch = batches.create(store, entry=FINDER, query="all", record_as="auto")
    pieces = [take(store, blobs) for _ in range(3)]
    assert [image_id for piece in pieces for image_id in piece.ids] == images
    assert claim_slice(store, blobs, worker="me", size={"finder": 4}.__getitem__) is None

    for piece in reversed(pieces):
        assert batches.get(store, batch.id).state == BatchState.RUNNING
        piece.finish(found(piece))

    done = batches.get(store, batch.id)
    assert (done.state, done.done) == ("succeeded", 10)
    assert_events_in_order(store, done)


def test_a_cancelled_batch_drops_what_is_being_worked_and_can_be_resumed(
    store: Store, blobs: Blobs, images: list[str]
) -> None:
    batch = batches.create(store, entry=FINDER, query="all", record_as="auto")
    kept, dropped = take(store, blobs), take(store, blobs)
    kept.finish(found(kept))

    assert batches.cancel(store, batch.id).state == BatchState.CANCELLED
    dropped.renew()
    assert dropped.lost.is_set()
    dropped.finish(found(dropped))
    assert len(predictions(store)) == 4
    with pytest.raises(Conflict):
        batches.cancel(store, batch.id)

    assert batches.resume(store, batch.id).state == BatchState.QUEUED
    done = work(store, blobs, batch)
    assert (done.state, done.done) == ("succeeded", 10)
    assert [image_id for image_id, _ in predictions(store)] == images
    with pytest.raises(Conflict, match="has succeeded"):
        batches.resume(store, batch.id)
    assert_events_in_order(store, done)


def test_a_stopped_run_goes_back_and_the_next_one_finds_it(
    store: Store, blobs: Blobs, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truthloop.predict.worker.FIRST_SLICE", 4)
    stop = threading.Event()
    runs = []

    def stop_at_sixth(batch: list[float]) -> None:
        runs.append(batch)
        if len(runs) == 6:
            stop.set()

    batch = batches.create(store, entry=FINDER, query="unprocessed", record_as="auto")
    stopped = work(store, blobs, batch, TinyModel(entry=FINDER, before_run=stop_at_sixth), stop=stop)
    assert stopped.state == BatchState.RUNNING
    assert stopped.done == 4

    again = batches.unfinished(store, entry=FINDER, query="unprocessed", record_as="auto")
    assert again is not None
    assert again.id == batch.id
    assert work(store, blobs, again).done == 10
    assert len(predictions(store)) == 10
    assert batches.unfinished(store, entry=FINDER, query="unprocessed", record_as="auto") is None


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("query", "record_as"), [("unprocessed", "auto"), ("all", "auto"), ("all", None), ("unprocessed", None)]
)
def test_a_query_that_is_resumed_means_what_is_there_then(
    store: Store, blobs: Blobs, images: list[str], query: Any, record_as: str | None, is_open: bool
) -> None:
    gone = images[1]
    store["metadata"].update_one({"image_id": gone}, {"$set": {"blob": blobs.put(b"no image")}})
    batch = batches.create(store, entry=FINDER, query=query, record_as=record_as)
    first, held = take(store, blobs, 6), take(store, blobs, 3)
    first.finish([
        Outcome(error="no image") if image_id == gone else outcome
        for image_id, outcome in zip(first.ids, found(first), strict=True)
    ])  # fmt: skip
    if not is_open:
        batches.cancel(store, batch.id)
    workspace = Workspace(store)
    new = [workspace.ingest_image(png(grey + 100), name=f"{grey}.png").image_id for grey in range(20)]
    assert min(new) < images[6], "some of them stand before where the batch is"

    resumed = batches.resume(store, batch.id, anew=is_open)
    assert (resumed.done, resumed.total) == (6, 30) or (query, record_as) == ("unprocessed", "auto")
    assert resumed.total == 30
    if is_open:
        held.finish(found(held))
    done = work(store, blobs, batch)

    assert (done.state, done.total, done.done, done.predicted, done.refused) == ("succeeded", 30, 30, 29, 1)
    assert [refusal.image_id for refusal in done.refusals] == [gone]
    worked = {image_id for image_id, _ in predictions(store)}
    if record_as is None:
        listed = results.batch_results(store, blobs, batch.id).items
        assert len(listed) == 30
        worked = {item.image_id for item in listed if item.error is None}
    assert worked == {*images, *new} - {gone}
    assert_events_in_order(store, done)


def test_predict_records_what_is_unprocessed_whatever_was_left_before(
    store: Store, blobs: Blobs, images: list[str]
) -> None:
    workspace = Workspace(store)
    batches.cancel(store, workspace.batches.create("opencv_people", query="unprocessed").id)
    left = workspace.batches.create("opencv_people", query="unprocessed", record_as="auto")
    piece = claim_slice(store, blobs, worker="me", size={"opencv_people": 6}.__getitem__, batch_id=left.id)
    assert piece is not None
    piece.finish([Outcome(prediction=Boxes(boxes=())) for _ in piece.items])
    new = [workspace.ingest_image(png(grey + 100), name=f"{grey}.png").image_id for grey in range(20)]
    assert min(new) < images[5], "some of them stand before where the batch is"

    done = workspace.predict("opencv_people", query="unprocessed")

    assert (done.id, done.state, done.predicted, done.total) == (left.id, "succeeded", 30, 30)
    assert predictions(store) == sorted((image_id, "1.0.0") for image_id in [*images, *new])


def test_an_image_that_was_refused_is_tried_again_by_a_resumed_batch(
    store: Store, blobs: Blobs, images: list[str]
) -> None:
    batch = batches.create(store, entry=FINDER, query="unprocessed", record_as="auto")
    piece = take(store, blobs)
    piece.finish([Outcome(error="damaged"), *found(piece)[1:]])
    batches.cancel(store, batch.id)

    batches.resume(store, batch.id)
    done = work(store, blobs, batch)

    assert (done.total, done.done, done.predicted, done.refused, done.refusals) == (10, 10, 10, 0, [])
    assert results.batch_results(store, blobs, batch.id).items == []
    assert_events_in_order(store, done)


def test_a_slice_that_nobody_survives_fails_the_batch(store: Store, blobs: Blobs, images: list[str]) -> None:
    batch = batches.create(store, entry=FINDER, query="all", record_as="auto")
    for _ in range(3):
        take(store, blobs)
        store["truthloop.batches"].update_one({}, [{"$set": {"slices.expires_at": {"$subtract": ["$$NOW", 1]}}}])

    assert claim_slice(store, blobs, worker="me", size={"finder": 4}.__getitem__) is None
    failed = batches.get(store, batch.id)
    assert failed.state == BatchState.FAILED
    assert images[0] in (failed.error or "")
    batches.resume(store, batch.id)
    assert work(store, blobs, failed).done == 10


def test_while_the_blob_store_is_away_a_slice_waits_instead_of_refusing_its_images(
    store: Store, blobs: Blobs, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "AWAY_SECONDS", 0.01)
    away = [True]
    read = Blobs.get

    def get(self: Blobs, key: str) -> bytes:
        if away and away.pop():
            raise StorageUnavailable("the store is away")
        return read(self, key)

    monkeypatch.setattr(Blobs, "get", get)
    done = work(store, blobs, batches.create(store, entry=FINDER, query="all", record_as="auto"))

    assert (done.state, done.predicted, done.refused) == ("succeeded", 10, 0)


def test_a_slice_waits_for_what_is_away_and_no_attempt_is_counted(
    store: Store, blobs: Blobs, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batches.create(store, entry=FINDER, query="all", record_as="auto")
    delays = []
    for _ in range(7):
        piece = take(store, blobs, 10)
        piece.finish([Outcome(retry="the store is away", unavailable=True) for _ in piece.items])
        [waiting] = store["truthloop.batches"].aggregate([
            {"$project": {"delay": {"$subtract": [{"$first": "$slices.expires_at"}, "$updated_at"]}}}
        ])  # fmt: skip
        delays.append(round(waiting["delay"] / 1000))
        store["truthloop.batches"].update_one({}, [{"$set": {"slices.expires_at": "$$NOW"}}])

    assert delays == [2, 4, 8, 16, 32, 60, 60]
    now = batches.get(store, batch.id)
    assert (now.state, now.error, now.revision) == ("running", "the store is away", 9)
    assert_events_in_order(store, now)
    an_hour = {"$subtract": ["$$NOW", 3_601_000]}
    store["truthloop.batches"].update_one({}, [{"$set": {"progressed_at": an_hour}}])
    piece = take(store, blobs, 10)
    piece.put_back("the store is away", unavailable=True)  # it has waited for a moment only
    store["truthloop.batches"].update_one(
        {}, [{"$set": {"slices.expires_at": "$$NOW", "slices.waits_since": an_hour}}]
    )
    piece = take(store, blobs, 10)
    piece.put_back("the store is away", unavailable=True)
    failed = batches.get(store, batch.id)
    assert (failed.state, failed.error) == ("failed", "the store is away")
    assert_events_in_order(store, failed)
    assert work(store, blobs, batches.resume(store, batch.id)).predicted == 10


def test_a_worker_without_the_model_leaves_a_batch_to_others(
    store: Store, blobs: Blobs, images: list[str]
) -> None:
    def lacks(entry: CatalogueEntry) -> Any:
        raise ModelUnavailable(f"{entry.name} is not here")

    lacking = LoadedModels({"finder": FINDER}.__getitem__, lacks)
    batch = batches.create(store, entry=FINDER, query="all", record_as="auto")
    stop = threading.Event()
    claim = slices_of(store, blobs, lacking, stop, worker="lacking")

    assert claim({"finder": 4}.__getitem__, None, ()) is None
    waiting = batches.get(store, batch.id)
    assert (waiting.state, waiting.error, waiting.revision) == ("queued", "finder is not here", 2)
    assert events_of(store, batch.id)[-1] == (2, "batch.delayed", "queued")
    with pytest.raises(ModelUnavailable):
        work_batch(store, blobs, batch.id, stop, loaded=lacking)
    assert batches.get(store, batch.id) == waiting, "the same reason is said once"

    held = take(store, blobs)
    assert batches.get(store, batch.id).error is None
    assert slices_of(store, blobs, lacking, stop, worker="lacking")({"finder": 4}.__getitem__, None, ()) is None
    assert batches.get(store, batch.id).error is None, "others work it"
    held.finish(found(held))
    done = work(store, blobs, batch)
    assert (done.predicted, done.error) == (10, None)
    assert_events_in_order(store, done)


@pytest.mark.parametrize("asked", [{"query": "all"}, {"image_ids": ["a"]}])
def test_who_would_work_a_batch_here_without_its_model_is_told_which_one_stays_open_and_what_ends_it(
    store: Store, blobs: Blobs, asked: Any
) -> None:
    def lacks(entry: CatalogueEntry) -> Any:
        raise ModelUnavailable(f"{entry.name} is not here.")

    batch = batches.create(store, entry=FINDER, record_as="auto", **asked)
    with pytest.raises(ModelUnavailable) as refused:
        work_batch(
            store, blobs, batch.id, threading.Event(), loaded=LoadedModels({"finder": FINDER}.__getitem__, lacks)
        )

    told = str(refused.value)
    assert told.startswith(f"finder is not here. Batch {batch.id} stays open: ")
    assert f"`truthloop batches cancel {batch.id}` ends it." in told
    # A list of images is asked anew each time.
    assert ("the same command goes on with it" in told) == ("query" in asked)


def test_who_would_work_a_batch_here_without_its_model_leaves_the_reason(
    store: Store, blobs: Blobs, images: list[str]
) -> None:
    def lacks(entry: CatalogueEntry) -> Any:
        raise ModelUnavailable(f"{entry.name} is not here")

    batch = batches.create(store, entry=FINDER, query="all", record_as="auto")
    with pytest.raises(ModelUnavailable):
        work_batch(
            store, blobs, batch.id, threading.Event(), loaded=LoadedModels({"finder": FINDER}.__getitem__, lacks)
        )
    assert batches.get(store, batch.id).error == "finder is not here"
