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
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from truthloop.boxes import BoxShapeError, Floats, overlaps

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

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
                    column = _assigned_alone(weights[..., image])
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
            _let_rows_be_alone(cost)
        column = _assigned_together(cost, counts)
        image, row = np.nonzero((column >= 0) & (column < self._columns))
        first_rows = np.concatenate([part[1] for part in parts])
        first_columns = np.concatenate([part[2] for part in parts])
        return first_rows[image] + row, first_columns[image] + column[image, row]


def _let_rows_be_alone(cost: Floats) -> None:
    """In place: forbid what is forbidden, and give each row a column of its own, the last ones, that means nobody.

    A pair is always worth more than nobody, by a unit at least: a weight can be 0 by rounding.
    """
    rows, columns = cost.shape[-2:]
    cost -= 1.0  # of a forbidden pair it is 1 - 1
    cost[cost == 0.0] = np.inf
    every = np.arange(rows)
    cost[..., every, columns - rows + every] = 0.0


def _assigned_together(cost: Floats, counts: Ints) -> Ints:
    """The column of each row at the least cost, for many images at once.

    Args:
        cost: shape (images, rows, columns), whole numbers, infinite where forbidden; rows <= columns, and every
            image has an assignment of finite cost.
        counts: how many rows each image really has; those behind are left out.

    Returns:
        Shape (images, rows), -1 in the rows that are left out. Among equally good assignments the first, if they
        are compared column by column from the first row on.
    """
    images, rows, columns = cost.shape
    every = np.arange(images)
    wanted = cost.argmin(axis=2)
    owner = np.full((images, columns), -1, dtype=np.int64)
    for row in reversed(range(rows)):
        real = np.flatnonzero(row < counts)
        owner[real, wanted[real, row]] = row
    got = owner[every[:, None], wanted] == np.arange(rows)
    column = np.where(got, wanted, -1)
    price = np.zeros((images, columns))
    for row in range(rows):
        without = np.flatnonzero(~got[:, row] & (row < counts))
        if without.size:
            _find_a_column(cost, owner, column, price, without, row)
    _choose_the_first(cost, owner, column, price)
    return column


def _find_a_column(cost: Floats, owner: Ints, column: Ints, price: Floats, which: Ints, start: int) -> None:
    """In place: assign row `start` of each of the images `which`, moving other rows where that costs least.

    Dijkstra's algorithm from the row to the nearest free column, where an owned column leads on to its owner. All
    images take the same step at the same time; those that arrive drop out. The length of a step is the cost less
    the column's price, less the same for the column that the row has now, so it is never negative.
    """
    rows, columns = cost.shape[1:]
    every_row = cost.reshape(-1, columns)
    at = np.arange(len(which))
    row = np.full(len(which), start)
    before = np.zeros(len(which))  # to be added to the row's costs
    asked = price[which]
    reached = np.full((len(which), columns), np.inf)  # length of the shortest path to each column so far
    closed = np.zeros((len(which), columns))  # infinite where that path is final
    came_from = np.zeros((len(which), columns), dtype=np.int8)  # rows; LARGEST_TOGETHER fits
    while which.size:
        steps = every_row.take(which * rows + row, axis=0)
        steps -= asked
        steps += before[:, None]
        nearer = steps < reached
        np.minimum(reached, steps, out=reached)
        np.copyto(came_from, row[:, None], where=nearer, casting="same_kind")
        nearest = np.add(reached, closed, out=steps).argmin(axis=1)
        row = owner[which, nearest]
        arrived = row < 0
        if arrived.any():
            done = np.flatnonzero(arrived)
            end = nearest[done]
            lengths = reached.take(done, axis=0)
            price[which[done]] += np.minimum(lengths - lengths[np.arange(len(done)), end][:, None], 0.0)
            _move_along(came_from.take(done, axis=0), owner, column, which[done], end, start)
            left = np.flatnonzero(~arrived)
            which, row, nearest, at = which[left], row[left], nearest[left], at[: len(left)]
            asked, reached = asked.take(left, axis=0), reached.take(left, axis=0)
            closed, came_from = closed.take(left, axis=0), came_from.take(left, axis=0)
        closed[at, nearest] = np.inf
        before = reached[at, nearest] - every_row[which * rows + row, nearest] + asked[at, nearest]


def _move_along(
    came_from: NDArray[np.int8], owner: Ints, column: Ints, which: Ints, end: Ints, start: int
) -> None:
    """In place: from the path's end back to its start, each row takes the column that the path led it to."""
    while which.size:
        row = came_from[np.arange(len(which)), end].astype(np.int64)
        given_up = column[which, row]
        owner[which, end] = row
        column[which, row] = end
        left = np.flatnonzero(row != start)
        came_from, which, end = came_from[left], which[left], given_up[left]


