"""Predicted against annotated boxes of an image: brief 1's documents, and the kind of each."""

import json
import math
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from strategies import boxes, valid_boxes
from truthloop.boxes import Box, BoxError, iou_matrix, matrix
from truthloop.failures.kinds import (
    MATCH_IOU,
    MISPLACED_IOU,
    Boxes,
    Compared,
    Edges,
    Invalid,
    Item,
    Kind,
    Read,
    Side,
    compare,
)


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return Box(left=left, top=top, right=right, bottom=bottom)


def of(predicted: list[Read], annotated: list[Read], *, min_iou: float = 0.0) -> Compared:
    [found] = compare([Boxes(image_id="i", predicted=predicted, annotated=annotated)], min_iou=min_iou)
    return found


def kinds(found: Compared) -> list[str]:
    return [item.kind.value for item in found.items]


def ones_iou(one: Box, other: Box) -> float:
    return float(iou_matrix(matrix([one]), matrix([other]))[0, 0])


FACE = box(0.2, 0.2, 0.4, 0.4)
NEAR = box(0.21, 0.2, 0.4, 0.41)
OFF = box(0.3, 0.3, 0.5, 0.5)  # IoU with FACE: 1/7
FAR = box(0.8, 0.8, 0.9, 0.9)


def test_the_documents_are_those_of_the_brief() -> None:
    """Its example, whose boxes are paired where they overlap most, with the fields in its order."""
    predicted: list[Read] = [
        box(left=0.2, top=0.18, right=0.53, bottom=0.49),
        box(left=0.47, top=0.16, right=0.57, bottom=0.34),
        box(left=0.69, top=0.62, right=0.84, bottom=0.66),
    ]
    annotated: list[Read] = [
        box(left=0.56, top=0.2, right=0.71, bottom=0.37),
        box(left=0.24, top=0.17, right=0.55, bottom=0.41),
    ]

    documents = [item.document() for item in of(predicted, annotated).items]

    for document in documents:
        assert list(document) == ["image_id", "predicted", "annotated", "delta", "iou", "kind"]
        del document["iou"], document["kind"]
    assert json.dumps(documents) == json.dumps(
        [
            {
                "image_id": "i",
                "predicted": {"top": 0.18, "left": 0.2, "bottom": 0.49, "right": 0.53},
                "annotated": {"top": 0.17, "left": 0.24, "bottom": 0.41, "right": 0.55},
                "delta": {"top": -0.01, "left": 0.04, "bottom": -0.08, "right": 0.02},
            },
            {
                "image_id": "i",
                "predicted": {"top": 0.16, "left": 0.47, "bottom": 0.34, "right": 0.57},
                "annotated": {"top": 0.2, "left": 0.56, "bottom": 0.37, "right": 0.71},
                "delta": {"top": 0.04, "left": 0.09, "bottom": 0.03, "right": 0.14},
            },
            {
                "image_id": "i",
                "predicted": {"top": 0.62, "left": 0.69, "bottom": 0.66, "right": 0.84},
                "annotated": None,
                "delta": None,
            },
        ]
    )


@pytest.mark.parametrize(
    ("predicted", "annotated", "expected"),
    [
        ([FACE], [NEAR], ["match"]),
        ([FACE], [OFF], ["misplaced"]),
        ([FACE], [FAR], ["unrelated"]),
        ([FACE], [], ["spurious"]),
        ([], [FACE], ["missed"]),
        ([], [], []),
        ([FACE, NEAR], [FACE], ["match", "duplicate"]),
        ([NEAR, FACE, FAR], [FACE], ["duplicate", "match", "spurious"]),
        ([OFF, FACE], [FACE], ["spurious", "match"]),  # on the face, but not enough of it
        ([FAR, FACE], [FACE, OFF], ["unrelated", "match"]),
        ([FACE, FACE], [FACE, FACE], ["match", "match"]),
        ([FACE, FACE, FACE], [FACE], ["match", "duplicate", "duplicate"]),
        ([FAR], [NEAR, FAR, FACE], ["match", "missed", "missed"]),
    ],
)
def test_kinds(predicted: list[Read], annotated: list[Read], expected: list[str]) -> None:
    assert kinds(of(predicted, annotated)) == expected


