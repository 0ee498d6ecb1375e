"""From a class map to the exact outlines of its objects: rings along the sides of cells. Pure, no I/O."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from truthloop.polygons import cells_of

# Directions, counterclockwise on the screen: 0 east, 1 north-east, 2 north, ... 7 south-east. By (dy + 1, dx + 1).
_DIRECTION = np.array([[3, 2, 1], [4, 8, 0], [5, 6, 7]], np.int64)
_NOWHERE = 8  # a step from a cell to itself: the border of a single cell
_EAST, _NORTH, _WEST, _SOUTH = 0, 2, 4, 6
_SIGN = np.array([1, 0, 0, 0, -1, 0, 0, 0])  # of what lies left of a side in that direction
# The corner (x, y) of a cell at which its side in that direction starts; the cell is on the left.
_START_OF_SIDE = np.zeros((8, 2), np.int32)
_START_OF_SIDE[[_EAST, _NORTH, _WEST, _SOUTH]] = [[1, 1], [1, 0], [0, 0], [0, 1]]


def _sides_of_ways() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each way through a cell, arriving * 9 + onwards: how many of its sides are border, and their directions.

    Counterclockwise, they are those between where the border comes from and where it goes on to; where it goes
    back to where it came from, that is a full turn, and a single cell has all four.
    """
    number, directions = np.zeros(81, np.int64), np.zeros((81, 4), np.int64)
    for arriving in range(9):
        for onwards in range(9):
            back = (arriving + 4) % 8
            between = [(back + turn) % 8 for turn in range(1, (onwards - back - 1) % 8 + 1)]
            sides = [direction for direction in between if direction % 2 == 0]
            if _NOWHERE in (arriving, onwards):
                sides = [_NORTH, _WEST, _SOUTH, _EAST]
            way = arriving * 9 + onwards
            number[way] = len(sides)
            directions[way, : len(sides)] = sides
    return number, directions


_SIDES_OF_WAY, _DIRECTIONS_OF_WAY = _sides_of_ways()


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """An object on the grid: its class, its polygons in cells, each (outer ring, holes...), and its cells."""

    value: int
    polygons: Sequence[Sequence[NDArray[np.int32]]]
    cells: int
    score: float  # the mean over its cells


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """The rings that run around given chains of cells, side by side of a cell."""

    corner: NDArray[np.int32]  # (sides, 2): where each starts
    direction: NDArray[np.int64]  # (sides,): where the cell has it: 0 east, 2 north, 4 west, 6 south
    first: NDArray[np.int64]  # (rings,): the first side of each ring

    def rings(self) -> list[NDArray[np.int32]]:
        """Each ring's corners where it turns."""
        before = np.arange(-1, len(self.corner) - 1)
        before[self.first] = np.append(self.first[1:], len(self.corner)) - 1
        turns = self.direction != self.direction[before]
        ends = np.add.reduceat(turns.astype(np.int64), self.first).cumsum()
        return np.split(self.corner[turns], ends[:-1])

    def sums(self, values: NDArray[np.float64]) -> tuple[list[int], list[float]]:
        """For each ring the number of cells within and the sum of their values; negative for a hole.

        Args:
            values: `cv2.integral` of them, shape (rows + 1, columns + 1).
        """
        # Of each row that a vertical side passes, what lies left of it: added at an east side, taken at a west
        # one. So an object's sum is had from its border, without a mask of its cells.
        x, y = self.corner[:, 0], self.corner[:, 1] - (self.direction == _EAST)
        sign = _SIGN[self.direction]
        below = np.minimum(y + 1, len(values) - 1)  # that of a side at the lower edge, which doesn't count
        cells = np.add.reduceat(sign * x, self.first)
        totals = np.add.reduceat(sign * (values[below, x] - values[y, x]), self.first)
        return cells.tolist(), totals.tolist()


