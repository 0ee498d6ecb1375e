"""From the documents of an image to what is compared: which annotations hold, and what can't be read."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import good_documents, versions
from truthloop.datasets.rule import Entry, decide
from truthloop.failures.against import Image, against
from truthloop.failures.documents import FailuresState
from truthloop.failures.read import ImageDocuments
from truthloop.versions import version_key

FACE = {"left": 0.2, "top": 0.2, "right": 0.4, "bottom": 0.4}
NEAR = {"center_x": 0.31, "center_y": 0.3, "width": 0.2, "height": 0.2}
FAR = {"left": 0.8, "top": 0.8, "right": 0.9, "bottom": 0.9}
SWAPPED = {"left": 0.4, "top": 0.2, "right": 0.2, "bottom": 0.4}


def prediction(*bboxes: Any, model_version: Any = "1.0.0") -> dict[str, Any]:
    return {"image_id": "i", "model_version": model_version, "bboxes": list(bboxes)}


def annotation(bbox: Any, task_version: Any = "1.0.0", timestamp: Any = 1) -> dict[str, Any]:
    return {"image_id": "i", "bbox": bbox, "annotator": "x", "task_version": task_version, "timestamp": timestamp}


def of(predictions: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Image:
    [image] = against([ImageDocuments(image_id="i", predictions=predictions, annotations=annotations)])
    return image


def kinds(image: Image) -> dict[str, list[str]]:
    return {
        version.model_version: [item.kind.value for item in version.compared.items] for version in image.versions
    }


def alone(image: Image) -> dict[str, int]:
    return {each.model_version: len(each.boxes) for each in image.unjudged}


def reasons(image: Image) -> list[str]:
    return [box.reason for box in image.invalid]


@pytest.mark.parametrize(
    ("predictions", "annotations", "state"),
    [
        ([], [], "not_predicted"),
        ([], [annotation(FACE)], "not_predicted"),
        ([prediction(FACE)], [], "not_annotated"),
        ([prediction()], [annotation(None)], "annotated"),
        ([prediction(FACE, model_version=1)], [annotation(FACE)], "not_predicted"),
    ],
)
def test_states(predictions: list[dict[str, Any]], annotations: list[dict[str, Any]], state: str) -> None:
    assert of(predictions, annotations).state == state


def test_each_model_version_is_compared_the_newest_first() -> None:
    image = of(
        [prediction(FACE, model_version="9.0.0"), prediction(FAR, model_version="10.0.0")], [annotation(NEAR)]
    )

    assert list(kinds(image).items()) == [("10.0.0", ["unrelated"]), ("9.0.0", ["match"])]


def test_annotations_of_an_older_task_version_hold_where_they_came_later() -> None:
    image = of([prediction(FACE)], [annotation(FAR, "2.0.0", 1), annotation(NEAR, "1.0.0", 2)])

    assert (image.task_version, kinds(image)) == ("1.0.0", {"1.0.0": ["match"]})


def test_at_the_same_time_the_higher_task_version_holds() -> None:
    image = of([prediction(FACE)], [annotation(FAR, "9.0.0", 2.0), annotation(NEAR, "10.0.0", 2)])

    assert (image.task_version, kinds(image)) == ("10.0.0", {"1.0.0": ["match"]})


@pytest.mark.parametrize("nothing", [None, "None"])
def test_an_annotation_of_nothing_adds_no_box_and_is_an_annotation(nothing: object) -> None:
    assert kinds(of([prediction(FACE)], [annotation(nothing)])) == {"1.0.0": ["spurious"]}
    assert kinds(of([prediction(FACE)], [annotation(nothing), annotation(NEAR)])) == {"1.0.0": ["match"]}


def test_a_prediction_of_nothing_missed_what_was_drawn() -> None:
    assert kinds(of([prediction()], [annotation(FACE)])) == {"1.0.0": ["missed"]}


def test_two_equal_annotations_are_one() -> None:
    twice = [annotation(NEAR) | {"source_id": 1}, annotation(NEAR) | {"source_id": 2}]

    assert kinds(of([prediction(FACE)], twice)) == {"1.0.0": ["match"]}


def test_an_image_that_is_not_annotated_has_no_rows_and_its_predictions_stand_alone() -> None:
    image = of([prediction(FACE, SWAPPED, FAR), prediction(model_version="2.0.0")], [])

    assert image.versions == ()
    assert list(alone(image).items()) == [("2.0.0", 0), ("1.0.0", 2)]
    assert of([prediction(FACE)], [annotation(FACE)]).unjudged == ()


@pytest.mark.parametrize("others", [[], [annotation(FACE)]])
def test_an_invalid_annotation_is_named_once_and_no_prediction_is_judged_by_it(
    others: list[dict[str, Any]],
) -> None:
    image = of([prediction(FACE), prediction(FAR, model_version="2.0.0")], [annotation(SWAPPED), *others])

    assert reasons(image) == ["left >= right"]
    assert (image.invalid[0].side, image.invalid[0].task_version) == ("annotated", "1.0.0")
    assert image.is_refused
    assert (kinds(image), alone(image)) == ({}, {"2.0.0": 1, "1.0.0": 1})


def test_an_invalid_annotation_that_does_not_hold_any_more_refuses_nothing() -> None:
    image = of([prediction(FACE)], [annotation(SWAPPED, "1.0.0", 1), annotation(NEAR, "2.0.0", 2)])

    assert (kinds(image), image.invalid, image.is_refused) == ({"1.0.0": ["match"]}, (), False)


def test_other_model_versions_are_as_if_they_were_not_there() -> None:
    documents = ImageDocuments(
        image_id="i",
        predictions=[
            prediction(FACE, SWAPPED),
            prediction(FAR, model_version="2.0.0"),
            prediction(model_version=[1]),
        ],
        annotations=[annotation(NEAR)],
    )

    [image] = against([documents], model_versions={"2.0.0"})
    [unseen] = against([documents], model_versions={"3.0.0"})
    assert (kinds(image), image.invalid) == ({"2.0.0": ["unrelated"]}, ())
    assert (unseen.state, kinds(unseen)) == (FailuresState.NOT_PREDICTED, {})


def test_an_image_of_which_no_prediction_can_be_used_is_refused() -> None:
    assert of([prediction(FACE), prediction(FAR)], [annotation(NEAR)]).is_refused


def test_an_invalid_prediction_is_named_with_its_version_and_place() -> None:
    image = of([prediction(FACE, SWAPPED, None)], [annotation(NEAR)])

    assert kinds(image) == {"1.0.0": ["match"]}
    assert [(box.model_version, box.index, box.reason) for box in image.invalid] == [
        ("1.0.0", 1, "left >= right"),
        ("1.0.0", 2, "not a box"),
    ]
    assert not image.is_refused


def test_an_image_that_nobody_annotated_still_names_its_invalid_predictions() -> None:
    assert reasons(of([prediction(SWAPPED)], [])) == ["left >= right"]


@pytest.mark.parametrize("field", ["task_version", "timestamp"])
def test_where_it_cannot_be_told_which_annotations_hold_no_rows_are_made_up(field: str) -> None:
    image = of([prediction(FACE)], [annotation(NEAR), annotation(FAR) | {field: None}])

    assert (image.state, image.versions) == (FailuresState.ANNOTATED, ())
    assert reasons(image) == [
        "an annotation's task_version is not text"
        if field == "task_version"
        else "an annotation's timestamp is not a number"
    ]


def test_predictions_of_one_version_that_contradict_each_other_are_not_compared() -> None:
    image = of([prediction(FACE), prediction(FAR), prediction(FAR, model_version="2.0.0")], [annotation(NEAR)])

    assert list(kinds(image)) == ["2.0.0"]
    assert reasons(image) == ["there are several predictions of model 1.0.0, which differ"]


def test_a_prediction_that_stands_there_twice_counts_once() -> None:
    assert kinds(of([prediction(FACE), prediction(FACE)], [annotation(NEAR)])) == {"1.0.0": ["match"]}


def test_a_prediction_without_a_list_of_boxes_is_named() -> None:
    image = of([prediction() | {"bboxes": None}], [annotation(NEAR)])

    assert (kinds(image), reasons(image)) == ({}, ["the bboxes of model 1.0.0 are no list"])


def test_an_annotation_without_a_box_field_is_not_one_of_nothing() -> None:
    document = annotation(None)
    del document["bbox"]

    assert of([prediction(FACE)], [document]).is_refused


def with_versions(collection: str, field: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    documents = st.tuples(good_documents[collection], versions).map(lambda both: both[0] | {field: both[1]})
    return st.lists(documents, max_size=4)


@given(
    with_versions("bbox.model", "model_version"),
    with_versions("bbox.human_annotation", "task_version"),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_documents_does_not_matter(
    predictions: list[dict[str, Any]], annotations: list[dict[str, Any]], rng: Random
) -> None:
    shuffled = of(rng.sample(predictions, len(predictions)), rng.sample(annotations, len(annotations)))

    assert shuffled == of(predictions, annotations)


@given(st.lists(good_documents["bbox.human_annotation"], min_size=1, max_size=6))
def test_the_annotations_are_those_of_the_dataset(annotations: list[dict[str, Any]]) -> None:
    image = of([prediction()], annotations)
    entry = decide("i", annotations=annotations)

    if isinstance(entry, Entry):
        assert image.task_version == entry.version
        # Nothing was predicted, so every box is a missed one.
        assert kinds(image) == {"1.0.0": ["missed"] * len(entry.boxes)}
    else:
        assert image.is_refused or entry.reason == "box outside the image"


@given(with_versions("bbox.model", "model_version"))
def test_model_versions_stand_in_falling_order(predictions: list[dict[str, Any]]) -> None:
    found = list(kinds(of(predictions, [annotation(FACE)])))

    assert found == sorted(found, key=version_key, reverse=True)
