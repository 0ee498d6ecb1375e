"""One image's story."""

import io
import json
import re

import pytest
from rich.console import Console

from datasets.documents import BOX, SWAPPED, annotation, audit, prediction
from truthloop.cli.why import told
from truthloop.datasets.build import build
from truthloop.datasets.why import why
from truthloop.errors import NotFound


def shown_as(story):
    console = Console(width=1000, file=io.StringIO())
    console.print(told(story))
    return re.sub(" +\n", "\n", console.file.getvalue())


def test_the_story_has_what_came_what_was_seen_said_and_drawn_and_where_it_is(store):
    store["metadata"].insert_one({"image_id": "a", "capture_timestamp": 1_600_000_000})
    store["bbox.model"].insert_many([prediction("a", BOX), prediction("a", BOX, BOX, version="2.0.0")])
    build(store)
    store["bbox.human_audit"].insert_one(audit("a", False, version="2.0.0", timestamp=1_700_000_000.5))
    build(store)
    store["bbox.human_annotation"].insert_many([annotation("a", BOX, version="3.0.0"), annotation("a", None)])
    story = why(store, "a")

    assert story.in_metadata
    assert story.captured_at is not None
    assert [(each.model_version, each.boxes, each.verdict) for each in story.predictions] == [
        ("2.0.0", 2, False),
        ("1.0.0", 1, None),
    ]
    assert [(each.auditor, each.correct) for each in story.predictions[0].audits] == [("x", False)]
    assert {(each.task_version, each.boxes) for each in story.drawn} == {("3.0.0", 1), ("1.0.0", 0)}
    assert story.now.why == "1 box drawn by people in annotation task 3.0.0"
    assert [(each.version, each.outcome, each.why) for each in story.datasets] == [
        (2, "in", "2 boxes of model 2.0.0, audited as incorrect; no person has drawn any"),
        (1, "in", "2 boxes of model 2.0.0, audited by nobody; no person has drawn any"),
    ]


def test_a_version_says_why_it_left_the_image_out(store):
    store["metadata"].insert_one({"image_id": "unseen"})
    build(store)
    store["bbox.human_annotation"].insert_one(annotation("unseen", SWAPPED))
    store["metadata"].insert_one({"image_id": "late"})
    build(store)

    assert [each.why for each in why(store, "unseen").datasets] == [
        "swapped or empty box: an annotation's bbox: left 0.3 is not below right 0.1",
        "unseen: neither a prediction nor an annotation is stored",
    ]
    assert [each.outcome for each in why(store, "late").datasets] == ["left out", "not known then"]


def test_an_image_that_metadata_lacks_has_a_story(store):
    store["bbox.human_audit"].insert_one(audit("a", True))
    story = why(store, "a")

    assert not story.in_metadata
    assert [(each.stored, each.verdict) for each in story.predictions] == [(False, True)]
    assert story.now.outcome == "left out"


def test_what_cannot_be_read_stands_in_the_story_too(store):
    store["metadata"].insert_one({"image_id": "a", "capture_timestamp": "yesterday"})
    store["bbox.model"].insert_one({"image_id": "a", "bboxes": 5})
    store["bbox.human_audit"].insert_one({"image_id": "a", "timestamp": 1e300})
    store["bbox.human_annotation"].insert_one({"image_id": "a", "task_version": 7, "timestamp": True})
    story = why(store, "a")

    assert [each.model_version for each in story.predictions] == [None]
    assert [each.task_version for each in story.drawn] == [None]
    assert story.now.outcome == "left out"


def test_a_prediction_tells_its_model_and_each_boxs_label_and_score(store):
    face = {**BOX, "label": "face", "score": 0.91234}
    ssd = {"name": "ssd", "version": "1", "sha256": None}
    store["bbox.model"].insert_many([
        prediction("a", face, {**BOX, "label": "dog"}, version="3.0.0", model=ssd),
        prediction("a", BOX, version="2.0.0"),
        prediction("a", {**BOX, "label": 5, "score": float("nan")}, 7, version="1.0.0", model="ssd"),
    ])  # fmt: skip
    story = why(store, "a")
    shown = shown_as(story)

    labelled, plain, odd = json.loads(story.model_dump_json())["predictions"]
    assert labelled["model"] == {"name": "ssd", "version": "1"}
    assert labelled["seen"] == [{"label": "face", "score": 0.91234}, {"label": "dog", "score": None}]
    for each in (plain, odd):
        assert (each["model"], each["seen"]) == (None, [])
    assert "  model 3.0.0 by ssd 1: 2 boxes, no verdict\n    face 0.912, dog\n" in shown
    assert "  model 2.0.0: 1 box, no verdict\n  model 1.0.0: 2 boxes, no verdict\n" in shown


def test_of_many_boxes_the_screen_says_how_many_more_there_are(store):
    store["bbox.model"].insert_one(prediction("a", *[{**BOX, "score": 0.5}] * 25))

    assert "no label 0.500, and 5 more\n" in shown_as(why(store, "a")).replace("\n    ", " ")


def test_an_id_that_nobody_knows_is_not_found(store):
    with pytest.raises(NotFound):
        why(store, "a")


def test_older_versions_and_events_that_are_not_told_are_mentioned(store, monkeypatch):
    store["metadata"].insert_one({"image_id": "a"})
    monkeypatch.setattr("truthloop.datasets.why.MAX_VERSIONS", 1)
    build(store)
    assert not why(store, "a").older_datasets
    build(store)

    story = why(store, "a")
    assert [each.version for each in story.datasets] == [2]
    assert story.older_datasets


def test_an_audit_that_cannot_be_read_is_not_told_as_a_verdict(store):
    store["metadata"].insert_one({"image_id": "a"})
    store["bbox.human_audit"].insert_one(audit("a", True) | {"bbox_correct": "true"})

    assert "x: something that can't be read" in shown_as(why(store, "a"))
