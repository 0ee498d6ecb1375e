"""Matching, against every assignment there is where boxes are few, and against SciPy where they are many."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from strategies import valid_boxes
from truthloop import matching
from truthloop.boxes import Box, BoxShapeError, Floats, matrix, overlaps
from truthloop.matching import IOU_ROUNDING, LARGEST_TOGETHER, UNITS, Matches, OffsetsError, match

Boxes = list[Box]
Image = tuple[Boxes, Boxes]


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return Box(left=left, top=top, right=right, bottom=bottom)


# Few places on a coarse grid: equal boxes, equal rows, boxes in boxes and far apart, and many equal sums.
_grid = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 2), st.integers(1, 2)).map(
    lambda at: box(at[0] / 4, at[1] / 4, (at[0] + at[2]) / 4, (at[1] + at[3]) / 4)
)
_thin = st.tuples(st.integers(0, 9), st.integers(1, 9)).map(
    lambda at: box(at[0] * 1e-160, 0, (at[0] + 1) * 1e-160, at[1] * 1e-160)
)
_boxes = st.one_of(_grid, _grid, valid_boxes(), _thin)
images = st.tuples(st.lists(_boxes, max_size=5), st.lists(_boxes, max_size=5))
least = st.sampled_from([0.0, 0.0, 0.1, 1 / 3, 0.5, 1.0, 1e-14])


def run(given_images: list[Image], min_iou: float = 0.0) -> Matches:
    def flat(side: int) -> tuple[Floats, matching.Ints]:
        rows = matrix([each for image in given_images for each in image[side]])
        return rows, np.cumsum([0, *(len(image[side]) for image in given_images)])

    return match(*flat(0), *flat(1), min_iou=min_iou)


def pairs_of(found: Matches) -> dict[int, int]:
    """By predicted row the annotated one, of a single image."""
    return {
        int(one): int(other)
        for one, other in zip(found.predicted, found.annotated, strict=True)
        if one >= 0 and other >= 0
    }


def weights_of(image: Image, min_iou: float) -> list[list[int | None]]:
    """Pair by pair, in whole units; None where forbidden."""
    one, other = matrix(image[0]).T, matrix(image[1]).T
    iou, giou = overlaps(one[:, :, None], other[:, None, :])
    extra = 1 if min_iou > 0 else 0  # a pair is worth more than none, even if it rounds to nothing
    return [
        [
            None if iou[i, j] < min_iou - IOU_ROUNDING else round((giou[i, j] + 1) * UNITS) + extra
            for j in range(len(image[1]))
        ]
        for i in range(len(image[0]))
    ]


def all_assignments(weights: list[list[int | None]], columns: int) -> Iterator[tuple[int, list[int]]]:
    """Every assignment with its sum; a row that is alone has the column `columns`, the last."""

    def go(row: int, taken: list[int], total: int) -> Iterator[tuple[int, list[int]]]:
        if row == len(weights):
            yield total, taken
            return
        for column in range(columns):
            weight = weights[row][column]
            if weight is not None and column not in taken:
                yield from go(row + 1, [*taken, column], total + weight)
        yield from go(row + 1, [*taken, columns], total)

    yield from go(0, [], 0)


def obvious(image: Image, min_iou: float) -> dict[int, int]:
    """The definition: the greatest sum; of equal ones, the first in the order of the shorter side."""
    weights = weights_of(image, min_iou)
    swapped = len(image[0]) > len(image[1])
    if swapped:
        weights = [[row[column] for row in weights] for column in range(len(image[1]))]
    rows, columns = len(weights), max(len(image[0]), len(image[1]))
    every = list(all_assignments(weights, columns))
    if min_iou == 0.0:  # even pairs that weigh nothing are made
        every = [each for each in every if columns not in each[1][:rows]]
    best = max(total for total, _ in every)
    first = min(taken for total, taken in every if total == best)
    pairs = [(row, column) for row, column in enumerate(first) if column < columns]
    return {column: row for row, column in pairs} if swapped else dict(pairs)


A, B, C = box(0, 0, 0.25, 0.25), box(0.5, 0, 0.75, 0.25), box(0.25, 0, 0.5, 0.25)
BIG, IN_IT = box(0, 0, 1, 1), box(0.25, 0.25, 0.5, 0.5)


@given(images, least)
@example(([A, A, A], [A, A, A]), 0.0)
@example(([A, A, B, B], [B, A]), 0.0)
@example(([C, C], [A, B]), 0.0)  # in the middle of two: both assignments are equal
@example(([A, B], [C, C, C]), 0.0)
@example(([A, A, A], [A, B, B, A]), 0.0)  # which of two equal boxes stays alone
@example(([BIG, BIG, IN_IT], [IN_IT, BIG, IN_IT]), 0.0)
@example(([A, C], [A, B, A]), 0.5)
@example(([], [A]), 0.0)
@example(([A], []), 0.5)
@example(([], []), 0.0)
def test_it_is_the_best_of_all_assignments_and_the_first_of_the_best(image: Image, min_iou: float) -> None:
    assert pairs_of(run([image], min_iou)) == obvious(image, min_iou)


@given(images, least)
@example(([A, A, A], [A, B, B, A]), 0.0)
def test_so_it_is_for_an_image_with_many_boxes(image: Image, min_iou: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "LARGEST_TOGETHER", 0)
        assert pairs_of(run([image], min_iou)) == obvious(image, min_iou)


@given(st.lists(images, max_size=8), least)
def test_an_image_is_matched_the_same_in_whatever_company(given_images: list[Image], min_iou: float) -> None:
    together = run(given_images, min_iou)

    first, other_first = 0, 0
    for index, image in enumerate(given_images):
        alone = run([image], min_iou)
        rows = together.image == index
        for mine, theirs, before in (
            (alone.predicted, together.predicted[rows], first),
            (alone.annotated, together.annotated[rows], other_first),
        ):
            assert np.where(mine < 0, -1, mine + before).tolist() == theirs.tolist()
        assert np.array_equal(alone.giou, together.giou[rows], equal_nan=True)
        first, other_first = first + len(image[0]), other_first + len(image[1])
    assert len(together.image) == sum(np.count_nonzero(together.image == i) for i in range(len(given_images)))


@given(st.lists(images, min_size=1, max_size=6), least)
def test_every_box_stands_in_the_answer_once_and_in_order(given_images: list[Image], min_iou: float) -> None:
    found = run(given_images, min_iou)

    predicted = found.predicted[found.predicted >= 0].tolist()
    annotated = found.annotated[found.annotated >= 0].tolist()
    assert predicted == list(range(sum(len(one) for one, _ in given_images)))
    assert sorted(annotated) == list(range(sum(len(other) for _, other in given_images)))
    assert (np.diff(found.image) >= 0).all()
    for index in range(len(given_images)):
        alone = (found.image == index) & (found.predicted < 0)
        here = np.flatnonzero(found.image == index)
        assert np.flatnonzero(alone).tolist() == here[len(here) - alone.sum() :].tolist()
        assert (np.diff(found.annotated[alone]) > 0).all()
    paired = (found.predicted >= 0) & (found.annotated >= 0)
    assert np.isnan(found.iou[~paired]).all()
    assert (found.iou[paired] >= min_iou - IOU_ROUNDING).all()
    assert ((found.giou[paired] >= -1) & (found.giou[paired] <= found.iou[paired])).all()


@given(images)
def test_as_many_are_paired_as_there_are_boxes_on_the_shorter_side(image: Image) -> None:
    assert len(pairs_of(run([image]))) == min(len(image[0]), len(image[1]))


@given(images, least)
def test_sides_swapped_the_total_is_the_same(image: Image, min_iou: float) -> None:
    one, other = run([image], min_iou), run([(image[1], image[0])], min_iou)

    assert np.nansum(one.giou + 1) == pytest.approx(np.nansum(other.giou + 1), rel=1e-12)


def random_boxes(rng: np.random.Generator, count: int, steps: int | None = None) -> Floats:
    centre, size = rng.random((count, 2)), rng.uniform(0.05, 0.4, (count, 2))
    if steps:
        centre, size = np.round(centre * steps) / steps, np.ceil(size * steps) / steps
    return np.hstack([centre - size, centre + size])


def scipy_total(one: Floats, other: Floats, min_iou: float = 0.0) -> float:
    iou, giou = overlaps(one.T[:, :, None], other.T[:, None, :])
    weights = np.where(iou < min_iou - IOU_ROUNDING, 0.0, giou + 1.0)
    return float(weights[linear_sum_assignment(weights, maximize=True)].sum())


@pytest.mark.parametrize("steps", [None, 6], ids=["anywhere", "on a grid, with ties"])
@pytest.mark.parametrize("min_iou", [0.0, 0.1])
def test_many_images_of_many_sizes_have_the_totals_that_scipy_finds(steps: int | None, min_iou: float) -> None:
    rng = np.random.default_rng(7)
    sizes = rng.integers(0, 12, (600, 2))
    sizes[:20] = rng.integers(0, LARGEST_TOGETHER + 10, (20, 2))
    starts, other_starts = (np.concatenate([[0], np.cumsum(sizes[:, side])]) for side in (0, 1))
    predicted, annotated = random_boxes(rng, starts[-1], steps), random_boxes(rng, other_starts[-1], steps)

    found = match(predicted, starts, annotated, other_starts, min_iou=min_iou)

    totals = np.bincount(found.image, np.nan_to_num(found.giou + 1.0), minlength=len(sizes))
    for image, (one, other) in enumerate(zip(pairwise(starts), pairwise(other_starts), strict=True)):
        expected = scipy_total(predicted[slice(*one)], annotated[slice(*other)], min_iou)
        assert totals[image] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("steps", [None, 8], ids=["anywhere", "on a grid, with ties"])
def test_an_image_of_200_and_300_boxes(steps: int | None) -> None:
    rng = np.random.default_rng(3)
    one, other = random_boxes(rng, 200, steps), random_boxes(rng, 300, steps)

    found = match(one, np.array([0, 200]), other, np.array([0, 300]))

    assert len(pairs_of(found)) == 200
    assert np.nansum(found.giou + 1) == pytest.approx(scipy_total(one, other), rel=1e-12)


_sides = st.lists(_grid, min_size=3, max_size=9)


@given(st.tuples(_sides, _sides), least)
@example(([A, A, A], [A, B, B, A]), 0.0)
def test_both_ways_of_solving_choose_the_same(image: Image, min_iou: float) -> None:
    """Alone by SciPy as together in step, on sizes beyond trying all assignments."""
    together = run([image], min_iou)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "LARGEST_TOGETHER", 0)
        alone = run([image], min_iou)

    assert pairs_of(together) == pairs_of(alone)


def test_more_images_than_wait_together() -> None:
    rng = np.random.default_rng(5)
    one, other = random_boxes(rng, 60), random_boxes(rng, 60)
    starts = np.arange(0, 61, 6)
    found = match(one, starts, other, starts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "PAIRS_WAITING", 36)
        patch.setattr(matching, "PAIRS_AT_ONCE", 50)
        one_at_a_time = match(one, starts, other, starts)

    assert found.annotated.tolist() == one_at_a_time.annotated.tolist()
    assert found.giou.tolist() == pytest.approx(one_at_a_time.giou.tolist(), nan_ok=True)


def test_an_iou_that_misses_the_least_one_by_rounding_is_enough() -> None:
    one, other = box(0.1, 0.1, 0.4, 0.4), box(0.1, 0.1, 0.4, 0.7)
    found = run([([one], [other])])

    assert len(pairs_of(run([([one], [other])], min_iou=0.5))) == 1
    assert len(pairs_of(run([([one], [other])], min_iou=float(found.iou[0]) + 1e-6))) == 0


def test_boxes_too_large_for_their_area_are_paired_without_a_measure() -> None:
    huge = box(-1e300, -1e300, 1e300, 1e300)
    found = run([([huge, A], [A, huge])])

    assert pairs_of(found) == {0: 1, 1: 0}
    assert (found.iou[0], found.giou[0]) == (0.0, -1.0)


def test_no_images() -> None:
    assert len(run([]).image) == 0


NO_BOXES = np.empty((0, 4))
ONE, TWO = np.array([0, 1]), np.array([0, 1, 1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: match(np.ones((1, 4)).cumsum(axis=1), np.array([0]), NO_BOXES, np.array([0])),
        lambda: match(NO_BOXES, np.array([0, 1]), NO_BOXES, np.array([0, 0])),
        lambda: match(NO_BOXES, np.array([0, 1, 0]), NO_BOXES, np.array([0, 0, 0])),
        lambda: match(NO_BOXES, np.array([0, 0]), NO_BOXES, np.array([0, 0, 0])),
        lambda: match(NO_BOXES, np.array([]), NO_BOXES, np.array([0])),
        lambda: match(NO_BOXES, np.array([0.0]), NO_BOXES, np.array([0])),
    ],
)
def test_offsets_that_do_not_cut_the_boxes_into_images_are_refused(call: Callable[[], Matches]) -> None:
    with pytest.raises(OffsetsError):
        call()


@pytest.mark.parametrize("row", [[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, np.inf, 1], [0, np.nan, 1, 1]])
def test_a_box_without_an_area_is_refused_by_its_row(row: list[float]) -> None:
    with pytest.raises(BoxShapeError, match=r"annotated\[1\]"):
        match(np.array([[0, 0, 1, 1.0]]), ONE, np.array([[0, 0, 1, 1.0], row]), np.array([0, 2]))


@pytest.mark.parametrize("min_iou", [-0.1, 1.1, float("nan")])
def test_a_least_iou_outside_its_range_is_refused(min_iou: float) -> None:
    with pytest.raises(ValueError, match="min_iou"):
        run([], min_iou)
