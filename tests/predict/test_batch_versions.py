"""The version that a batch records its boxes as: whose it is, which one is chosen, and what is never mixed."""

import pytest

from predict.given import ENTRY, FINDER, TinyModel
from predict.given_batches import found, predictions, take, work
from truthloop.blobs import Blobs
from truthloop.errors import Conflict
from truthloop.predict import batches
from truthloop.predict.record import choose_version, next_major, provenance
from truthloop.store.connection import Store


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