def _choose_the_first(cost: Floats, owner: Ints, column: Ints, price: Floats) -> None:
    """In place: where several assignments are equally good, take the first.

    With prices that prove an assignment optimal, the optimal ones are exactly those in which each row takes a
    column that costs it, less the price, as little as its own, and in which the columns left free cost nothing.
    So another one exists just where rows can swap such columns in a circle; all free columns are one place in it.
    """
    images, rows, _ = cost.shape
    image, row = np.nonzero(column >= 0)
    own = np.full((images, rows), np.nan)
    own[image, row] = cost[image, row, column[image, row]] - price[image, column[image, row]]
    as_good = cost - price[:, None, :] == own[:, :, None]
    as_good[image, row, column[image, row]] = False
    image, row, other = np.unravel_index(np.flatnonzero(as_good), as_good.shape)  # many times as fast as nonzero
    if not image.size:
        return
    from scipy.sparse import csr_array  # here, since SciPy takes as long to import as all else together
    from scipy.sparse.csgraph import connected_components

    # One graph for all images: a row leads to those that own what it could take; the free columns are one node.
    nodes = rows + 1
    owned_by = owner[image, other]
    sources = image * nodes + row
    targets = image * nodes + np.where(owned_by < 0, rows, owned_by)
    open_images = np.unique(image[owned_by < 0])
    held = column[open_images]
    may_be_free = (held >= 0) & (np.take_along_axis(price[open_images], np.maximum(held, 0), axis=1) == 0.0)
    open_at, leaving = np.nonzero(may_be_free)
    sources = np.concatenate([sources, open_images[open_at] * nodes + rows])
    targets = np.concatenate([targets, open_images[open_at] * nodes + leaving])
    graph = csr_array((np.ones(len(sources), dtype=np.int8), (sources, targets)), shape=(images * nodes,) * 2)
    count, component = connected_components(graph, directed=True, connection="strong")
    if count == images * nodes:
        return
    in_circle = (np.bincount(component, minlength=count) > 1)[component].reshape(images, nodes)
    for tied in np.flatnonzero(in_circle.any(axis=1)):
        could_take = as_good[tied]
        held = np.flatnonzero(column[tied] >= 0)
        could_take[held, column[tied, held]] = True
        _take_earliest(could_take, owner[tied], column[tied], price[tied] == 0.0)


def _take_earliest(could_take: Bools, owner: Ints, column: Ints, may_be_free: Bools) -> None:
    """In place, for one image: each row in turn takes the earliest column that leaves the rest as good."""
    choices = [np.flatnonzero(row).tolist() for row in could_take]
    for row in range(len(column)):
        for wanted in choices[row]:
            if wanted >= column[row]:
                break
            moves = _moves(choices, owner, column, row, wanted, may_be_free)
            for mover, to in moves:
                owner[to] = mover if mover < len(column) else -1
                if mover < len(column):
                    column[mover] = to
            if moves:
                break


def _moves(
    choices: list[list[int]], owner: Ints, column: Ints, row: int, wanted: int, may_be_free: Bools
) -> list[tuple[int, int]]:
    """The moves, as (row, its new column), by which `row` takes `wanted` and only rows behind it move; or none.

    They are a circle: each takes what the next one gives up, and the last takes what `row` gives up. The free
    columns take part as one more row, the last, which gives up any of its columns and takes one that may be free.
    """
    free = len(column)
    given_up = int(column[row])
    first = int(owner[wanted]) if owner[wanted] >= 0 else free
    if first < row:  # it has chosen
        return []
    # By row that has to move: the row that takes its column, and which one that is.
    moved_by = {first: (row, wanted)}
    searched = [first]
    for mover in searched:
        could = choices[mover] if mover != free else np.flatnonzero((owner >= 0) & may_be_free).tolist()
        for to in could:
            if to == given_up:
                moves = [(mover, to)]
                while mover != row:
                    mover, to = moved_by[mover]
                    moves.append((mover, to))
                return moves
            holder = int(owner[to]) if owner[to] >= 0 else free
            if holder > row and holder not in moved_by:
                moved_by[holder] = (mover, to)
                searched.append(holder)
    return []


def _assigned_alone(weights: Floats) -> Ints:
    """The same for one image with many boxes, by SciPy: the column of each row, -1 for none."""
    from scipy.optimize import linear_sum_assignment  # here, for the same reason

    rows, columns = weights.shape
    cost = -weights
    if float(weights.min()) < 0.0:
        cost = np.concatenate([cost, np.full((rows, rows), np.inf)], axis=1)
        _let_rows_be_alone(cost)
    column = linear_sum_assignment(cost)[1].astype(np.int64)
    owner = np.full(cost.shape[1], -1, dtype=np.int64)
    owner[column] = np.arange(rows)
    # SciPy keeps its prices to itself; these are the lengths of the shortest paths in the same graph.
    own = cost[np.arange(rows), column]
    price = np.zeros(cost.shape[1])
    while True:
        lower = np.minimum(price, (cost - (own - price[column])[:, None]).min(axis=0))
        if (lower == price).all():
            break
        price = lower
    column = column[None]
    _choose_the_first(cost[None], owner[None], column, price[None])
    return np.where(column[0] < columns, column[0], -1)


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
