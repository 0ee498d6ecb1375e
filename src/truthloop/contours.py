"""The objects in a class map and their outlines. Pure, no I/O.

An object is a connected component of one class, by 8-connectivity: cells that touch at a side or at a corner
belong together, so two cows that overlap are one object. What a class map doesn't tell apart, nobody can.

An outline runs along the sides of cells, not through their centres as `cv2.findContours` answers: there, an object
one cell wide has no area, and every object loses half a cell all around. So filling an unsimplified outline gives
back exactly the object's cells, and outlines of neighbours meet without a gap. Parts of an object that touch at a
corner only have an outline each; this keeps every ring free of points that it passes twice.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from truthloop.answers import Answer
from truthloop.errors import ModelRefused
from truthloop.polygons import Polygon, ious_of
from truthloop.simplification import simplified
from truthloop.tracing import Traced, trace

# Places after the point: a hundredth of a pixel, and of fractions less than that in any image that is accepted.
PIXEL_PLACES, FRACTION_PLACES = 2, 6

Vertex = tuple[float, float]


class Extent(Answer):
    """The smallest upright box around an object, as fractions of the image."""

    left: float = Field(ge=0, le=1, description="Fraction of the width.", examples=[0.02])
    top: float = Field(ge=0, le=1, description="Fraction of the height, downwards.", examples=[0.31])
    right: float = Field(ge=0, le=1, description="Fraction of the width.", examples=[0.77])
    bottom: float = Field(ge=0, le=1, description="Fraction of the height, downwards.", examples=[0.98])


class Ring(Answer):
    """A closed line of at least three vertices, each (x, y); the first one isn't repeated at the end."""

    pixels: list[Vertex] = Field(
        min_length=3,
        description="Vertices in pixels of the upright image; (0, 0) is the upper left corner of its first pixel.",
        examples=[[(12.0, 40.5), (12.0, 71.0), (38.5, 71.0)]],
    )
    fractions: list[Vertex] = Field(
        min_length=3,
        description="The same vertices as fractions of the image's width and height.",
        examples=[[(0.025, 0.1125), (0.025, 0.197222), (0.080208, 0.197222)]],
    )


class Outline(Answer):
    """A polygon: what lies within the outer ring and in none of the holes."""

    outer: Ring
    holes: list[Ring] = Field(description="Inside the outer ring, but not of the object.")


class ObjectOutline(Answer):
    """An object in an image: what it is, how sure the model is, where it is and what its outline looks like."""

    label: str = Field(description="The class, as the model's labels name it.", examples=["horse"])
    score: float = Field(
        ge=0, le=1, description="How sure the model is: the mean over the object's cells.", examples=[0.94]
    )
    box: Extent
    area: float = Field(ge=0, le=1, description="Fraction of the image that the object covers.", examples=[0.286])
    iou: float = Field(
        ge=0,
        le=1,
        description="What the simplification kept: intersection over union of these outlines and the object as "
        "the model saw it, counted in the model's cells. 1 where nothing was simplified.",
        examples=[0.985],
    )
    outlines: list[Outline] = Field(
        min_length=1, description="One polygon, or one for each part where parts touch at a corner only."
    )


def objects_of(
    classes: NDArray[np.uint8],
    scores: NDArray[np.float32],
    labels: Sequence[str],
    *,
    width: int,
    height: int,
    tolerance: float | None = None,
) -> list[ObjectOutline]:
    """The objects in a class map, largest first.

    Args:
        classes: shape (rows, columns), a grid of any size over the upright image; 0 is background.
        scores: same shape, in [0, 1]: how sure the model is of that class there.
        labels: the names of classes 1, 2, ... (`labels[0]` is class 1).
        width: the upright image's, in pixels.
        height: the same.
        tolerance: how far, in pixels of the image, a simplified outline may be from the exact one. 0 gives the
            exact one. None takes the size of one cell of the grid: finer than that are only its stairs.

    Returns:
        The objects; none where all is background.

    Raises:
        ModelRefused: a class has no label.

    >>> cat = objects_of(np.array([[1, 0], [0, 0]], np.uint8), np.ones((2, 2), np.float32), ["cat"],
    ...                  width=20, height=10)[0]
    >>> cat.label, cat.area, cat.outlines[0].outer.pixels
    ('cat', 0.25, [(10.0, 0.0), (0.0, 0.0), (0.0, 5.0), (10.0, 5.0)])
    """
    rows, columns = classes.shape
    _check_labels(classes, labels)
    scale = np.array([width / columns, height / rows])
    if tolerance is None:
        tolerance = default_tolerance((rows, columns), width=width, height=height)
    found = sorted(trace(classes, scores), key=lambda each: (-each.cells, each.value, _place(each)))
    exact = [each.polygons for each in found]
    given = [[simplified(polygon, scale, tolerance) for polygon in polygons] for polygons in exact]
    ious = ious_of(exact, given, rows=rows, columns=columns) if tolerance and found else [1.0] * len(found)
    return [
        _answer(each, labels[each.value - 1], polygons, iou, scale, (rows, columns))
        for each, polygons, iou in zip(found, given, ious, strict=True)
    ]


