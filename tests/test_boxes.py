"""Boxes, against slow, obvious references and the cases that the browser shares."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import lists

from strategies import box_documents, boxes, valid_boxes
from truthloop.boxes import Box, BoxError, BoxShapeError, box_faults, delta, iou_matrix, matrix, parse

CASES = json.loads((Path(__file__).parent / "cases" / "boxes.json").read_text(encoding="utf-8"))


def sides(box: Box) -> list[float]:
    return [box.left, box.top, box.right, box.bottom]


def slow_iou(one: Box, other: Box) -> float:
    """Exact, from the definition: shared area by the area of both together."""
    a, b = ([Fraction(side) for side in sides(box)] for box in (one, other))
    width = max(Fraction(0), min(a[2], b[2]) - max(a[0], b[0]))
    height = max(Fraction(0), min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return float(width * height / both)


@pytest.mark.parametrize("case", CASES["read"], ids=lambda case: case["name"])
def test_a_box_is_read_as_the_cases_say(case: dict[str, Any]) -> None:
    box = parse(case["document"])

    assert sides(box) == pytest.approx(case["corners"])
    assert (box.is_valid, box.is_outside) == (case["valid"], case["outside"])


@pytest.mark.parametrize("case", CASES["refused"], ids=lambda case: case["name"])
def test_what_is_no_box_is_refused_by_its_field(case: dict[str, Any]) -> None:
    with pytest.raises(BoxError) as refused:
        parse(case["document"])

    assert (refused.value.field, refused.value.reason) == (case["field"], case["reason"])


@pytest.mark.parametrize("case", CASES["iou"], ids=lambda case: case["name"])
def test_iou_is_as_the_cases_say(case: dict[str, Any]) -> None:
    assert iou_matrix(np.array([case["annotated"]]), np.array([case["predicted"]])) == pytest.approx(case["iou"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(BoxError, match="top: not finite"):
        parse({"left": 0.1, "top": value, "right": 0.2, "bottom": 0.3})


def test_an_integer_beyond_every_float_is_refused() -> None:
    with pytest.raises(BoxError, match="left: too large"):
        parse({"left": 10**400, "top": 0, "right": 1, "bottom": 1})


def test_all_faults_of_a_box_are_named() -> None:
    assert box_faults({"left": "a", "right": None}) == [
        ("left", "not a number"),
        ("top", "missing"),
        ("right", "not a number"),
        ("bottom", "missing"),
    ]


@given(boxes)
def test_corner_notation_round_trips_exactly(box: Box) -> None:
    assert parse(box.corners()) == box


@given(boxes)
def test_center_notation_round_trips_up_to_rounding(box: Box) -> None:
    assert sides(parse(box.center())) == pytest.approx(sides(box), abs=1e-12)


@given(box_documents)
def test_clipping_twice_equals_clipping_once(document: dict[str, Any]) -> None:
    clipped = parse(document).clipped()

    assert clipped.clipped() == clipped
    assert not clipped.is_outside


@given(box_documents)
def test_a_box_in_the_image_is_left_as_it_is_by_clipping(document: dict[str, Any]) -> None:
    box = parse(document)

    assert (box.clipped() == box) == (not box.is_outside)


@given(lists(valid_boxes(), max_size=4), lists(valid_boxes(), max_size=4))
def test_iou_equals_the_exact_ratio_of_areas(annotated: list[Box], predicted: list[Box]) -> None:
    computed = iou_matrix(matrix(annotated), matrix(predicted))

    assert computed.shape == (len(annotated), len(predicted))
    for row, one in enumerate(annotated):
        for column, other in enumerate(predicted):
            assert computed[row, column] == pytest.approx(slow_iou(one, other), abs=1e-9)


@given(lists(valid_boxes(), min_size=1, max_size=4), lists(valid_boxes(), min_size=1, max_size=4))
def test_iou_is_symmetric(annotated: list[Box], predicted: list[Box]) -> None:
    one, other = matrix(annotated), matrix(predicted)

    assert np.array_equal(iou_matrix(one, other), iou_matrix(other, one).T)


def test_iou_of_a_swapped_box_is_an_error_and_not_a_number() -> None:
    with pytest.raises(BoxShapeError, match=r"predicted\[1\]"):
        iou_matrix(np.array([[0, 0, 1, 1.0]]), np.array([[0, 0, 1, 1], [1, 0, 0, 1.0]]))


def test_delta_is_annotated_minus_predicted() -> None:
    moved = delta(
        annotated=Box(left=0.24, top=0.17, right=0.55, bottom=0.41),
        predicted=Box(left=0.2, top=0.18, right=0.53, bottom=0.49),
    )

    assert moved == pytest.approx({"left": 0.04, "top": -0.01, "right": 0.02, "bottom": -0.08})
