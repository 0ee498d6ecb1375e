"""Suppression of overlapping boxes, against the loop that one would write."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from truthloop.models.suppress import suppress

# Whole numbers overlap, touch and coincide often; few scores make ties.
BOXES = st.lists(
    st.tuples(
        st.integers(0, 8),
        st.integers(0, 8),
        st.integers(1, 6),
        st.integers(1, 6),
        st.sampled_from([0.3, 0.5, 0.9]),
    ),
    max_size=12,
)
Box = tuple[int, int, int, int, float]


def iou(one: Box, other: Box) -> float:
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(across, 0) * max(down, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def by_hand(boxes: list[Box], max_iou: float) -> list[int]:
    staying: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda each: (-boxes[each][4], each)):
        if all(iou(boxes[index], boxes[other]) <= max_iou for other in staying):
            staying.append(index)
    return staying


def kept(boxes: list[Box], max_iou: float) -> list[int]:
    edges = np.array([(x, y, x + wide, y + high) for x, y, wide, high, _ in boxes], np.float64).reshape(-1, 4)
    return suppress(edges, np.array([box[4] for box in boxes]), max_iou=max_iou).tolist()


@given(BOXES, st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0]))
def test_it_is_the_loop_that_one_would_write(boxes: list[Box], max_iou: float) -> None:
    assert kept(boxes, max_iou) == by_hand(boxes, max_iou)


@given(BOXES, st.sampled_from([0.0, 0.3, 0.5]))
def test_suppressing_what_stays_changes_nothing(boxes: list[Box], max_iou: float) -> None:
    staying = [boxes[index] for index in kept(boxes, max_iou)]

    assert kept(staying, max_iou) == list(range(len(staying)))


def test_no_boxes_stay_of_none() -> None:
    assert kept([], 0.5) == []
