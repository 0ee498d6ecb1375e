"""Files that documents name and that the blob store lacks: the doctor says so, and what brings them back."""

import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from predict.given import png, queued
from truthloop.blobs import Blobs, StoredFile
from truthloop.ingest.images import store_image
from truthloop.ingest.ingest_image import ingest_image
from truthloop.ingest.together import Entrance
from truthloop.monitor import missing_files, unnamed_files
from truthloop.monitor.doctor_files import files
from truthloop.monitor.finding import Finding
from truthloop.monitor.missing_files import Comparison
from truthloop.monitor.unnamed_files import look, workspace_id
from truthloop.predict.documents import JOBS, RESULTS
from truthloop.settings import Settings
from truthloop.store import in_order
from truthloop.store.connection import Store


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"blobs": str(tmp_path / "blobs")})


@pytest.fixture
def blobs(store: Store) -> Blobs:
    return Blobs.open(store.settings, owner=lambda: workspace_id(store))


def folder(store: Store) -> Path:
    return Path(store.settings.blobs or "")


def ingested(store: Store, blobs: Blobs, number: int) -> list[str]:
    entrance = Entrance(store)
    return [ingest_image(entrance, blobs, png(grey)).image_id for grey in range(number)]


def findings(store: Store) -> dict[str, Finding]:
    return {found.name: found for found in files(store, remove=False, progress=lambda text: None)}  # noqa: ARG005


def test_where_no_file_is_missing_nothing_is_said_of_it(store, blobs):
    ingested(store, blobs, 3)
    queued(store, image=store_image(blobs, store.settings, png(9)))

    assert [*findings(store)] == ["files"]


def test_when_all_files_are_gone_the_doctor_fails_with_their_number_and_examples(store, blobs):
    images = sorted(ingested(store, blobs, 5))
    shutil.rmtree(folder(store))

    found = findings(store)["missing files"]

    assert found.level == "failure"
    assert found.text == (
        f"5 of 5 that documents name are not in {folder(store)}; such as of "
        + ", ".join(f"image {image_id}" for image_id in images[:3])
    )
    assert f"TRUTHLOOP_BLOBS, which is '{folder(store)}'" in found.mend
    assert "truthloop ingest FOLDER" in found.mend
    assert found.figures == {"missing": 5, "named": 5}


def test_a_workspace_folder_without_blobs_is_told_of_and_left_as_it_is(store, blobs, tmp_path):
    ingested(store, blobs, 2)
    store.settings = store.settings.model_copy(update={"blobs": None, "home": tmp_path / "home"})

    found = findings(store)["missing files"]

    assert f"2 of 2 that documents name are not in {tmp_path / 'home' / 'blobs'}, which isn't there" in found.text
    assert "TRUTHLOOP_BLOBS, which isn't set" in found.mend
    assert not (tmp_path / "home").exists()


def test_one_missing_file_is_found_and_the_same_image_brings_it_back(store, blobs):
    images = ingested(store, blobs, 5)
    blobs.delete(images[2])

    found = findings(store)["missing files"]
    assert found.text.startswith("1 of 5 ")
    assert found.text.endswith(f"such as of image {images[2]}")
    ingested(store, blobs, 5)

    assert "missing files" not in findings(store)


def test_an_image_s_file_as_it_was_received_is_missed_as_the_upright_one_is(store, blobs):
    received, upright = blobs.put(b"received"), blobs.put(b"upright")
    store["metadata"].insert_one({"image_id": received, "blob": upright, "width": 2, "height": 2})
    assert look(store, blobs).missing.named == 2

    for key in (received, upright):
        blobs.delete(key)
        assert look(store, blobs).missing.examples == [key]
        blobs.put(b"received" if key == received else b"upright")


def test_a_file_that_is_set_aside_is_there(store, blobs, monkeypatch):
    monkeypatch.setattr(missing_files, "ASKED", 0)  # by the listing alone
    images = ingested(store, blobs, 3)
    blobs.set_aside(images[1])

    found = look(store, blobs)

    assert (found.missing.named, found.missing.files, found.aside.files) == (3, 0, 1)


def test_what_has_no_pixels_here_names_no_file(store, blobs):
    key = "ab" * 32
    store["metadata"].insert_many(
        [
            {"image_id": key},
            {"image_id": "cat", "blob": "a text of theirs"},
            {"image_id": [key, key], "blob": [key]},
            {"image_id": "dog", "blob": key},  # without a size it isn't ours
            {"blob": key},
        ]
    )

    assert look(store, blobs).missing.named == 0


