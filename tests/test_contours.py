"""The objects in a class map and their outlines."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from truthloop.contours import ObjectOutline, Ring, fractions_of, objects_of
from truthloop.errors import ModelRefused
from truthloop.polygons import cells_of

LABELS = ("cat", "dog", "cow")
class_maps = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 3))
)


def grid(text: str) -> np.ndarray:
    """A class map as it looks: `.` is background, digits are classes."""
    rows = text.split()
    return np.array([[0 if cell == "." else int(cell) for cell in row] for row in rows], np.uint8)


def exact(classes: np.ndarray, scores: np.ndarray | None = None) -> list[ObjectOutline]:
    """The objects with exact outlines, whose pixels are the cells."""
    rows, columns = classes.shape
    return objects_of(
        classes, ones(classes) if scores is None else scores, LABELS, width=columns, height=rows, tolerance=0
    )


def simplified(classes: np.ndarray, tolerance: float | None) -> list[ObjectOutline]:
    rows, columns = classes.shape
    return objects_of(classes, ones(classes), LABELS, width=columns, height=rows, tolerance=tolerance)


def ones(classes: np.ndarray) -> np.ndarray:
    return np.ones(classes.shape, np.float32)


def rings(found: ObjectOutline) -> list[Ring]:
    return [ring for outline in found.outlines for ring in (outline.outer, *outline.holes)]


def cells(found: ObjectOutline, classes: np.ndarray) -> np.ndarray:
    """The cells that an object's outlines cover."""
    return cells_of([np.array(ring.pixels) for ring in rings(found)], *classes.shape)


def signed_area(ring: Ring) -> float:
    x, y = np.array(ring.pixels).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


# -- what an object is ---------------------------------------------------------------------------------------


def test_cells_of_one_class_that_touch_at_a_corner_are_one_object_with_an_outline_for_each_part():
    (found,) = exact(grid("1. .1"))

    assert len(found.outlines) == 2
    assert [len(ring.pixels) for ring in rings(found)] == [4, 4]


def test_cells_of_two_classes_that_touch_are_two_objects():
    assert [found.label for found in exact(grid("1122 1122"))] == ["cat", "dog"]


@given(class_maps)
def test_objects_are_the_8_connected_components_of_each_class(classes):
    expected = {
        label: cv2.connectedComponents((classes == value).astype(np.uint8), connectivity=8)[0] - 1
        for value, label in enumerate(LABELS, start=1)
    }
    found = [each.label for each in exact(classes)]

    assert {label: found.count(label) for label in LABELS} == expected


@given(class_maps)
def test_filling_an_unsimplified_outline_gives_back_exactly_the_objects_cells(classes):
    covered = np.zeros(classes.shape, np.uint8)
    for found in exact(classes):
        inside = cells(found, classes)
        assert set(classes[inside].tolist()) == {LABELS.index(found.label) + 1}
        assert cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)[0] == 2
        covered += inside

    assert np.array_equal(covered, (classes > 0).astype(np.uint8))


@given(class_maps, st.integers(0, 2**32 - 1))
def test_score_area_and_box_are_those_of_the_cells(classes, seed):
    scores = np.random.default_rng(seed).random(classes.shape, np.float32)
    rows, columns = classes.shape
    for found in exact(classes, scores):
        inside = cells(found, classes)
        down, across = np.nonzero(inside)
        assert found.score == pytest.approx(scores[inside].mean(), abs=1e-6)
        assert found.area == pytest.approx(inside.mean())
        box = [across.min() / columns, down.min() / rows, (across.max() + 1) / columns, (down.max() + 1) / rows]
        assert [found.box.left, found.box.top, found.box.right, found.box.bottom] == pytest.approx(box, abs=1e-6)


def test_the_largest_object_comes_first():
    assert [round(found.area * 9) for found in exact(grid("1.2 1.. 1.2"))] == [3, 1, 1]


def test_an_image_of_background_has_no_objects():
    assert exact(grid("... ...")) == []


def test_a_map_of_one_cell_is_an_object():
    (found,) = exact(grid("3"))

    assert (found.label, found.area, len(found.outlines[0].outer.pixels)) == ("cow", 1.0, 4)


def test_a_class_without_a_label_is_refused():
    with pytest.raises(ModelRefused, match="answers class 7"):
        exact(grid("7"))
    with pytest.raises(ModelRefused, match="1 to 3"):
        fractions_of(grid("7"), LABELS)


# -- what an outline is --------------------------------------------------------------------------------------


def test_one_cell_is_a_square_and_not_a_point():
    (found,) = exact(grid("... .1. ..."))

    assert sorted(found.outlines[0].outer.pixels) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_a_hole_is_a_ring_of_its_own_that_goes_the_other_way_around():
    (found,) = exact(grid("111 1.1 111"))
    (outline,) = found.outlines

    assert sorted(outline.holes[0].pixels) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert signed_area(outline.outer) == -9
    assert signed_area(outline.holes[0]) == 1


def test_an_object_in_the_hole_of_another_of_its_class_is_another_object():
    found = exact(grid("11111 1...1 1.1.1 1...1 11111"))

    assert [(round(each.area * 25), len(each.outlines[0].holes)) for each in found] == [(16, 1), (1, 0)]


