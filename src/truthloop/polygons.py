"""Polygons with holes on a grid: which cells they cover, and how much of two of them is the same. Pure, no I/O."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# Shape (n, 2), n >= 3: the vertices (x, y) of a closed ring, without a repeated last one.
RingArray: TypeAlias = NDArray[np.int32] | NDArray[np.float64]
# The outer ring, then the holes.
Polygon: TypeAlias = Sequence[RingArray]


def toggles(rings: Iterable[RingArray], rows: int, columns: int) -> NDArray[np.int64]:
    """Where the inside of rings begins and ends, in column-major order (downwards, then to the right, as in COCO).

    A cell is inside where its centre is, by the even-odd rule: no cell is in two polygons that share a side.

    Args:
        rings: of any number of polygons, in cells; parts beyond the grid are clipped.
        rows: the grid's.
        columns: the grid's.

    Returns:
        Sorted, all different, of even number: the first cell of the first run, the cell after its last one, the
        first cell of the second run, and so on. Cell (row, column) has the number column * rows + row.

    >>> toggles([np.array([[1, 0], [1, 2], [2, 2], [2, 0]])], rows=3, columns=4)
    array([3, 5])
    """
    given = list(rings)
    if not given:
        return np.empty(0, np.int64)
    start = np.concatenate(given).astype(np.float64)
    end = np.concatenate([part for ring in given for part in (ring[1:], ring[:1])]).astype(np.float64)
    # The columns whose centre each side passes: from the first centre at or after its left end.
    low = np.ceil(np.minimum(start[:, 0], end[:, 0]) - 0.5).clip(0, columns).astype(np.int64)
    high = np.ceil(np.maximum(start[:, 0], end[:, 0]) - 0.5).clip(0, columns).astype(np.int64)
    passed = high - low
    side = np.repeat(np.arange(len(start)), passed)
    column = np.arange(len(side)) - np.repeat(np.cumsum(passed) - passed, passed) + low[side]
    along = (column + 0.5 - start[side, 0]) / (end[side, 0] - start[side, 0])
    y = start[side, 1] + along * (end[side, 1] - start[side, 1])
    row = np.ceil(y - 0.5).clip(0, rows).astype(np.int64)
    positions, times = np.unique(column * rows + row, return_counts=True)
    # Passed an even number of times at one cell: the run that ends there is the one that begins there.
    odd: NDArray[np.int64] = positions[times % 2 == 1]
    return odd


def cells_of(rings: Iterable[RingArray], rows: int, columns: int) -> NDArray[np.bool_]:
    """The cells inside rings: shape (rows, columns).

    >>> cells_of([np.array([[1, 0], [1, 2], [2, 2], [2, 0]])], rows=2, columns=3).astype(int)
    array([[0, 1, 0],
           [0, 1, 0]])
    """
    change = np.zeros(rows * columns + 1, np.uint8)
    change[toggles(rings, rows, columns)] = 1
    return np.bitwise_xor.accumulate(change[:-1]).reshape(columns, rows).T.astype(bool)


def ious_of(
    objects: Sequence[Sequence[Polygon]], others: Sequence[Sequence[Polygon]], *, rows: int, columns: int
) -> list[float]:
    """Intersection over union of each object with the other of its number, in whole cells.

    Args:
        objects: each one's polygons, in cells of the grid; none is empty.
        others: as many.
        rows: the grid's.
        columns: the grid's.
    """
    # Every object on a grid of its own, side by side, so that all are counted at once; between the grids is a free
    # column, for no run of one to go on in the next.
    wide = columns + 1
    one, two = (
        toggles(
            (
                ring + np.array([number * wide, 0])
                for number, each in enumerate(given)
                for polygon in each
                for ring in polygon
            ),
            rows,
            wide * len(given),
        )
        for given in (objects, others)
    )
    positions = np.concatenate([one, two])
    order = np.argsort(positions, kind="stable")
    place, lengths = positions[order][:-1] // (wide * rows), np.diff(positions[order])
    in_one = np.cumsum(order < len(one))[:-1] % 2 == 1
    in_two = np.cumsum(order >= len(one))[:-1] % 2 == 1

    def cells(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(place[inside], weights=lengths[inside], minlength=len(objects)).astype(np.float64)

    shared: list[float] = (cells(in_one & in_two) / cells(in_one | in_two)).tolist()
    return shared
