"""What `truthloop predict` says at its end, as a person reads it."""

import json

import pytest

from cli.processes import Terminal
from truthloop.store.connection import Store
from truthloop.workspace import Workspace

PEOPLE = ("--model", "opencv_people")
SSD = {"name": "ssd_mobilenet_v1_coco", "version": "1", "sha256": None}


@pytest.fixture
def terminal(store: Store, images: list[str]) -> Terminal:
    """A terminal whose workspace has ten images with pixels."""
    assert store.settings.blobs is not None
    return Terminal(
        store.settings.home, TRUTHLOOP_DATABASE=store.settings.database, TRUTHLOOP_BLOBS=store.settings.blobs
    )


def predicted(store: Store, images: list[str], version: str, **more: object) -> None:
    document = {"model_version": version, "bboxes": [], **more}
    store["bbox.model"].insert_many({"image_id": each, **document} for each in images)


def test_a_version_above_another_models_is_told_of_since_its_boxes_count_now(
    store: Store, terminal: Terminal, images: list[str]
) -> None:
    predicted(store, images, "2.0.0")
    predicted(store, images, "3.0.0", model=SSD)

    done = terminal.run("predict", "--all", *PEOPLE)

    assert (done.returncode, done.stdout.count("recorded as model version 4.0.0")) == (0, 1)
    [line] = done.stderr.splitlines()
    assert line.startswith("Version 4.0.0 is newer than 3.0.0 (ssd_mobilenet_v1_coco): ")
    assert "For a comparison only, record under an older version with --as." in line


def test_nothing_is_told_of_a_version_that_outdoes_no_other_model(
    store: Store, terminal: Terminal, images: list[str]
) -> None:
    predicted(store, images[:5], "3.0.0", model=SSD)

    unprocessed = terminal.run("predict", "--unprocessed", *PEOPLE)  # of no image there are both
    older = terminal.run("predict", "--all", *PEOPLE, "--as", "2.0.0")
    again = terminal.run("predict", "--all", *PEOPLE, "--as", "2.0.0")  # records nothing

    assert (unprocessed.returncode, unprocessed.stderr) == (0, "")
    assert "is newer than 2.0.0: of an image that has both, those count" in older.stderr
    assert "Version" not in older.stderr + again.stderr


def test_without_an_unprocessed_image_no_batch_is_made_and_it_is_said(
    store: Store, terminal: Terminal, images: list[str]
) -> None:
    predicted(store, images, "1.0.0")

    assert terminal.answer("predict", "--unprocessed", *PEOPLE).startswith("No image is unprocessed")
    told = json.loads(terminal.answer("predict", "--unprocessed", *PEOPLE, "--json"))

    assert (told["id"], told["state"], told["total"], told["predicted"], told["refusals"]) == (
        None,
        "succeeded",
        0,
        0,
        [],
    )
    assert store["truthloop.batches"].count_documents({}) == 0
    assert terminal.run("predict", "--unprocessed", "--model", "nothing").returncode == 2
    assert terminal.run("predict", "--unprocessed", *PEOPLE, "--as", "banana").returncode == 2


def test_a_batch_that_was_left_comes_to_its_end_though_no_image_is_unprocessed_any_more(
    store: Store, terminal: Terminal, images: list[str]
) -> None:
    left = Workspace(store).batches.create("opencv_people", query="unprocessed", record_as="auto")
    predicted(store, images, "1.0.0")

    told = json.loads(terminal.answer("predict", "--unprocessed", *PEOPLE, "--json"))

    assert (told["id"], told["state"], told["done"]) == (left.id, "succeeded", 0)