def default_tolerance(shape: tuple[int, int], *, width: int, height: int) -> float:
    """The tolerance in pixels where none is chosen: the longer side of one cell of the grid (rows, columns).

    >>> default_tolerance((257, 257), width=514, height=257)
    2.0
    """
    rows, columns = shape
    return max(width / columns, height / rows)


def fractions_of(classes: NDArray[np.uint8], labels: Sequence[str]) -> list[tuple[str, float]]:
    """What fraction of the image each class covers, the largest first; background isn't listed.

    Args:
        classes: shape (rows, columns); 0 is background.
        labels: the names of classes 1, 2, ...

    Raises:
        ModelRefused: a class has no label.

    >>> fractions_of(np.array([[0, 2], [2, 1]], np.uint8), ["cat", "dog"])
    [('dog', 0.5), ('cat', 0.25)]
    """
    _check_labels(classes, labels)
    counts = np.bincount(classes.ravel(), minlength=1)
    present = [value for value in np.argsort(-counts, kind="stable").tolist() if value and counts[value]]
    return [(labels[value - 1], float(counts[value] / classes.size)) for value in present]


def _check_labels(classes: NDArray[np.uint8], labels: Sequence[str]) -> None:
    highest = int(classes.max(initial=0))
    if highest > len(labels):
        raise ModelRefused(
            f"The model answers class {highest}, but its labels name only classes 1 to {len(labels)}. "
            "Give it a labels file with a line for each class."
        )


def _place(traced: Traced) -> list[int]:
    """Where an object is, top to bottom: no two are at one place."""
    first = min(traced.polygons[0][0].tolist(), key=lambda corner: (corner[1], corner[0]))
    return [first[1], first[0]]


def _answer(
    traced: Traced,
    label: str,
    polygons: Sequence[Polygon],
    iou: float,
    scale: NDArray[np.float64],
    shape: tuple[int, int],
) -> ObjectOutline:
    rows, columns = shape
    corners = np.concatenate([polygon[0] for polygon in traced.polygons])
    left, top = corners.min(axis=0) / (columns, rows)
    right, bottom = corners.max(axis=0) / (columns, rows)
    return ObjectOutline(
        label=label,
        score=traced.score,
        box=Extent(
            **{
                side: round(float(value), FRACTION_PLACES)
                for side, value in (("left", left), ("top", top), ("right", right), ("bottom", bottom))
            }
        ),
        area=traced.cells / (rows * columns),
        iou=round(iou, FRACTION_PLACES),
        outlines=[_outline(polygon, scale, shape) for polygon in polygons],
    )


def _outline(polygon: Polygon, scale: NDArray[np.float64], shape: tuple[int, int]) -> Outline:
    rows, columns = shape
    rings = [
        # Not checked once more, which would take as long as finding them.
        Ring.model_construct(
            pixels=_vertices(ring * scale, PIXEL_PLACES),
            fractions=_vertices(ring / (columns, rows), FRACTION_PLACES),
        )
        for ring in polygon
    ]
    return Outline(outer=rings[0], holes=rings[1:])


def _vertices(points: NDArray[np.float64], places: int) -> list[Vertex]:
    return [(x, y) for x, y in np.round(points, places).tolist()]