@pytest.mark.parametrize(
    ("predicted", "annotated", "iou", "kind"),
    [
        (box(0.1, 0.1, 0.8, 0.8), box(0.1, 0.1, 0.8, 0.45), 0.5, Kind.MATCH),  # 0.49999999999999994 unrounded
        (box(0.0, 0.0, 1.0, 1.0), box(0.0, 0.0, 1.0, 0.499999), 0.499999, Kind.MISPLACED),
        (box(0.0, 0.0, 0.3, 0.7), box(0.0, 0.0, 0.03, 0.7), 0.1, Kind.MISPLACED),
        (box(0.0, 0.0, 1.0, 1.0), box(0.0, 0.0, 1.0, 0.099999), 0.099999, Kind.UNRELATED),
    ],
)
def test_a_threshold_that_is_met_exactly_counts_as_met(
    predicted: Box, annotated: Box, iou: float, kind: Kind
) -> None:
    [item] = of([predicted], [annotated]).items

    assert (item.iou, item.kind) == (iou, kind)


def test_pairs_below_the_least_iou_are_a_missed_and_a_spurious_box() -> None:
    assert kinds(of([FACE], [OFF], min_iou=0.2)) == ["spurious", "missed"]
    assert kinds(of([FACE], [OFF], min_iou=0.1)) == ["misplaced"]


def test_a_delta_is_of_the_rounded_edges_and_rounded() -> None:
    [item] = of([box(0.2, 0.1, 0.5300004, 0.49)], [box(0.24, 0.1, 0.5500006, 0.41)]).items

    assert item.predicted == Edges(top=0.1, left=0.2, bottom=0.49, right=0.53)
    assert item.annotated == Edges(top=0.1, left=0.24, bottom=0.41, right=0.550001)
    assert item.delta == Edges(top=0.0, left=0.04, bottom=-0.08, right=0.020001)


def test_boxes_are_not_clipped() -> None:
    [item] = of([box(-0.1, 0.0, 0.5, 1.2)], []).items

    assert item.predicted == Edges(top=0.0, left=-0.1, bottom=1.2, right=0.5)


def test_there_is_no_negative_zero() -> None:
    [item] = of([box(-0.0000001, -0.0, 0.5, 0.5)], [box(-0.0, 0.0, 0.5, 0.5)]).items

    assert "-0.0" not in json.dumps(item.document())


def test_a_box_that_is_empty_only_once_it_is_rounded_is_compared_like_any_other() -> None:
    thin = box(0.5000001, 0.2, 0.5000004, 0.4)
    found = of([thin], [thin])

    assert found.invalid == ()
    assert found.items == (
        Item(
            image_id="i",
            predicted=Edges(top=0.2, left=0.5, bottom=0.4, right=0.5),
            annotated=Edges(top=0.2, left=0.5, bottom=0.4, right=0.5),
            delta=Edges(top=0.0, left=0.0, bottom=0.0, right=0.0),
            iou=1.0,
            kind=Kind.MATCH,
        ),
    )


def test_invalid_boxes_are_not_paired_and_stand_apart_with_their_reason() -> None:
    swapped, flat = box(0.4, 0.2, 0.2, 0.4), box(0.4, 0.4, 0.4, 0.4)
    found = of(
        [swapped, FACE, BoxError("left", "missing")],
        [box(0.0, math.nan, 1.0, 1.0), flat, NEAR, box(0, 0, math.inf, 1)],
    )

    assert kinds(found) == ["match"]
    assert found.invalid == (
        Invalid(side=Side.PREDICTED, index=0, reason="left >= right", box=swapped),
        Invalid(side=Side.PREDICTED, index=2, reason="left: missing", box=None),
        Invalid(side=Side.ANNOTATED, index=0, reason="not finite", box=None),
        Invalid(side=Side.ANNOTATED, index=1, reason="left >= right, top >= bottom", box=flat),
        Invalid(side=Side.ANNOTATED, index=3, reason="not finite", box=None),
    )


