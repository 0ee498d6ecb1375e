"""The synthetic data: the same from the same seed, and faulty in about the true proportions."""

from itertools import islice
from typing import Any

import pytest

from truthloop.errors import InputRefused
from truthloop.ingest.documents import COLLECTIONS, NULL, OUTSIDE, SWAPPED, prepare
from truthloop.ingest.load import interrupted_loads
from truthloop.ingest.reports import LoadProgress
from truthloop.ingest.sample import make_sample, sample_documents
from truthloop.store.connection import Store


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_the_same_seed_gives_the_same_documents(collection: str) -> None:
    one, other = (list(sample_documents(collection, images=1500, seed=7)) for _ in range(2))

    assert one == other
    assert one != list(sample_documents(collection, images=1500, seed=8))


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_larger_sample_begins_with_the_smaller_one(collection: str) -> None:
    small = list(sample_documents(collection, images=1234, seed=7))
    large = sample_documents(collection, images=3000, seed=7)

    assert list(islice(large, len(small))) == small


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_document_can_be_stored_and_says_that_it_is_synthetic(collection: str) -> None:
    ids = set()
    documents = list(sample_documents(collection, images=3000, seed=0))
    for document in documents:
        ids.add(prepare(collection, document).id)
        assert document["synthetic"] is True
    assert len(ids) == len(documents)


def test_the_proportions_are_those_of_the_real_export() -> None:
    number = 12_822
    made: dict[str, list[dict[str, Any]]] = {
        collection: list(sample_documents(collection, images=number, seed=0)) for collection in COLLECTIONS
    }
    images = {document["image_id"] for document in made["metadata"]}
    audits, annotations = made["bbox.human_audit"], made["bbox.human_annotation"]
    marks = [prepare("bbox.human_annotation", document).marks for document in annotations]
    incorrect = {document["image_id"] for document in audits if not document["bbox_correct"]}
    predicted = {document["image_id"] for document in made["bbox.model"]}
    annotated = {document["image_id"] for document in annotations}

    assert len(images) == number
    assert all(len(image) == 32 and int(image, 16) >= 0 for image in images)
    # Design section 3, and for the share that is processed the slice.
    assert len(audits) == pytest.approx(8093, rel=0.1)
    assert len(annotations) == pytest.approx(5577, rel=0.15)
    assert sum(bool(mark & NULL) for mark in marks) == pytest.approx(372, rel=0.25)
    assert sum(bool(mark & OUTSIDE) for mark in marks) == pytest.approx(116 + 449, rel=0.25)
    assert 5 <= sum(bool(mark & SWAPPED) for mark in marks) <= 25
    assert len(incorrect - annotated) == pytest.approx(1342, rel=0.25)
    assert len(predicted & images) == pytest.approx(0.86 * number, rel=0.05)
    assert 0 < len(predicted - images) < 30
    assert {type(document["timestamp"]) for document in annotations} == {int, float}
    assert {document["model_version"] for document in made["bbox.model"]} == {"1.0.0", "2.0.0"}


def test_making_the_same_sample_again_changes_nothing(store: Store) -> None:
    first = make_sample(store, images=300, seed=3)

    again = make_sample(store, images=300, seed=3)

    assert (first.ok, again.ok) == (True, True)
    assert (first.totals.new, again.totals.new) == (first.totals.read, 0)
    assert store["metadata"].count_documents({"synthetic": True}) == 300
    assert store["truthloop.samples"].find_one() == {"_id": "3", "images": 300, "seed": 3, "made": 300}


def test_a_sample_that_was_cut_short_is_made_to_its_end_and_only_then_left_alone(store: Store) -> None:
    def interrupt(progress: LoadProgress) -> None:
        if progress.file == "bbox.model":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sample(store, images=300, seed=3, progress=interrupt)
    assert store["bbox.human_audit"].count_documents({}) == 0

    again = make_sample(store, images=20, if_empty=True)

    assert (again.images, again.seed, again.ok) == (300, 3, True)
    for collection in COLLECTIONS:
        made = list(sample_documents(collection, images=300, seed=3))
        assert store[collection].count_documents({}) == len(made)
    assert not interrupted_loads(store)
    assert make_sample(store, images=20, if_empty=True).items == ()
    assert store["truthloop.samples"].count_documents({}) == 1


def test_a_workspace_with_documents_of_its_own_is_left_as_it_is(store: Store) -> None:
    store["bbox.human_audit"].insert_one({"image_id": "real"})

    assert make_sample(store, images=20, if_empty=True).items == ()
    assert store["metadata"].count_documents({}) == 0


@pytest.mark.parametrize(("images", "seed"), [(0, 0), (10**9, 0), (1, -1), (1, 2**63)])
def test_numbers_out_of_range_are_refused(store: Store, images: int, seed: int) -> None:
    with pytest.raises(InputRefused):
        make_sample(store, images=images, seed=seed)
