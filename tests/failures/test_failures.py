"""The stage on a real MongoDB."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truthloop.errors import InputRefused, NotFound
from truthloop.failures import failures as stage
from truthloop.failures.documents import ImageFailures
from truthloop.failures.failures import all_failures, failures
from truthloop.failures.kinds import Kind
from truthloop.failures.selection import Selection
from truthloop.ingest.load import load
from truthloop.store.connection import Store

THE_BRIEFS = (
    "4a25a2ab002137dac4fe3e09ba91c349",
    "24982f38d2d732ef367638a175d72eae",
    "88d081d7b18e1c5c9170dd4787c765db",
    "dbb4dfe40a50640e59f928dc386c0fb2",
)
FACE = {"left": 0.2, "top": 0.2, "right": 0.4, "bottom": 0.4}
FAR = {"left": 0.8, "top": 0.8, "right": 0.9, "bottom": 0.9}
SWAPPED = {"left": 0.4, "top": 0.2, "right": 0.2, "bottom": 0.4}


def write(store: Store, image_id: Any, *, predicted: list[Any] | None = None, annotated: Any = ...) -> None:
    store["metadata"].insert_one({"image_id": image_id, "capture_timestamp": 1})
    if predicted is not None:
        store["bbox.model"].insert_one({"image_id": image_id, "model_version": "1.0.0", "bboxes": predicted})
    if annotated is not ...:
        store["bbox.human_annotation"].insert_one(
            {"image_id": image_id, "bbox": annotated, "annotator": "x", "task_version": "1.0.0", "timestamp": 1}
        )


def loaded(store: Store, folder: Path, tmp_path: Path) -> Store:
    load(store, [folder], rejects_folder=tmp_path)
    return store


def kinds(answer: ImageFailures) -> list[str]:
    return [str(item.kind) for item in answer.items]


def test_the_brief_s_four_images(store: Store, face_slice: Path, tmp_path: Path) -> None:
    answers = failures(loaded(store, face_slice, tmp_path), THE_BRIEFS)

    assert [(answer.image_id, answer.state, kinds(answer)) for answer in answers] == [
        (THE_BRIEFS[0], "annotated", ["misplaced", "unrelated"]),
        (THE_BRIEFS[1], "annotated", ["match"]),
        (THE_BRIEFS[2], "not_annotated", []),
        (THE_BRIEFS[3], "not_annotated", []),
    ]
    assert json.loads(answers[1].model_dump_json())["items"] == [
        {
            "image_id": THE_BRIEFS[1],
            "predicted": {"top": 0.379, "left": 0.308, "bottom": 0.886, "right": 0.48},
            "annotated": {"top": 0.375, "left": 0.302, "bottom": 0.838, "right": 0.439},
            "delta": {"top": -0.004, "left": -0.006, "bottom": -0.048, "right": -0.041},
            "model_version": "1.0.0",
            "task_version": "1.0.0",
            "iou": 0.664364793,
            "kind": "match",
        }
    ]


def test_an_image_that_is_not_annotated_answers_with_its_predictions_and_no_field_of_items(store: Store) -> None:
    write(store, "a", predicted=[FACE])
    audit = {"image_id": "a", "model_version": "1.0.0", "task_version": "1.0.0", "timestamp": 1, "auditor": "x"}
    store["bbox.human_audit"].insert_one(audit | {"bbox_correct": False})

    [answer] = failures(store, ["a"])

    predicted = {"model_version": "1.0.0", "verdict": False, "boxes": [FACE]}
    assert answer.model_dump() == {
        "image_id": "a",
        "state": "not_annotated",
        "predictions": [predicted],
        "invalid": [],
    }
    assert list(answer.items) == []  # a loop over it needs no question first
    assert ImageFailures.model_validate_json(answer.model_dump_json()) == answer


def test_an_annotated_image_without_items_has_the_field_and_no_predictions(store: Store) -> None:
    write(store, "a", predicted=[], annotated=None)

    [answer] = failures(store, ["a"])

    assert answer.model_dump() == {
        "image_id": "a",
        "state": "annotated",
        "items": [],
        "predictions": [],
        "invalid": [],
    }


def test_nothing_is_spurious_where_the_annotation_cannot_be_read(store: Store) -> None:
    write(store, "a", predicted=[FACE], annotated=SWAPPED)

    [answer] = failures(store, ["a"])

    assert (answer.state, kinds(answer)) == ("annotated", [])
    assert [(each.model_version, len(each.boxes)) for each in answer.predictions] == [("1.0.0", 1)]
    assert [answer] == list(all_failures(store))
    assert list(all_failures(store, selection=Selection.of(kinds=["spurious"]))) == []


def test_an_image_that_the_wanted_version_never_saw_is_not_predicted(store: Store) -> None:
    write(store, "a", predicted=[FACE], annotated=FACE)

    [answer] = failures(store, ["a"], selection=Selection.of(model_versions=["2.0.0"]))

    assert answer.model_dump() == {"image_id": "a", "state": "not_predicted", "predictions": [], "invalid": []}


def test_a_stream_of_a_model_version_that_there_is_not_is_refused_at_once(store: Store) -> None:
    write(store, "a", predicted=[FACE], annotated=FAR)

    with pytest.raises(InputRefused, match=r"there are predictions of 1\.0\.0"):
        all_failures(store, selection=Selection.of(model_versions=["2.0.0"]))


@pytest.mark.parametrize(
    "arguments", [{"image_ids": None}, {"image_ids": [1]}, {"selection": "missed"}, {"min_iou": "1"}]
)
def test_an_argument_of_another_type_is_refused(store: Store, arguments: Any) -> None:
    with pytest.raises(InputRefused):
        failures(store, **{"image_ids": [], **arguments})


def test_answers_stand_in_the_order_asked_for(store: Store) -> None:
    for image_id in "abc":
        write(store, image_id)

    assert [answer.image_id for answer in failures(store, ["c", "a", "c"])] == ["c", "a", "c"]


@pytest.mark.parametrize("unknown", ["b", "", "a" * 2000, "\udcff", "a\x00"])
def test_an_id_that_is_not_in_metadata_is_named(store: Store, unknown: str) -> None:
    write(store, "a")
    store["bbox.model"].insert_one({"image_id": "b", "model_version": "1.0.0", "bboxes": []})

    with pytest.raises(NotFound, match="no such image"):
        failures(store, ["a", unknown])


def test_an_id_in_an_error_stands_in_quotes_on_one_line(store: Store) -> None:
    with pytest.raises(NotFound) as error:
        failures(store, ["", "a\tb\n"])

    assert str(error.value).startswith('"", "a\\tb\\n": no such image')


def test_an_id_that_is_a_list_is_no_image_s(store: Store) -> None:
    write(store, ["a"], predicted=[FACE])

    with pytest.raises(NotFound):
        failures(store, ["a"])


def test_a_least_iou_beyond_1_is_refused(store: Store) -> None:
    with pytest.raises(InputRefused, match="min_iou"):
        failures(store, [], min_iou=1.5)


def test_the_least_iou_forbids_pairs_and_a_selection_only_chooses(store: Store) -> None:
    write(store, "a", predicted=[FACE], annotated=FAR)

    assert kinds(failures(store, ["a"], min_iou=0.1)[0]) == ["spurious", "missed"]
    assert kinds(failures(store, ["a"], selection=Selection(iou_at_least=0.1))[0]) == []


def test_the_stream_has_all_but_the_matches(store: Store) -> None:
    write(store, "right", predicted=[FACE], annotated=FACE)
    write(store, "wrong", predicted=[FACE, FAR], annotated=FACE)
    write(store, "alone", predicted=[FACE])
    write(store, "broken", predicted=[SWAPPED])

    found = {answer.image_id: kinds(answer) for answer in all_failures(store)}

    assert found == {"broken": [], "wrong": ["spurious"]}


def test_the_stream_has_matches_where_they_are_asked_for(store: Store) -> None:
    write(store, "right", predicted=[FACE], annotated=FACE)
    write(store, "broken", predicted=[SWAPPED])

    found = all_failures(store, selection=Selection.of(kinds=["match"]))

    assert [answer.image_id for answer in found] == ["right"]


_some_boxes = st.lists(st.sampled_from([FACE, FAR, SWAPPED]), max_size=2)
_images = st.lists(
    st.tuples(st.none() | _some_boxes, st.none() | st.sampled_from([FACE, FAR, SWAPPED, "None"])), max_size=12
)
_selections = st.builds(
    Selection,
    kinds=st.frozensets(st.sampled_from(Kind)),
    model_versions=st.frozensets(st.sampled_from(["1.0.0", "2.0.0"])),
    iou_below=st.none() | st.just(0.5),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_images, _selections, st.integers(1, 4))
def test_the_stream_says_what_each_image_says(
    store: Store, images: list[tuple[Any, Any]], selection: Selection, batch: int
) -> None:
    for name in ("metadata", "bbox.model", "bbox.human_annotation"):
        store[name].delete_many({})
    for number, (predicted, annotated) in enumerate(images):
        write(store, f"{number:02}", predicted=predicted, annotated=... if annotated is None else annotated)
    store["bbox.model"].insert_many([{"image_id": None, "model_version": each} for each in ("1.0.0", "2.0.0")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "BATCH", batch)
        streamed = list(all_failures(store, selection=selection))

    chosen = Selection(
        kinds=selection.kinds or frozenset(Kind) - {Kind.MATCH},
        model_versions=selection.model_versions,
        iou_below=selection.iou_below,
    )
    each = failures(store, [f"{number:02}" for number in range(len(images))], selection=chosen)
    assert streamed == [answer for answer in each if answer.items or (selection.takes_all and answer.invalid)]


def test_the_stream_tells_how_far_it_is(store: Store) -> None:
    for image_id in "abc":
        write(store, image_id)
    told: list[int] = []

    assert list(all_failures(store, progress=told.append)) == []
    assert told[-1] == 3