def test_what_four_cells_enclose_that_touch_at_corners_only_is_no_hole_but_outside_of_each():
    (found,) = exact(grid(".1. 1.1 .1."))

    assert [(len(outline.outer.pixels), outline.holes) for outline in found.outlines] == [(4, [])] * 4


def test_vertices_stand_only_where_the_outline_turns():
    (found,) = exact(grid("111 111"))

    assert len(found.outlines[0].outer.pixels) == 4


def test_pixels_are_those_of_the_image_and_fractions_of_its_sides():
    (found,) = objects_of(grid(".1 .."), ones(grid(".1 ..")), LABELS, width=640, height=100, tolerance=0)
    ring = found.outlines[0].outer

    assert sorted(ring.pixels) == [(320, 0), (320, 50), (640, 0), (640, 50)]
    assert sorted(ring.fractions) == [(0.5, 0), (0.5, 0.5), (1, 0), (1, 0.5)]


@given(class_maps)
def test_no_ring_passes_a_point_twice(classes):
    for found in exact(classes):
        for ring in rings(found):
            assert len(ring.pixels) == len(set(ring.pixels)) >= 4


# -- simplification ------------------------------------------------------------------------------------------


def test_by_default_the_stairs_of_a_slope_become_a_line():
    stairs = np.tril(np.ones((40, 40), np.uint8))

    (rough,), (found,) = exact(stairs), simplified(stairs, None)

    assert len(rough.outlines[0].outer.pixels) == 82
    assert len(found.outlines[0].outer.pixels) <= 5
    assert found.iou > 0.95


def test_the_default_tolerance_grows_with_the_size_of_a_cell():
    stairs = np.tril(np.ones((40, 40), np.uint8))

    def vertices(width: int, tolerance: float | None) -> int:
        (found,) = objects_of(stairs, ones(stairs), LABELS, width=width, height=width, tolerance=tolerance)
        return len(found.outlines[0].outer.pixels)

    assert vertices(400, None) == vertices(40, None) < vertices(400, 1.0)


def test_what_is_smaller_than_the_tolerance_stays_a_polygon():
    (found,) = simplified(grid("... .1. ..."), 1000)

    assert len(found.outlines[0].outer.pixels) >= 3
    assert found.iou == 1


@settings(deadline=None)
@given(class_maps, st.sampled_from([0.3, 0.8, 1.0, 1.5, 2.5, 6.0]))
def test_the_iou_is_that_of_the_cells_which_outline_and_object_cover(classes, tolerance):
    for before, after in zip(exact(classes), simplified(classes, tolerance), strict=True):
        one, two = cells(before, classes), cells(after, classes)
        assert after.iou == pytest.approx((one & two).sum() / (one | two).sum(), abs=1e-6)


@settings(deadline=None)
@given(class_maps, st.sampled_from([0.3, 0.8, 1.0, 1.5, 2.5, 6.0]))
def test_a_simplified_ring_has_an_area_and_crosses_neither_itself_nor_another(classes, tolerance):
    for found in simplified(classes, tolerance):
        for outline in found.outlines:
            assert signed_area(outline.outer) < 0
            assert all(signed_area(hole) > 0 for hole in outline.holes)
            sides = [
                (number, place, len(ring.pixels), a, b)
                for number, ring in enumerate((outline.outer, *outline.holes))
                for place, (a, b) in enumerate(itertools.pairwise([*ring.pixels, ring.pixels[0]]))
            ]
            for one, two in itertools.combinations(sides, 2):
                assert not cross(one[3], one[4], two[3], two[4])
                of_one_ring = one[0] == two[0]
                are_neighbours = (one[1] - two[1]) % one[2] in (1, one[2] - 1)
                if of_one_ring and not are_neighbours:
                    assert not any(lies_on(point, *two[3:]) for point in one[3:])
                    assert not any(lies_on(point, *one[3:]) for point in two[3:])


def turn(a, b, c) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def cross(a, b, c, d) -> bool:
    """Whether the lines from a to b and from c to d have a point in common that is inside of both."""
    return turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0


def lies_on(point, a, b) -> bool:
    return turn(a, b, point) == 0 and all(
        min(a[axis], b[axis]) <= point[axis] <= max(a[axis], b[axis]) for axis in (0, 1)
    )


@settings(deadline=None)
@given(class_maps, st.sampled_from([0.8, 1.0, 1.5, 2.5]))
def test_an_exact_outline_is_nowhere_farther_than_the_tolerance_from_the_simplified_one(classes, tolerance):
    for before, after in zip(exact(classes), simplified(classes, tolerance), strict=True):
        for old, new in zip(rings(before), rings(after), strict=True):
            corners = np.array(new.pixels, np.float32)
            for x, y in old.pixels:
                assert abs(cv2.pointPolygonTest(corners, (x, y), True)) <= tolerance + 1e-4


# -- fractions -----------------------------------------------------------------------------------------------


@given(class_maps)
def test_fractions_add_up_to_what_isnt_background_the_largest_first(classes):
    fractions = [part for _, part in fractions_of(classes, LABELS)]

    assert sum(fractions) == pytest.approx((classes > 0).mean())
    assert fractions == sorted(fractions, reverse=True)


def test_a_class_that_isnt_there_isnt_listed():
    assert fractions_of(grid(".22 .1."), LABELS) == [("dog", pytest.approx(1 / 3)), ("cat", pytest.approx(1 / 6))]
