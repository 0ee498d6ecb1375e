"""Real and made-up documents never stand in one workspace."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from truthloop.errors import Conflict
from truthloop.ingest import synthetic
from truthloop.ingest.load import load
from truthloop.ingest.sample import make_sample
from truthloop.ingest.synthetic import begin_sample, claim_real, is_synthetic
from truthloop.store.connection import Store


def test_real_documents_are_not_loaded_beside_made_up_ones(store: Store, tmp_path: Path):
    make_sample(store, images=3)
    before = list(store["metadata"].find())
    (tmp_path / "metadata.json").write_text(json.dumps([{"image_id": "real", "capture_timestamp": 1}]))

    for dry_run in (True, False):
        with pytest.raises(Conflict, match="TRUTHLOOP_HOME"):
            load(store, [tmp_path / "metadata.json"], dry_run=dry_run)

    assert list(store["metadata"].find()) == before


def test_no_sample_is_made_beside_real_documents(store: Store):
    store["bbox.model"].insert_one({"image_id": "real", "bboxes": [], "model_version": "1.0.0"})

    with pytest.raises(Conflict, match="documents of your own"):
        make_sample(store, images=3)

    assert not is_synthetic(store)
    assert store["metadata"].count_documents({}) == 0


def test_a_sample_can_grow(store: Store):
    make_sample(store, images=3)
    make_sample(store, images=5)

    assert store["metadata"].count_documents({}) == 5
    assert is_synthetic(store)


def test_of_a_load_and_a_sample_that_begin_at_once_one_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch):
    both = threading.Barrier(2)
    look = synthetic.holds_documents

    def look_together(store: Store) -> bool:
        found = look(store)
        both.wait(60)  # both have seen an empty workspace
        return found

    monkeypatch.setattr(synthetic, "holds_documents", look_together)
    with ThreadPoolExecutor(2) as pool:
        tried = [pool.submit(claim_real, store), pool.submit(lambda: begin_sample(store, images=1, seed=0))]
        errors = [each.exception() for each in tried]

    assert [type(error) for error in errors if error is not None] == [Conflict]
    assert is_synthetic(store) == (errors[1] is None)


def test_a_sample_is_refused_once_a_load_has_begun_to_store(store: Store, tmp_path: Path):
    (tmp_path / "metadata.json").write_text(json.dumps([{"image_id": "real"}]))
    load(store, [tmp_path / "metadata.json"])
    store["metadata"].delete_many({})  # as if it were about to store the first ones

    with pytest.raises(Conflict, match="documents of your own"):
        make_sample(store, images=3)


def test_a_load_that_stores_nothing_says_nothing_of_the_workspace(store: Store, tmp_path: Path):
    (tmp_path / "metadata.json").write_text(json.dumps([{"image_id": 5}]))
    load(store, [tmp_path / "metadata.json"])

    assert make_sample(store, images=3).ok


def test_documents_from_before_there_was_a_mark_count_as_what_they_are(store: Store, tmp_path: Path):
    make_sample(store, images=3)
    store[synthetic.WORKSPACE].delete_many({})
    (tmp_path / "metadata.json").write_text(json.dumps([{"image_id": "real"}]))

    with pytest.raises(Conflict, match="made-up"):
        load(store, [tmp_path / "metadata.json"])
