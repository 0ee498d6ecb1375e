"""The box: two notations, one value. Pure; every reader of stored boxes goes through here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

CORNERS = ("left", "top", "right", "bottom")
CENTER = ("center_x", "center_y", "width", "height")

NOTATIONS_MIXED = (
    "has fields of both notations; keep left, top, right, bottom or center_x, center_y, width, height"
)
# Beyond it the edges of a box in center notation could overflow to infinity when they are computed.
LARGEST = 1e300
# Below it an area has lost digits, or is 0 though the box has a width and a height.
SMALLEST_AREA = 1e-300


class BoxError(ValueError):
    """A document that isn't a box: `field` names the culprit ("" for the whole), `reason` says why."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field}: {reason}" if field else reason)


class BoxShapeError(ValueError):
    """A row of a matrix has left >= right or top >= bottom, or isn't finite; `row` says which one."""

    def __init__(self, name: str, row: int) -> None:
        self.row = row
        super().__init__(f"{name}[{row}] has left >= right or top >= bottom, or isn't finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle in fractions of the image: x grows to the right, y downwards, the image is [0, 1].

    It is kept as it came, so it may be invalid (`is_valid`) or reach over the image's edge (`is_outside`).
    """

    left: float
    top: float
    right: float
    bottom: float

    @property
    def is_valid(self) -> bool:
        """Whether it has an area: corners that are swapped, or a box without width or height, have none."""
        return self.left < self.right and self.top < self.bottom

    @property
    def is_outside(self) -> bool:
        """Whether any of its sides lies beyond the image."""
        return not all(0.0 <= side <= 1.0 for side in (self.left, self.top, self.right, self.bottom))

    def clipped(self) -> "Box":
        """The part that lies in the image; it is not valid where no part does, or where this box isn't."""
        return Box(
            left=min(max(self.left, 0.0), 1.0),
            top=min(max(self.top, 0.0), 1.0),
            right=min(max(self.right, 0.0), 1.0),
            bottom=min(max(self.bottom, 0.0), 1.0),
        )

    def corners(self) -> dict[str, float]:
        """The document in corner notation.

        >>> Box(left=0.1, top=0.2, right=0.3, bottom=0.4).corners()
        {'left': 0.1, 'top': 0.2, 'right': 0.3, 'bottom': 0.4}
        """
        return {"left": self.left, "top": self.top, "right": self.right, "bottom": self.bottom}

    def center(self) -> dict[str, float]:
        """The document in center notation.

        >>> Box(left=0.25, top=0.5, right=0.75, bottom=1.0).center()
        {'center_x': 0.5, 'center_y': 0.75, 'width': 0.5, 'height': 0.5}
        """
        return {
            "center_x": (self.left + self.right) / 2,
            "center_y": (self.top + self.bottom) / 2,
            "width": self.right - self.left,
            "height": self.bottom - self.top,
        }


def parse(document: Mapping[str, Any]) -> Box:
    """The box that a document describes, in either notation; fields that belong to neither don't matter.

    Raises:
        BoxError: a field is missing, isn't a number or isn't finite, or both notations are mixed.

    >>> parse({"center_x": 0.5, "center_y": 0.5, "width": 0.5, "height": 1})
    Box(left=0.25, top=0.0, right=0.75, bottom=1.0)
    """
    faults = box_faults(document)
    if faults:
        field, reason = faults[0]
        raise BoxError(field, reason)
    if "left" in document:
        left, top, right, bottom = (float(document[name]) for name in CORNERS)
    else:
        x, y, width, height = (float(document[name]) for name in CENTER)
        left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return Box(left=left, top=top, right=right, bottom=bottom)


def box_faults(document: object) -> list[tuple[str, str]]:
    """All the faults for which a value can't be read as a box, as (field, reason); none if it can.

    >>> box_faults({"left": 0.1, "top": "0.2", "right": 0.3})
    [('top', 'not a number'), ('bottom', 'missing')]
    """
    if not isinstance(document, Mapping):
        return [("", "not a box")]
    has_corners = any(name in document for name in CORNERS)
    has_center = any(name in document for name in CENTER)
    if has_corners and has_center:
        return [("", NOTATIONS_MIXED)]
    if not has_corners and not has_center:
        return [("", "has neither left, top, right, bottom nor center_x, center_y, width, height")]
    names = CORNERS if has_corners else CENTER
    return [
        (name, reason)
        for name in names
        if (reason := number_fault(document[name]) if name in document else "missing")
    ]


def number_fault(value: object) -> str | None:
    """Why a value is no number that can be computed with; None if it is one. A bool is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "not a number"
    if value - value != 0:  # infinities and NaN; an integer of any size is exact here
        return "not finite"
    return None if -LARGEST <= value <= LARGEST else "too large"


def matrix(boxes: list[Box]) -> Floats:
    """The boxes as rows (left, top, right, bottom): shape (N, 4), N may be 0."""
    rows = [(box.left, box.top, box.right, box.bottom) for box in boxes]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def iou_matrix(annotated: Floats, predicted: Floats) -> Floats:
    """Intersection over union of each annotated box with each predicted box.

    Args:
        annotated: shape (N, 4), rows (left, top, right, bottom), fractions of the image (boxes may reach
            beyond it); x grows to the right, y downwards.
        predicted: shape (M, 4), same order and unit.

    Returns:
        Shape (N, M), values in [0, 1]. N or M may be 0.

    Raises:
        BoxShapeError: a row has left >= right or top >= bottom.

    Source: overlap a_o in Everingham et al., The PASCAL VOC Challenge, 2010.

    >>> iou_matrix(np.array([[0, 0, .5, .5]]), np.array([[0, 0, .5, 1.]]))
    array([[0.5]])
    """
    for name, rows in (("annotated", annotated), ("predicted", predicted)):
        valid = (rows[:, 0] < rows[:, 2]) & (rows[:, 1] < rows[:, 3])
        if not valid.all():
            raise BoxShapeError(name, int(np.argmin(valid)))
    return overlaps(annotated.T[:, :, None], predicted.T[:, None, :])[0]


def overlaps(one: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Intersection over union and generalised intersection over union, of each box with its counterpart.

    Args:
        one: shape (4, ...), the left, top, right and bottom sides of valid boxes, in that order, in any unit.
            The sides come first so that each is one array without gaps, however many boxes there are.
        other: shape (4, ...), the same; both are broadcast against each other.

    Returns:
        IoU in [0, 1] and GIoU in [-1, 1], each of the broadcast shape without the 4. GIoU is the IoU less the
        share of both boxes' hull that belongs to neither of them, so it tells near from far where the IoU is 0.
        Boxes so thin or so large that their area isn't a float have the IoU 0 and the GIoU -1.

    Source: overlap a_o in Everingham et al., The PASCAL VOC Challenge, 2010; Rezatofighi et al., Generalized
    Intersection over Union, 2019.

    >>> iou, giou = overlaps(np.array([0, 0, .5, 1.]), np.array([.5, 0, 1., .5]))
    >>> float(iou), float(giou)
    (0.0, -0.25)
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        wide, wide_other = one[2] - one[0], other[2] - other[0]
        high, high_other = one[3] - one[1], other[3] - other[1]
        across = np.minimum(one[2], other[2]) - np.maximum(one[0], other[0])
        down = np.minimum(one[3], other[3]) - np.maximum(one[1], other[1])
        # The hull's sides: what both boxes have together, less what they share, or plus the gap between them.
        hull = wide + wide_other
        hull -= across
        hull *= (high + high_other) - down
        across = np.maximum(across, 0.0)
        across *= np.maximum(down, 0.0)
        union = wide * high + wide_other * high_other
        union -= across
        if not union.size or (union.min() > SMALLEST_AREA and hull.max() < LARGEST):
            iou: Floats = across / union
            filled: Floats = union / hull
        else:
            measurable = (union > SMALLEST_AREA) & (hull < LARGEST)
            iou = np.divide(across, union, out=np.zeros_like(union), where=measurable)
            filled = np.divide(union, hull, out=np.zeros_like(union), where=measurable)
    # Rounding can lift either above 1 by a last digit.
    iou = np.minimum(iou, 1.0)
    giou = np.minimum(filled, 1.0)
    giou -= 1.0
    giou += iou
    return iou, giou


def delta(*, annotated: Box, predicted: Box) -> dict[str, float]:
    """How far each edge was moved: annotated minus predicted."""
    return {
        "left": annotated.left - predicted.left,
        "top": annotated.top - predicted.top,
        "right": annotated.right - predicted.right,
        "bottom": annotated.bottom - predicted.bottom,
    }