def test_a_job_s_missing_image_and_result_are_found(store, blobs):
    job = queued(store, image=store_image(blobs, store.settings, png(7)))
    result = blobs.put(b"a large result")
    store[RESULTS].insert_one({"_id": "batch/image", "model": "m", "model_version": "1", "blob": result})
    blobs.delete(job.image_id)

    assert f"1 of 2 that documents name are not in {folder(store)}; such as of job {job.id}" in [
        found.text for found in findings(store).values()
    ]
    blobs.delete(result)

    assert "job batch/image" in findings(store)["missing files"].text


def test_where_files_are_missing_nobody_is_told_to_remove_others(store, blobs):
    ingested(store, blobs, 1)
    shutil.rmtree(folder(store))
    elsewhere = Blobs.open(store.settings, owner=lambda: "another")
    elsewhere.put(b"another's")

    found = findings(store)

    assert found["missing files"].level == "failure"
    assert "remove" not in found["files"].mend
    assert elsewhere.others() == []  # a look leaves no mark in a place that may be the wrong one


def test_in_a_place_that_another_workspace_shares_only_own_files_are_missed(store, blobs):
    images = ingested(store, blobs, 2)
    Blobs.open(store.settings, owner=lambda: "another").put(b"another's")
    assert [*findings(store)] == ["files"]
    blobs.delete(images[0])

    assert findings(store)["missing files"].figures == {"missing": 1, "named": 2}


class InNoOrder(Blobs):
    """Lists as an object store may that has no order."""

    def _files(self, place: str) -> Iterator[list[StoredFile]]:
        every = [each for page in super()._files(place) for each in page]
        random.Random(1).shuffle(every)
        yield from ([each] for each in every)


@pytest.mark.parametrize("kind", [Blobs, InNoOrder])
def test_every_missing_file_is_found_page_by_page_in_whatever_order_the_store_lists(store, kind, monkeypatch):
    for module in (missing_files, unnamed_files, in_order):
        monkeypatch.setattr(module, "PAGE", 7)
    monkeypatch.setattr(missing_files, "ASKED", 2)
    blobs = kind(MemoryStore(), place="memory", owner=lambda: workspace_id(store))
    keys = [blobs.put(bytes([n])) for n in range(100)]
    store["metadata"].insert_many([{"image_id": key, "blob": key, "width": 1, "height": 1} for key in keys[:60]])
    job: dict[str, Any] = {"revision": 1, "state": "created", "model": "m", "model_version": "1", "attempts": 0}
    job |= {"created_at": datetime.now(UTC)}
    named = [*keys[50:80], *([keys[80]] * 20)]
    store[JOBS].insert_many(
        [{"_id": f"{n}", **job, "image_id": key, "image": {"blob": key}} for n, key in enumerate(named)]
    )
    gone = random.Random(2).sample(keys, 40)
    for key in gone[:20]:
        blobs.delete(key)
    for key in gone[20:]:
        blobs.set_aside(key)

    missing = look(store, blobs).missing

    lost = sorted({*gone[:20]} & {*keys[:81]})
    assert (missing.named, missing.files, missing.examples) == (81, len(lost), lost[:3])


def test_a_file_that_came_while_the_others_were_listed_is_not_missed(store, blobs):
    key = blobs.put(b"just now")
    store["metadata"].insert_one({"image_id": key, "blob": key, "width": 1, "height": 1})

    comparison = Comparison(store, blobs.is_kept)
    comparison.listed(["f" * 64])

    assert comparison.ended().files == 0


def test_missing_files_are_found_also_where_another_system_has_dropped_the_indexes(store, blobs):
    ingested(store, blobs, 2)
    store["metadata"].drop_indexes()

    assert look(store, blobs).missing.named == 2


def test_a_folder_lists_its_files_in_the_order_of_their_keys(store, blobs):
    keys = [blobs.put(b"%d" % number) for number in range(300)]
    for key in keys[:100]:
        blobs.set_aside(key)

    assert [each.key for page in blobs.files() for each in page] == sorted(keys[100:])
    assert [each.key for page in blobs.files_aside() for each in page] == sorted(keys[:100])


def test_the_doctor_fails_beside_the_count_of_files_where_only_some_are_missing(store, blobs):
    images = ingested(store, blobs, 3)
    blobs.delete(images[0])

    assert {name: found.level for name, found in findings(store).items()} == {
        "missing files": "failure",
        "files": "ok",
    }
