"""The assignment problem: who goes with whom at the least cost, for many small ones at once or a large one. Pure.

Costs are whole numbers, so sums of them are exact; among equally good assignments it is always the first that is
given. The reasons stand in docs/decisions/0006-matching.md.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from truthloop.boxes import Floats

Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


def let_rows_be_alone(cost: Floats) -> None:
    """In place: forbid what is forbidden, and give each row a column of its own, the last ones, that means nobody.

    A pair is always worth more than nobody, by a unit at least: a weight can be 0 by rounding.
    """
    rows, columns = cost.shape[-2:]
    cost -= 1.0  # of a forbidden pair it is 1 - 1
    cost[cost == 0.0] = np.inf
    every = np.arange(rows)
    cost[..., every, columns - rows + every] = 0.0


def assigned_together(cost: Floats, counts: Ints) -> Ints:
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


def assigned_alone(weights: Floats) -> Ints:
    """The same for one image with many boxes, by SciPy: the column of each row, -1 for none."""
    from scipy.optimize import linear_sum_assignment  # here, for the same reason

    rows, columns = weights.shape
    cost = -weights
    if float(weights.min()) < 0.0:
        cost = np.concatenate([cost, np.full((rows, rows), np.inf)], axis=1)
        let_rows_be_alone(cost)
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
