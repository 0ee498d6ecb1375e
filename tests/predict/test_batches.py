"""Batches: many images, each worked and recorded once or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from predict.given import ENTRY, FINDER, TinyModel
from predict.given_batches import assert_events_in_order, predictions, work
from truthloop.blobs import Blobs
from truthloop.errors import CursorRefused, InputRefused, NotFound
from truthloop.ingest.load import load
from truthloop.predict import batches, results
from truthloop.store.connection import Store
from truthloop.workspace import Workspace


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


def test_images_whose_files_are_gone_are_counted_as_one_reason_and_come_back_by_the_same_files(
    store: Store, blobs: Blobs, images: list[str], tmp_path: Path
) -> None:
    kept = Path(blobs.place)
    gone = [path for path in kept.rglob("*") if path.name in images[:3]]
    assert len(gone) == 3
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in gone:
        path.rename(folder / f"{path.name}.png")
    batch = work(store, blobs, batches.create(store, entry=FINDER, query="all", record_as="auto"))

    [refused] = batches.refusals(store, batch.id)

    assert (batch.refused, refused.images, refused.example) == (3, 3, images[0])
    assert refused.reason == (
        f"The image's file is gone. It isn't in {blobs.place}. `truthloop ingest FOLDER` of the same files brings "
        "it back."
    )
    Workspace(store).ingest(folder)
    again = work(store, blobs, batches.create(store, entry=FINDER, query="unprocessed", record_as="auto"))
    assert (again.predicted, again.refused) == (3, 0)


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


def test_a_page_after_what_is_no_id_says_what_to_give_and_not_that_a_batch_is_a_job(store: Store) -> None:
    with pytest.raises(CursorRefused, match="'x' isn't the id that a page of this list ends with") as refused:
        batches.list(store, after="x")
    assert "job" not in str(refused.value)