def test_only_invalid_boxes_leave_no_items() -> None:
    found = of([box(1, 1, 0, 0)], [box(1, 1, 0, 0)])

    assert (found.items, len(found.invalid)) == ((), 2)


_few = st.lists(st.one_of(valid_boxes(), st.sampled_from([FACE, NEAR, OFF, FAR])), max_size=5)


@given(_few, _few, st.randoms(use_true_random=False))
@example([FACE], [box(0.1, 0.2, 0.3, 0.4), box(0.3, 0.2, 0.5, 0.4)], Random(1))  # equally far to both sides
def test_the_order_of_the_annotated_boxes_does_not_matter(
    predicted: list[Read], annotated: list[Read], rng: Random
) -> None:
    shuffled = rng.sample(annotated, len(annotated))

    assert of(predicted, shuffled) == of(predicted, annotated)


@given(_few, _few)
def test_each_box_stands_in_one_item_and_its_kind_is_as_defined(
    predicted: list[Box], annotated: list[Box]
) -> None:
    items = of([*predicted], [*annotated]).items

    in_order = [item.predicted for item in items if item.predicted]
    assert in_order == [Edges.rounded(each.corners()) for each in predicted]
    assert sorted(
        (item.annotated.left, item.annotated.top, item.annotated.right, item.annotated.bottom)
        for item in items
        if item.annotated
    ) == sorted((each.left, each.top, each.right, each.bottom) for each in annotated)
    matched = [as_box(item.annotated) for item in items if item.kind is Kind.MATCH]
    for item in items:
        match item:
            case Item(predicted=Edges() as one, annotated=Edges() as other):
                iou = ones_iou(as_box(one), as_box(other))
                assert item.iou == pytest.approx(iou, abs=1e-9)
                expected = (iou >= MATCH_IOU - 1e-9) + (iou >= MISPLACED_IOU - 1e-9)
                assert item.kind is (Kind.UNRELATED, Kind.MISPLACED, Kind.MATCH)[expected]
                assert item.delta == Edges.rounded(
                    {
                        name: getattr(other, name) - getattr(one, name)
                        for name in ("top", "left", "bottom", "right")
                    }
                )
            case Item(predicted=Edges() as one):
                again = any(ones_iou(as_box(one), each) >= MATCH_IOU - 1e-9 for each in matched)
                assert item.kind is (Kind.DUPLICATE if again else Kind.SPURIOUS)
            case _:
                assert item.kind is Kind.MISSED
        assert (item.iou is None) == (item.delta is None) == (not (item.predicted and item.annotated))


def as_box(edges: Edges | None) -> Box:
    assert edges is not None
    return box(edges.left, edges.top, edges.right, edges.bottom)


any_image = st.tuples(st.lists(boxes, max_size=4), st.lists(boxes, max_size=4))


@given(st.lists(any_image, max_size=5))
def test_many_images_at_once_are_as_each_alone(images: list[tuple[list[Box], list[Box]]]) -> None:
    given_images = [
        Boxes(image_id=str(at), predicted=one, annotated=other) for at, (one, other) in enumerate(images)
    ]

    assert compare(given_images) == [found for image in given_images for found in compare([image])]


@given(any_image)
def test_whatever_is_stored_each_box_is_answered_for(image: tuple[list[Box], list[Box]]) -> None:
    found = of([*image[0]], [*image[1]])

    json.dumps([item.document() for item in found.items], allow_nan=False)
    for side, given_boxes, field in (
        (Side.PREDICTED, image[0], "predicted"),
        (Side.ANNOTATED, image[1], "annotated"),
    ):
        shown = sum(getattr(item, field) is not None for item in found.items)
        assert shown + sum(each.side is side for each in found.invalid) == len(given_boxes)
