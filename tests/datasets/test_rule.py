"""The dataset rule, against a slow reference, and the faults of real data one by one."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets import reference
from datasets.documents import (
    BOX,
    OTHER_BOX,
    SWAPPED,
    annotation,
    annotations,
    audit,
    audits,
    odd,
    prediction,
    predictions,
)
from truthloop.datasets.rule import Entry, LeftOut, Reason, decide

some = {
    "predictions": st.lists(predictions, max_size=3),
    "audits": st.lists(audits, max_size=4),
    "annotations": st.lists(annotations, max_size=4),
}


def said(outcome: Entry | LeftOut) -> Any:
    """As the reference tells it."""
    if isinstance(outcome, LeftOut):
        return "refused" if outcome.reason.is_refusal else str(outcome.reason)
    boxes = sorted((b.box.left, b.box.top, b.box.right, b.box.bottom) for b in outcome.boxes)
    return outcome.kind, outcome.version, outcome.timestamp, boxes, outcome.clipped, outcome.verdict


@given(**some)
def test_the_rule_is_that_of_the_brief(predictions, audits, annotations):
    outcome = decide("a", predictions=predictions, audits=audits, annotations=annotations)

    assert said(outcome) == reference.entry(predictions, audits, annotations)


@given(
    st.lists(odd(predictions), max_size=3),
    st.lists(odd(audits), max_size=3),
    st.lists(odd(annotations), max_size=3),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_documents_does_not_matter(predictions, audits, annotations, without, rng: random.Random):
    def shuffled(documents):
        return rng.sample(documents, len(documents))

    first = decide("a", predictions=predictions, audits=audits, annotations=annotations, without_incorrect=without)
    second = decide(
        "a",
        predictions=shuffled(predictions),
        audits=shuffled(audits),
        annotations=shuffled(annotations),
        without_incorrect=without,
    )

    assert first == second


@given(
    st.lists(odd(predictions), max_size=3),
    st.lists(odd(audits), max_size=3),
    st.lists(odd(annotations), max_size=3),
)
def test_whatever_others_wrote_is_decided_and_every_box_lies_in_its_image(predictions, audits, annotations):
    outcome = decide("a", predictions=predictions, audits=audits, annotations=annotations)

    if isinstance(outcome, Entry):
        assert all(box.box.is_valid and not box.box.is_outside for box in outcome.boxes)
        assert (outcome.kind == "human") == bool(annotations)
    else:
        assert (outcome.reason is Reason.UNSEEN) == (not annotations and not predictions)


def test_people_go_before_models_however_old_they_are():
    outcome = decide("a", annotations=[annotation("a", BOX)], predictions=[prediction("a", version="2.0.0")])

    assert isinstance(outcome, Entry)
    assert (outcome.kind, len(outcome.boxes), outcome.verdict) == ("human", 1, None)


def test_the_group_with_the_latest_timestamp_is_taken_whole_and_alone():
    outcome = decide(
        "a",
        annotations=[
            annotation("a", BOX, version="1.0.0", timestamp=1),
            annotation("a", OTHER_BOX, version="1.0.0", timestamp=9.5),
            annotation("a", BOX, version="2.0.0", timestamp=9),
        ],
    )

    assert isinstance(outcome, Entry)
    assert (outcome.version, outcome.timestamp, len(outcome.boxes)) == ("1.0.0", 9.5, 2)


def test_of_two_groups_as_late_the_higher_version_is_taken():
    outcome = decide("a", annotations=[annotation("a", version="9.0.0"), annotation("a", BOX, version="10.0.0")])

    assert isinstance(outcome, Entry)
    assert outcome.version == "10.0.0"


@pytest.mark.parametrize("nothing", [None, "None"])
def test_null_is_an_annotation_of_zero_boxes_and_adds_none_beside_others(nothing):
    alone = decide("a", annotations=[annotation("a", nothing)], predictions=[prediction("a", BOX)])
    beside = decide("a", annotations=[annotation("a", nothing), annotation("a", BOX)])

    assert isinstance(alone, Entry)
    assert isinstance(beside, Entry)
    assert (alone.kind, len(alone.boxes), len(beside.boxes)) == ("human", 0, 1)


def test_two_equal_annotations_are_one():
    outcome = decide("a", annotations=[annotation("a", BOX, _id=1), annotation("a", BOX, _id=2)])

    assert isinstance(outcome, Entry)
    assert len(outcome.boxes) == 1


def test_the_same_box_by_two_people_is_two_boxes():
    outcome = decide("a", annotations=[annotation("a", BOX), annotation("a", BOX) | {"annotator": "y"}])

    assert isinstance(outcome, Entry)
    assert len(outcome.boxes) == 2


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        (SWAPPED, Reason.SWAPPED_OR_EMPTY),
        (BOX | {"right": 0.1}, Reason.SWAPPED_OR_EMPTY),
        # Swapped before it is clipped: clipping it would have made it empty.
        ({"left": 1.5, "top": 0, "right": 1.2, "bottom": 1}, Reason.SWAPPED_OR_EMPTY),
        (BOX | {"right": float("nan")}, Reason.NOT_FINITE),
        (BOX | {"right": float("inf")}, Reason.NOT_FINITE),
        ({"left": 1.2, "top": 0, "right": 1.5, "bottom": 1}, Reason.OUTSIDE),
        ({"left": 1, "top": 0, "right": 1.5, "bottom": 1}, Reason.OUTSIDE),
        (BOX | {"right": "0.5"}, Reason.UNREADABLE),
        (BOX | {"center_x": 0.5}, Reason.UNREADABLE),
        ({}, Reason.UNREADABLE),
        ([0.1, 0.2, 0.3, 0.4], Reason.UNREADABLE),
    ],
)
def test_a_box_that_cannot_be_used_leaves_its_image_out_whichever_source_was_chosen(bbox, reason):
    human = decide(
        "a", annotations=[annotation("a", bbox), annotation("a", BOX)], predictions=[prediction("a", BOX)]
    )
    model = decide("a", predictions=[prediction("a", BOX, bbox, version="2.0.0"), prediction("a", BOX)])

    assert isinstance(human, LeftOut)
    assert isinstance(model, LeftOut)
    assert (human.reason, model.reason) == (reason, reason)
    assert human.detail


def test_a_faulty_box_of_a_group_that_was_not_chosen_does_not_matter():
    outcome = decide(
        "a",
        annotations=[annotation("a", SWAPPED, timestamp=1), annotation("a", BOX, version="2.0.0", timestamp=2)],
        predictions=[prediction("a", SWAPPED)],
    )

    assert isinstance(outcome, Entry)


@pytest.mark.parametrize(
    "unreadable",
    [
        annotation("a", BOX) | {"timestamp": "yesterday"},
        annotation("a", BOX) | {"timestamp": None},
        annotation("a", BOX) | {"task_version": 1},
        {name: value for name, value in annotation("a", BOX).items() if name != "bbox"},
    ],
)
def test_an_annotation_that_cannot_be_read_refuses_its_image_and_is_not_guessed(unreadable):
    outcome = decide("a", annotations=[annotation("a", BOX), unreadable], predictions=[prediction("a", BOX)])

    assert isinstance(outcome, LeftOut)
    assert outcome.reason is Reason.UNREADABLE


@pytest.mark.parametrize(
    "unreadable", [{"model_version": "1.0.0"}, prediction("a") | {"model_version": 2}, prediction("a", None)]
)
def test_a_prediction_that_cannot_be_read_refuses_its_image(unreadable):
    outcome = decide("a", predictions=[unreadable])

    assert isinstance(outcome, LeftOut)
    assert outcome.reason is Reason.UNREADABLE


def test_predictions_of_one_version_that_differ_are_refused_and_equal_ones_are_one():
    same = decide("a", predictions=[prediction("a", BOX, _id=1), prediction("a", BOX, _id=2)])
    different = decide("a", predictions=[prediction("a", BOX), prediction("a", OTHER_BOX)])

    assert isinstance(same, Entry)
    assert len(same.boxes) == 1
    assert isinstance(different, LeftOut)
    assert different.reason is Reason.CONFLICT


def test_clipping_is_counted_and_coordinates_within_stay_as_they_are():
    outcome = decide("a", predictions=[prediction("a", BOX | {"left": -0.1}, BOX)])

    assert isinstance(outcome, Entry)
    assert outcome.clipped == 1
    assert [box.box.corners() for box in outcome.boxes] == [BOX | {"left": 0.0}, BOX]


def test_a_label_stays_with_its_box():
    outcome = decide("a", predictions=[prediction("a", BOX | {"label": "face", "score": 0.9}, BOX)])

    assert isinstance(outcome, Entry)
    assert [box.label for box in outcome.boxes] == ["face", None]


def test_the_verdict_is_that_of_the_prediction_taken():
    given_audits = [audit("a", False, version="1.0.0"), audit("a", True, version="2.0.0")]
    newest = decide("a", predictions=[prediction("a"), prediction("a", version="2.0.0")], audits=given_audits)
    only = decide("a", predictions=[prediction("a")], audits=given_audits)
    none = decide("a", predictions=[prediction("a", version="3.0.0")], audits=given_audits)

    assert [outcome.verdict for outcome in (newest, only, none) if isinstance(outcome, Entry)] == [
        True,
        False,
        None,
    ]


def test_without_incorrect_leaves_out_what_was_audited_as_wrong_unless_a_person_has_drawn_it():
    wrong = {"predictions": [prediction("a", BOX)], "audits": [audit("a", False)], "without_incorrect": True}
    left_out = decide("a", **wrong)
    drawn = decide("a", annotations=[annotation("a", BOX)], **wrong)

    assert isinstance(left_out, LeftOut)
    assert left_out.reason is Reason.AUDITED_INCORRECT
    assert isinstance(drawn, Entry)


def test_a_prediction_keeps_its_timestamp_where_it_has_one():
    outcome = decide("a", predictions=[prediction("a", timestamp=5)])

    assert isinstance(outcome, Entry)
    assert outcome.timestamp == 5.0
