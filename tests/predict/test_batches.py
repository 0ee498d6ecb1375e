"""Batches: many images in slices, recorded once, resumed where they were stopped."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from predict.given import ENTRY, FINDER, TinyModel, events_of, loaded, png
from truthloop.blobs import Blobs
from truthloop.errors import Conflict, InputRefused, ModelUnavailable, NotFound, StorageUnavailable
from truthloop.ingest.load import load
from truthloop.models.documents import Boxes, CatalogueEntry
from truthloop.predict import batches, results, slices
from truthloop.predict.documents import Batch, BatchState
from truthloop.predict.loaded import LoadedModels
from truthloop.predict.record import choose_version, next_major, provenance
from truthloop.predict.run import slices_of, work_batch
from truthloop.predict.slice_claim import claim_slice
from truthloop.predict.work import Outcome
from truthloop.store.connection import Store
from truthloop.workspace import Workspace


@pytest.fixture
def images(store: Store, blobs: Blobs) -> list[str]:
    """Ten images with pixels, in the order of their ids."""
    workspace = Workspace(store)
    return sorted(workspace.ingest_image(png(grey + 1), name=f"{grey}.png").image_id for grey in range(10))


def work(store: Store, blobs: Blobs, batch: Batch, model: TinyModel | None = None, **more: Any) -> Batch:
    return work_batch(
        store,
        blobs,
        batch.id,
        more.pop("stop", threading.Event()),
        loaded=loaded(model or TinyModel(entry=FINDER)),
        **more,
    )


def predictions(store: Store) -> list[tuple[str, str]]:
    return sorted((each["image_id"], each["model_version"]) for each in store["bbox.model"].find())


def take(store: Store, blobs: Blobs, size: int = 4) -> slices.Slice:
    piece = claim_slice(store, blobs, worker="me", size={"finder": size}.__getitem__)
    assert piece is not None
    return piece


def found(piece: slices.Slice) -> list[Outcome]:
    return [Outcome(prediction=TinyModel(entry=FINDER).run([1.0])[0]) for _ in piece.items]


def assert_events_in_order(store: Store, batch: Batch) -> None:
    events = events_of(store, batch.id)
    assert [sequence for sequence, _, _ in events] == list(range(1, batch.revision + 1)), events
    assert events[-1][2] == batch.state


def test_unprocessed_images_get_their_boxes_once(store: Store, blobs: Blobs, images: list[str]) -> None:
    store["bbox.model"].insert_one({"image_id": images[3], "model_version": "2.0.0", "bboxes": []})
    batch = batches.create(store, entry=FINDER, query="unprocessed", record_as="auto")
    assert (batch.record_as, batch.total, batch.state) == ("3.0.0", 9, "queued")

    done = work(store, blobs, batch)

    assert (done.state, done.done, done.predicted, done.refused) == ("succeeded", 9, 9, 0)
    assert predictions(store) == sorted(
        [(images[3], "2.0.0"), *((image_id, "3.0.0") for image_id in images if image_id != images[3])]
    )
    document = store["bbox.model"].find_one({"image_id": images[0]})
    assert document is not None
    assert document["model"] == {"name": "finder", "version": "3", "sha256": None}
    box = document["bboxes"][0]
    assert {name: box[name] for name in ("label", "left", "top", "right", "bottom")} == {
        "label": "thing",
        "left": 0.1,
        "top": 0.2,
        "right": 0.3,
        "bottom": 0.4,
    }
    assert store["truthloop.results"].count_documents({}) == 0
    assert_events_in_order(store, done)
    # Nothing is left, and the same model goes on under the same version.
    again = work(store, blobs, batches.create(store, entry=FINDER, query="unprocessed", record_as="auto"))
    assert (again.record_as, again.done, again.state) == ("3.0.0", 0, "succeeded")
    again = work(store, blobs, batches.create(store, entry=FINDER, query="all", record_as="auto"))
    assert (again.predicted, again.already_there) == (1, 9)
    assert len(predictions(store)) == 11


def test_a_recorded_document_is_the_one_that_a_load_would_store(
    store: Store, blobs: Blobs, images: list[str], tmp_path: Path
) -> None:
    work(store, blobs, batches.create(store, entry=FINDER, image_ids=images[:2], record_as="1.0.0"))
    exported = [
        {name: value for name, value in each.items() if name != "_id"} for each in store["bbox.model"].find()
    ]
    file = tmp_path / "bbox.model.json"
    file.write_text(json.dumps(exported))

    report = load(store, [file]).totals
    assert (report.new, report.already_there) == (0, 2)


def test_images_without_pixels_are_refused_by_name(store: Store, blobs: Blobs, images: list[str]) -> None:
    store["metadata"].insert_one({"image_id": "only a document"})
    batch = batches.create(
        store, entry=FINDER, image_ids=[images[0], "only a document", "nowhere", images[0]], record_as="auto"
    )

    done = work(store, blobs, batch)

    assert (done.state, done.total, done.predicted, done.refused) == ("succeeded", 3, 1, 2)
    reasons = {refusal.image_id: refusal.reason for refusal in done.refusals}
    assert set(reasons) == {"only a document", "nowhere"}
    assert "has no pixels here" in reasons["only a document"]
    listed = results.batch_results(store, blobs, batch.id)
    assert {item.image_id: item.error for item in listed.items} == reasons


def test_refused_images_are_counted_by_their_reason(store: Store, blobs: Blobs, images: list[str]) -> None:
    loaded_alone = [f"document {number:03}" for number in range(150)]
    store["metadata"].insert_many({"image_id": image_id} for image_id in loaded_alone)
    batch = batches.create(store, entry=FINDER, image_ids=[*loaded_alone, images[0], "nowhere"], record_as="auto")
    done = work(store, blobs, batch)

    without_file, unknown = batches.refusals(store, batch.id)

    assert (without_file.images, without_file.example, unknown.images, unknown.example) == (
        150,
        "document 000",
        1,
        "nowhere",
    )
    assert (len(done.refusals), done.refused) == (100, 151)
    assert "truthloop ingest FOLDER" in without_file.reason
    assert batches.refusals(store, batches.create(store, entry=FINDER, query="all").id) == []


def test_results_of_a_classifier_stay_with_the_batch_and_are_paged(
    store: Store, blobs: Blobs, images: list[str]
) -> None:
    batch = batches.create(store, entry=ENTRY, query="all")
    done = work(store, blobs, batch, TinyModel(batch_size=4))

    assert (done.record_as, done.predicted) == (None, 10)
    assert store["bbox.model"].count_documents({}) == 0
    seen, after = [], None
    while True:
        page = results.batch_results(store, blobs, batch.id, limit=4, after=after)
        seen += page.items
        after = page.next
        if after is None:
            break
    assert [item.image_id for item in seen] == images
    assert all(item.labels for item in seen)
    with pytest.raises(NotFound):
        results.batch_results(store, blobs, "no such batch")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "image_ids"),
        ({"image_ids": ["a"], "query": "all"}, "image_ids"),
        ({"image_ids": []}, "image_ids"),
        ({"image_ids": ["a", ""]}, "image_ids[1]"),
        ({"image_ids": [str(number) for number in range(10_001)]}, "image_ids"),
        ({"query": "some"}, "query"),
        ({"query": "all", "record_as": " "}, "record_as"),
        ({"query": "all", "record_as": "$model"}, "record_as"),
        ({"query": "all", "record_as": "1.0\0"}, "record_as"),
        ({"query": "all", "record_as": ""}, "record_as"),
        ({"query": "all", "record_as": "banana"}, "record_as"),
        ({"query": "all", "record_as": "1.0-beta"}, "record_as"),
        ({"query": "all", "record_as": "1..0"}, "record_as"),
        ({"query": "all", "record_as": "1.0\n"}, "record_as"),
        ({"query": "all", "record_as": "١.0"}, "record_as"),
        ({"query": "all", "record_as": "1" * 1025}, "record_as"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_by_field(store: Store, asked: dict[str, Any], field: str) -> None:
    with pytest.raises(InputRefused) as refused:
        batches.create(store, entry=FINDER, **asked)
    assert list(refused.value.errors) == [field]
    assert batches.list(store).items == []


def test_only_a_detector_has_boxes_to_record_and_others_are_told_where_they_run(store: Store) -> None:
    with pytest.raises(
        InputRefused, match=r"classification model.*truthloop jobs submit tiny IMAGE.*a batch without"
    ):
        batches.create(store, entry=ENTRY, query="all", record_as="auto")


def test_a_batch_says_when_newer_boxes_than_its_own_are_there(store: Store, images: list[str]) -> None:
    store["bbox.model"].insert_one({"image_id": images[0], "model_version": "10.0.0", "bboxes": []})

    older = batches.create(store, entry=FINDER, query="all", record_as="9.0.0")
    newer = batches.create(store, entry=FINDER, query="all", record_as="11")
    apart = batches.create(store, entry=FINDER, query="all")

    assert (older.newer_version, newer.newer_version, apart.newer_version) == ("10.0.0", None, None)
    assert batches.get(store, older.id).newer_version == "10.0.0"


def test_what_recorded_nothing_keeps_no_version(store: Store, blobs: Blobs, images: list[str]) -> None:
    def next_version() -> str | None:
        other = FINDER.model_copy(update={"name": "seeker"})
        made = batches.create(store, entry=other, query="all", record_as="auto")
        assert work(store, blobs, batches.cancel(store, made.id)).state == "cancelled"
        store["truthloop.batches"].delete_one({"_id": made.id})
        store["truthloop.model_versions"].delete_one({"_id": made.record_as, "model.name": "seeker"})
        return made.record_as

    work(store, blobs, batches.create(store, entry=FINDER, query="all", record_as="1.0.0"))
    empty = batches.create(store, entry=FINDER, query="unprocessed", record_as="7.1.0")
    assert (empty.total, next_version()) == (0, "8.0.0"), "it is reserved while it may find something"
    assert work(store, blobs, empty).state == "succeeded"
    assert next_version() == "2.0.0"
    refused = batches.create(store, entry=FINDER, image_ids=["nowhere"], record_as="7.1.0")
    assert (work(store, blobs, refused).refused, next_version()) == (1, "2.0.0")
    # Not while another batch is to record under it, nor where that has boxes.
    first = batches.create(store, entry=FINDER, image_ids=["nowhere"], record_as="7.1.0")
    second = batches.create(store, entry=FINDER, image_ids=images[:1], record_as="7.1.0")
    work(store, blobs, first)
    assert next_version() == "8.0.0"
    work(store, blobs, second)
    work(store, blobs, batches.create(store, entry=FINDER, image_ids=["nowhere"], record_as="7.1.0"))
    assert next_version() == "8.0.0"


def test_one_version_is_one_model(store: Store, blobs: Blobs, images: list[str]) -> None:
    other = FINDER.model_copy(update={"name": "seeker"})
    batches.create(store, entry=FINDER, query="all", record_as="4.0.0")  # not worked yet

    with pytest.raises(Conflict, match=r"boxes of finder 3.*such as 5\.0\.0"):
        batches.create(store, entry=other, query="all", record_as="4.0.0")
    assert batches.create(store, entry=other, query="all", record_as="auto").record_as == "5.0.0"
    store["bbox.model"].insert_one({"image_id": images[0], "model_version": "9", "bboxes": []})
    with pytest.raises(Conflict, match="another source"):
        batches.create(store, entry=FINDER, query="all", record_as="9")


def test_a_version_is_the_models_own_else_the_next_major() -> None:
    model, other = provenance(FINDER), provenance(ENTRY)

    assert choose_version({}, model, None) == "1.0.0"
    assert choose_version({"9.1": [None], "10.0.0": [other]}, model, None) == "11.0.0"
    assert choose_version({"2.0.0": [model], "3.0.0": [model], "10.0.0": [other]}, model, None) == "3.0.0"
    assert choose_version({"2.0.0": [model, None]}, model, None) == "3.0.0"
    assert choose_version({"2.0.0": [model]}, model, "7") == "7"
    assert next_major({"beta": 0, "0.9": 0}) == "1.0.0"
    assert choose_version({"1.0.0": [other], "9" * 20 + ".0.0": [None]}, model, None) == "1" + "0" * 20 + ".0.0"
    assert choose_version({"1.0.0": [other], "9" * 1020: [None]}, model, None) == "2.0.0"


def test_a_prediction_of_another_source_under_the_version_is_left_as_it_is(
    store: Store, blobs: Blobs, images: list[str]
) -> None:
    batch = batches.create(store, entry=FINDER, query="all", record_as="1.0.0")
    theirs = {"image_id": images[5], "model_version": "1.0.0", "bboxes": []}
    piece = take(store, blobs, 10)
    store["bbox.model"].insert_one(dict(theirs))  # by another system, while ours runs

    piece.finish(found(piece))

    done = batches.get(store, batch.id)
    assert (done.state, done.predicted, done.refused) == ("succeeded", 9, 1)
    assert done.refusals[0].image_id == images[5]
    kept = store["bbox.model"].find_one({"image_id": images[5]}, {"_id": 0})
    assert kept == theirs


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


def test_another_version_to_record_as_is_another_question(store: Store, blobs: Blobs, images: list[str]) -> None:
    kept_apart = batches.create(store, entry=FINDER, query="unprocessed")
    batches.cancel(store, kept_apart.id)

    def unfinished(record_as: str | None) -> str | None:
        found = batches.unfinished(store, entry=FINDER, query="unprocessed", record_as=record_as)
        return found.id if found is not None else None

    assert (unfinished("auto"), unfinished("5.0"), unfinished(None)) == (None, None, kept_apart.id)
    tried = batches.create(store, entry=FINDER, query="unprocessed", record_as="5.0")
    batches.cancel(store, tried.id)
    assert (unfinished("auto"), unfinished("5.0"), unfinished(None)) == (None, tried.id, kept_apart.id)


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


def test_another_file_under_the_same_version_records_nothing(
    store: Store, blobs: Blobs, images: list[str]
) -> None:
    assert ENTRY.file is not None
    asked = FINDER.model_copy(update={"file": ENTRY.file})
    there = FINDER.model_copy(update={"file": ENTRY.file.model_copy(update={"sha256": "2" * 64})})
    batch = batches.create(store, entry=asked, query="all", record_as="auto")

    done = work(store, blobs, batch, TinyModel(entry=there))

    assert done.state == "failed"
    assert "another file under the same version" in (done.error or "")
    assert predictions(store) == []


def test_a_damaged_image_is_refused_and_the_others_are_worked(
    store: Store, blobs: Blobs, images: list[str]
) -> None:
    store["metadata"].update_one({"image_id": images[2]}, {"$set": {"blob": blobs.put(b"no image")}})

    done = work(store, blobs, batches.create(store, entry=FINDER, query="all", record_as="auto"))

    assert (done.predicted, done.refused) == (9, 1)
    assert done.refusals[0].image_id == images[2]


def test_pages_show_all_batches_the_newest_first(store: Store, images: list[str]) -> None:
    made = [batches.create(store, entry=ENTRY, query="all").id for _ in range(3)]

    page = batches.list(store, limit=2)
    assert [batch.id for batch in page.items] == made[:0:-1]
    assert [batch.id for batch in batches.list(store, after=page.next).items] == made[:1]
    assert batches.list(store, state="failed").items == []
    with pytest.raises(InputRefused):
        batches.list(store, state="done")