def trace(classes: NDArray[np.uint8], scores: NDArray[np.float32]) -> list[Traced]:
    """All 8-connected components of all classes but 0.

    Args:
        classes: shape (rows, columns).
        scores: same shape, in [0, 1].

    Returns:
        In order of class. Rings have the object's cells on their left, as one walks along: an outer one goes
        counterclockwise on the screen, a hole clockwise.
    """
    import cv2

    if classes.size == 1:  # `cv2.compare` takes it for a scalar, and two scalars it doesn't compare
        classes, scores = np.pad(classes, (0, 1)), np.pad(scores, (0, 1))
    contours: list[NDArray[np.int32]] = []
    outer_of: list[int] = []  # for each contour, the outer one of its object
    values: list[int] = []
    for value in range(1, int(classes.max(initial=0)) + 1):
        # Faster than NumPy's ==, which makes booleans that have to be turned into bytes.
        mask = cv2.compare(classes, float(value), cv2.CMP_EQ)  # type: ignore[call-overload]
        borders, parents = _borders(mask)
        before = len(contours)
        outer_of += [before + (parent if parent >= 0 else index) for index, parent in enumerate(parents)]
        contours += borders
        values += [value] * len(borders)
    if not contours:
        return []
    sides = _sides(contours)
    rings = sides.rings()
    cells, totals = sides.sums(cv2.integral(scores, sdepth=cv2.CV_64F).astype(np.float64, copy=False))
    objects: dict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(rings)), key=lambda index: (outer_of[index], index != outer_of[index])):
        objects[outer_of[index]].append(index)
    found = []
    for outer, members in objects.items():
        covered = sum(cells[index] for index in members)
        score = sum(totals[index] for index in members) / covered
        found.append(
            Traced(
                value=values[outer],
                polygons=_apart([rings[index] for index in members]),
                cells=covered,
                score=min(1.0, max(0.0, score)),
            )
        )
    return found


def _borders(mask: NDArray[np.uint8]) -> tuple[list[NDArray[np.int32]], list[int]]:
    """The chains of cells that border each object and its holes, and for each hole's the object's (else -1)."""
    import cv2

    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return list(contours), hierarchy[0][:, 3].tolist() if contours else []  # type: ignore[arg-type]


def _sides(chains: Sequence[NDArray[np.int32]]) -> _Sides:
    """From chains of 8-connected cells, shape (n, 1, 2) each, to the sides that they have with the background.

    Counterclockwise around a cell of a chain, between the cell that it comes from and the one that it goes on to,
    is only background: what of this lies beside the cell, not at a corner, adds a side. All chains at once, since
    there may be many short ones.
    """
    lengths = np.array([len(chain) for chain in chains])
    ends = lengths.cumsum()
    cells = np.concatenate(chains)[:, 0, :]
    following = np.arange(1, len(cells) + 1)
    following[ends - 1] = ends - lengths
    step = cells[following] - cells
    onwards = _DIRECTION[step[:, 1] + 1, step[:, 0] + 1]
    arriving = np.empty_like(onwards)
    arriving[following] = onwards
    way = arriving * 9 + onwards
    number = _SIDES_OF_WAY[way]
    of_cell = np.repeat(np.arange(len(cells)), number)
    place = np.arange(len(of_cell)) - np.repeat(number.cumsum() - number, number)
    direction = _DIRECTIONS_OF_WAY[way[of_cell], place]
    return _Sides(
        corner=cells[of_cell] + _START_OF_SIDE[direction],
        direction=direction,
        first=np.append(0, np.add.reduceat(number, ends - lengths).cumsum()[:-1]),
    )


def _apart(rings: list[NDArray[np.int32]]) -> list[list[NDArray[np.int32]]]:
    """The polygons of one object: one, or one for each 4-connected part where parts touch at a corner only."""
    import cv2

    corners = np.concatenate(rings)
    place = np.sort(corners[:, 1].astype(np.int64) << 32 | corners[:, 0])
    # A corner that is passed twice is where cells touch at a corner: of two parts, or of one around a hole.
    if not np.any(place[1:] == place[:-1]):
        return [rings]
    origin = corners.min(axis=0)
    columns, rows = (corners.max(axis=0) - origin).tolist()
    cells = cells_of([ring - origin for ring in rings], rows, columns).astype(np.uint8)
    parts, numbers, boxes, _ = cv2.connectedComponentsWithStats(cells, connectivity=4)
    if parts == 2:  # the background and one part
        return [rings]
    polygons = []
    for part in range(1, parts):
        left, top, width, height = boxes[part, :4].tolist()
        mask = (numbers[top : top + height, left : left + width] == part).astype(np.uint8)
        borders, parents = _borders(mask)
        outline = [ring + origin + np.array([left, top], np.int32) for ring in _sides(borders).rings()]
        outer = parents.index(-1)
        polygons.append([outline[outer], *outline[:outer], *outline[outer + 1 :]])
    return polygons
