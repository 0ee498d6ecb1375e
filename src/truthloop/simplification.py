"""Fewer vertices for a polygon, within a tolerance, without making it cross itself. Pure, no I/O."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# How often a ring's tolerance is halved where it would cross itself or vanish, before the exact one is taken.
HALVINGS = 4
# So many sides are compared with all others at a time: what that takes stays within megabytes.
_SIDES_AT_ONCE = 1024


def simplified(
    polygon: Sequence[NDArray[np.int32]], scale: NDArray[np.float64], tolerance: float
) -> list[NDArray[np.int32]]:
    """A polygon with some of its vertices left out, by Douglas and Peucker.

    Args:
        polygon: the outer ring and the holes; vertices on whole cells, no ring passing a point twice.
        scale: the pixels of a cell, (x, y).
        tolerance: in pixels; 0 leaves the polygon as it is.

    Returns:
        As many rings, each of at least three vertices and with an area, none of which crosses itself or another.
        A ring for which this tolerance doesn't give that gets half of it, and so on; in the end it stays exact.

    Source: Douglas and Peucker, Algorithms for the reduction of the number of points required to represent a
    digitized line or its caricature, 1973; as `cv2.approxPolyDP`.
    """
    rings, tolerances = list(polygon), [tolerance] * len(polygon)
    again = set(range(len(polygon))) if tolerance > 0 else set()
    while again:
        for index in again:
            rings[index], tolerances[index] = _simplified_ring(
                polygon[index], scale, tolerances[index], smallest=tolerance / 2**HALVINGS
            )
        again = {index for index in conflicts(rings) if tolerances[index] > 0}
        for index in again:
            tolerances[index] /= 2
    return rings


def _simplified_ring(
    ring: NDArray[np.int32], scale: NDArray[np.float64], tolerance: float, *, smallest: float
) -> tuple[NDArray[np.int32], float]:
    """One ring, and the tolerance at which it keeps three vertices and its sense; 0 where it stays exact."""
    import cv2

    points = (ring * scale).astype(np.float32)
    while tolerance >= smallest:
        kept = np.rint(cv2.approxPolyDP(points, tolerance, True)[:, 0, :] / scale).astype(np.int32)
        if len(kept) >= 3 and doubled_area(kept) * doubled_area(ring) > 0:
            return kept, tolerance
        tolerance /= 2
    return ring, 0.0


def doubled_area(ring: NDArray[np.int32]) -> int:
    """Twice the area within a ring: positive where it goes counterclockwise on the screen, as an outer one."""
    x, y = ring.astype(np.int64).T
    return int((x * (y[np.arange(len(y)) - 1] - np.append(y[1:], y[0]))).sum())


def conflicts(rings: Sequence[NDArray[np.int32]]) -> set[int]:
    """The numbers of the rings that touch themselves, cross or share part of a side with another, or lie outside.

    Two rings may touch at a point, as a hole does that is open at a corner only.

    Args:
        rings: the outer one, then the holes.
    """
    start = np.concatenate(rings).astype(np.int64)
    lengths = np.array([len(ring) for ring in rings])
    ends = lengths.cumsum()
    following = np.arange(1, len(start) + 1)
    following[ends - 1] = ends - lengths
    of_ring = np.repeat(np.arange(len(rings)), lengths)
    low, high = np.minimum(start, start[following]), np.maximum(start, start[following])
    found: set[int] = set()
    for begin in range(0, len(start), _SIDES_AT_ONCE):
        block = slice(begin, begin + _SIDES_AT_ONCE)
        near = low[block, None, 0] <= high[:, 0]
        near &= low[:, 0] <= high[block, None, 0]
        near &= low[block, None, 1] <= high[:, 1]
        near &= low[:, 1] <= high[block, None, 1]
        one, two = np.nonzero(near)
        one += begin
        # Neighbours in a ring share an end, and by right nothing else.
        meet = _meet(start, following, one[one < two], two[one < two], of_ring)
        found |= set(of_ring[meet].ravel().tolist())
    return found | _outside(rings)


def _meet(
    start: NDArray[np.int64],
    following: NDArray[np.int64],
    one: NDArray[np.int64],
    two: NDArray[np.int64],
    of_ring: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Those pairs of sides, shape (n, 2), that meet in a way that they shouldn't; the pairs' boxes overlap."""
    a, b, c, d = start[one], start[following[one]], start[two], start[following[two]]
    # On which side of the other's line each end lies: whole numbers, so exact.
    of_a, of_b = np.sign(_turn(c, d, a)), np.sign(_turn(c, d, b))
    of_c, of_d = np.sign(_turn(a, b, c)), np.sign(_turn(a, b, d))
    in_line = (of_c == 0) & (of_d == 0)
    cross = (of_a * of_b < 0) & (of_c * of_d < 0)
    touch = (of_a * of_b <= 0) & (of_c * of_d <= 0)
    common = np.minimum(np.maximum(a, b), np.maximum(c, d)) - np.maximum(np.minimum(a, b), np.minimum(c, d))
    overlap = in_line & (common.max(axis=1, initial=0) > 0)
    neighbours = (following[one] == two) | (following[two] == one)
    same_ring = of_ring[one] == of_ring[two]
    wrong = cross | overlap | (touch & same_ring & ~neighbours)
    return np.stack([one[wrong], two[wrong]], axis=1)


def _turn(a: NDArray[np.int64], b: NDArray[np.int64], c: NDArray[np.int64]) -> NDArray[np.int64]:
    turn: NDArray[np.int64] = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    return turn


def _outside(rings: Sequence[NDArray[np.int32]]) -> set[int]:
    """The holes that have come to lie outside of the outer ring, and this one with them.

    Sides that don't cross: the middle of a hole's side is inside with the whole hole, or on a touching point.
    """
    import cv2

    outer = rings[0].astype(np.float32)
    found = set()
    for index, hole in enumerate(rings[1:], start=1):
        middles = ((hole + hole[np.arange(len(hole)) - 1]) / 2).tolist()
        if not any(cv2.pointPolygonTest(outer, (x, y), False) > 0 for x, y in middles):
            found |= {0, index}
    return found
