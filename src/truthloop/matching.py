"""Which predicted box is which annotated one: the best one-to-one assignment, for many images at once. Pure.

    match         flat arrays in, flat arrays out
    ├── images of equal numbers of boxes are taken together: one array operation serves thousands of them
    ├── where each box of the shorter side likes another one best, that is the answer (most images)
    ├── the rest is solved by shortest augmenting paths, in step over all images that are left
    └── images with more boxes than that is good for go to SciPy, one at a time

Weights are whole numbers, so sums of them are exact: which assignments are equally good is a fact and no
accident of rounding, and no image's answer depends on the way that it took. The reasons stand in
docs/decisions/0006-matching.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truthloop.assignment import Bools, Ints, assigned_alone, assigned_together, let_rows_be_alone
from truthloop.boxes import BoxShapeError, Floats, overlaps

# The weight of a pair, GIoU + 1, is counted in these units (about 1e-12), as a float that holds a whole number.
# Sums of it over up to 4,096 pairs stay below 2**53, so they are exact.
UNITS = 2.0**40
# An IoU that misses the least one asked for by this little has missed it by rounding alone.
IOU_ROUNDING = 5e-10
# Images whose longer side has more boxes go to SciPy one at a time; there its compiled loop is faster.
LARGEST_TOGETHER = 30
# Pairs of boxes in one array operation: so few that its intermediate results stay in the processor's cache.
PAIRS_AT_ONCE = 1 << 15
# Pairs of boxes that wait to be solved together: 4 MB of costs.
PAIRS_WAITING = 1 << 19


class OffsetsError(ValueError):
    """The offsets don't cut the boxes into images; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """What became of each box: one row a pair and one a box that stayed alone, ordered by image.

    In an image, its predicted boxes come first, in their order, paired or not; then the annotated boxes that
    stayed alone, in theirs. All arrays have the same length.
    """

    image: Ints  # index of the image: its boxes are offsets[image] to offsets[image + 1]
    predicted: Ints  # row of the predicted box; -1: the annotated box is alone
    annotated: Ints  # row of the annotated box; -1: the predicted box is alone
    iou: Floats  # in [0, 1]; NaN where a box is alone
    giou: Floats  # in [-1, 1]; NaN where a box is alone


def match(
    predicted: Floats,
    predicted_offsets: Ints,
    annotated: Floats,
    annotated_offsets: Ints,
    *,
    min_iou: float = 0.0,
) -> Matches:
    """Pair predicted with annotated boxes, image by image, one to one.

    Of all assignments it is the one with the greatest sum of (GIoU + 1) over its pairs, to 1e-12 a pair. No pair
    takes from the sum, so of N and M boxes min(N, M) are paired, unless `min_iou` forbids it.

    Among assignments of equal sum, the boxes of the shorter side (the predicted ones, if there are as many) choose
    in their order: the first one takes the earliest box that it has in any of them, then the second in what is
    left, and so on; being alone comes last.

    Args:
        predicted: shape (N, 4), the boxes of all images one after another, rows (left, top, right, bottom), in any
            unit; x grows to the right, y downwards.
        predicted_offsets: shape (images + 1,): image i has the rows from offsets[i] to before offsets[i + 1]. The
            first is 0, the last N.
        annotated: shape (M, 4), same order and unit.
        annotated_offsets: shape (images + 1,).
        min_iou: in [0, 1]; boxes whose IoU is lower aren't paired at all.

    Returns:
        Each box once. No images, or images without boxes, are no rows.

    Raises:
        BoxShapeError: a row has left >= right or top >= bottom, or isn't finite.
        OffsetsError: offsets fall, don't begin at 0 or don't end at the number of boxes, or one side has other
            images than the other.
        ValueError: `min_iou` isn't in [0, 1].

    Source: the weight is Rezatofighi et al., Generalized Intersection over Union, 2019; the assignment by shortest
    augmenting paths is Crouse, On implementing 2D rectangular assignment algorithms, 2016.

    >>> found = match(
    ...     np.array([[0, 0, .5, .5], [.5, .5, .9, .9]]), np.array([0, 2]),
    ...     np.array([[.5, .5, 1, 1]]), np.array([0, 1]),
    ... )
    >>> found.predicted.tolist(), found.annotated.tolist(), found.iou.round(2).tolist()
    ([0, 1], [-1, 0], [nan, 0.64])
    """
    if not 0.0 <= min_iou <= 1.0:
        raise ValueError(f"min_iou is {min_iou}; it must be in [0, 1]")
    starts = _checked_offsets("predicted", predicted_offsets, len(predicted))
    other_starts = _checked_offsets("annotated", annotated_offsets, len(annotated))
    if len(starts) != len(other_starts):
        raise OffsetsError(f"{len(starts) - 1} images are predicted, {len(other_starts) - 1} annotated")
    # Both sides in one array, so that the shorter side can be the rows and the longer the columns of every image.
    boxes = np.concatenate([np.asarray(side, dtype=np.float64).reshape(-1, 4) for side in (predicted, annotated)])
    valid = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    if not (valid.all() and np.isfinite(boxes).all()):
        row = int(np.argmin(valid & np.isfinite(boxes).all(axis=1)))
        on_left = row < len(predicted)
        raise BoxShapeError("predicted" if on_left else "annotated", row if on_left else row - len(predicted))
    partner = _partners(boxes, starts, other_starts + len(predicted), min_iou)[: len(predicted)]
    return _listed(boxes, partner, starts, other_starts)


def _checked_offsets(name: str, offsets: Ints, boxes: int) -> Ints:
    given = np.asarray(offsets)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
        raise OffsetsError(f"{name}_offsets must be whole numbers, one more than there are images")
    given = given.astype(np.int64)
    if given[0] != 0 or given[-1] != boxes or (given[1:] < given[:-1]).any():
        raise OffsetsError(f"{name}_offsets must rise from 0 to {boxes}, the number of {name} boxes")
    return given


def _partners(boxes: Floats, starts: Ints, other_starts: Ints, min_iou: float) -> Ints:
    """For each row of `boxes` the row that it is paired with, or -1."""
    partner = np.full(len(boxes), -1, dtype=np.int64)
    counts, other_counts = np.diff(starts), np.diff(other_starts)
    short, long = np.minimum(counts, other_counts), np.maximum(counts, other_counts)
    swapped = counts > other_counts
    row_starts = np.where(swapped, other_starts[:-1], starts[:-1])
    column_starts = np.where(swapped, starts[:-1], other_starts[:-1])

    def pair(rows: Ints, columns: Ints) -> None:
        partner[rows] = columns
        partner[columns] = rows

    waiting = _Waiting()
    for images in _of_equal_size(short, long):
        n, m = int(short[images[0]]), int(long[images[0]])
        at_once = max(1, PAIRS_AT_ONCE // (n * m))
        for begin in range(0, len(images), at_once):
            chosen = images[begin : begin + at_once]
            rows = row_starts[chosen] + np.arange(n)[:, None]
            columns = column_starts[chosen] + np.arange(m)[:, None]
            if m == 1 and min_iou == 0.0:  # one box and one box: there is nothing to decide
                pair(rows[0], columns[0])
                continue
            weights = _weights(boxes, rows, columns, min_iou)
            if m > LARGEST_TOGETHER:
                for image in range(len(chosen)):
                    column = assigned_alone(weights[..., image])
                    paired = np.flatnonzero(column >= 0)
                    pair(rows[paired, image], columns[column[paired], image])
                continue
            best, clear = _best_of_each(weights)
            paired_rows, paired_images = np.nonzero((best >= 0) & clear)
            pair(
                rows[paired_rows, paired_images],
                columns[best[paired_rows, paired_images], paired_images],
            )
            clashing = np.flatnonzero(~clear)
            if clashing.size:
                if not waiting.takes(m, clashing.size):
                    pair(*waiting.solved())
                waiting.add(weights[..., clashing], rows[0, clashing], columns[0, clashing])
    pair(*waiting.solved())
    return partner


def _of_equal_size(short: Ints, long: Ints) -> Iterator[Ints]:
    """The images that have boxes on both sides, in groups of equal size, the same longer side in turn."""
    both = np.flatnonzero(short > 0)
    if not both.size:
        return
    size: NDArray[Any] = long[both] * (int(short.max()) + 1) + short[both]
    if int(size.max()) < 1 << 16:
        size = size.astype(np.uint16)  # for which NumPy's stable sort counts instead of comparing
    order = np.argsort(size, kind="stable")
    cuts = np.flatnonzero(np.diff(size[order])) + 1
    for begin, end in pairwise([0, *cuts.tolist(), len(order)]):
        yield both[order[begin:end]]


def _weights(boxes: Floats, rows: Ints, columns: Ints, min_iou: float) -> Floats:
    """Shape (n, m, images), in `UNITS`; -1 where a pair is forbidden.

    The images come last: then each step of the arithmetic runs over thousands of numbers in a row, where runs as
    short as an image has boxes would cost more to begin than to do.
    """
    iou, giou = overlaps(_sides(boxes, rows)[:, :, None], _sides(boxes, columns)[:, None, :])
    giou += 1.0
    giou *= UNITS
    np.rint(giou, out=giou)
    if min_iou > 0.0:
        giou[iou < min_iou - IOU_ROUNDING] = -1.0
    return giou


def _sides(boxes: Floats, rows: Ints) -> Floats:
    """Shape (4, ...), as `overlaps` wants them. Whole boxes are fetched first: each is one trip to memory."""
    return np.ascontiguousarray(np.moveaxis(np.take(boxes, rows, axis=0), -1, 0))


def _best_of_each(weights: Floats) -> tuple[Ints, Bools]:
    """For each row of each image its best column, -1 where all are forbidden; and the images where no two clash.

    Where none do, this is the assignment: no row can do better, so none is better; and each row has the earliest
    of its best columns, so none of the equally good ones comes before it.
    """
    columns = weights.shape[1]
    # Weight and column in one number, so that one pass finds the greatest weight and its earliest column. It has
    # 41 bits for the weight and 5 for the column.
    places = 1 << (columns - 1).bit_length()
    keys = weights * float(places)
    keys += np.arange(columns - 1, -1, -1, dtype=np.float64)[:, None]
    best = keys.max(axis=1).astype(np.int64)
    column = columns - 1 - (best & (places - 1))
    taken = np.left_shift(1, column)
    allowed = best >= 0
    if not allowed.all():
        column[~allowed] = -1
        taken[~allowed] = 0
    return column, taken.sum(axis=0) == np.bitwise_or.reduce(taken, axis=0)


class _Waiting:
    """Images with clashes that wait to be solved together; all have the same number of columns."""

    def __init__(self) -> None:
        self._columns = 0
        self._images = 0
        self._parts: list[tuple[Floats, Ints, Ints]] = []

    def takes(self, columns: int, images: int) -> bool:
        """Whether so many more images of so many columns can wait together with those that do."""
        return not self._images or (
            columns == self._columns and (self._images + images) * columns * columns <= PAIRS_WAITING
        )

    def add(self, weights: Floats, first_rows: Ints, first_columns: Ints) -> None:
        self._columns = weights.shape[1]
        self._images += weights.shape[2]
        self._parts.append((weights, first_rows, first_columns))

    def solved(self) -> tuple[Ints, Ints]:
        """The pairs of all that waited, as rows of `boxes`; nothing waits afterwards."""
        parts, self._parts = self._parts, []
        images, self._images = self._images, 0
        if not images:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        rows = max(weights.shape[0] for weights, _, _ in parts)
        forbidden = any(float(weights.min()) < 0.0 for weights, _, _ in parts)
        cost = np.full((images, rows, self._columns + (rows if forbidden else 0)), np.inf)
        counts = np.empty(images, dtype=np.int64)
        begin = 0
        for weights, _, _ in parts:
            end = begin + weights.shape[2]
            cost[begin:end, : weights.shape[0], : weights.shape[1]] = -weights.transpose(2, 0, 1)
            counts[begin:end] = weights.shape[0]
            begin = end
        if forbidden:
            let_rows_be_alone(cost)
        column = assigned_together(cost, counts)
        image, row = np.nonzero((column >= 0) & (column < self._columns))
        first_rows = np.concatenate([part[1] for part in parts])
        first_columns = np.concatenate([part[2] for part in parts])
        return first_rows[image] + row, first_columns[image] + column[image, row]


def _listed(boxes: Floats, partner: Ints, starts: Ints, other_starts: Ints) -> Matches:
    """The pairs and the boxes that stayed alone, in order.

    Args:
        boxes: the predicted boxes, and behind them the annotated ones.
        partner: for each predicted box the row of `boxes` that it is paired with, or -1.
        starts: the offsets of the predicted boxes.
        other_starts: the offsets of the annotated boxes.
    """
    here, images = len(partner), len(starts) - 1
    paired = np.flatnonzero(partner >= 0)
    partner_row = partner[paired]
    alone = np.ones(len(boxes) - here, dtype=np.bool_)
    alone[partner_row - here] = False
    alone_rows = np.flatnonzero(alone)
    alone_before = np.searchsorted(alone_rows, other_starts)  # how many before each image
    counts, alone_counts = np.diff(starts), np.diff(alone_before)
    # A predicted box stands behind the lone annotated ones of the images before, and the other way about.
    place = np.arange(here) + np.repeat(alone_before[:-1], counts)
    place_alone = np.arange(len(alone_rows)) + np.repeat(starts[1:], alone_counts)
    total = here + len(alone_rows)
    predicted, annotated = np.full(total, -1, dtype=np.int64), np.full(total, -1, dtype=np.int64)
    iou, giou = np.full(total, np.nan), np.full(total, np.nan)
    predicted[place] = np.arange(here)
    annotated[place_alone] = alone_rows
    place = place[paired]
    annotated[place] = partner_row - here
    for begin in range(0, len(paired), PAIRS_AT_ONCE):
        part = slice(begin, begin + PAIRS_AT_ONCE)
        found = overlaps(_sides(boxes, paired[part]), _sides(boxes, partner_row[part]))
        iou[place[part]], giou[place[part]] = found
    return Matches(np.repeat(np.arange(images), counts + alone_counts), predicted, annotated, iou, giou)
