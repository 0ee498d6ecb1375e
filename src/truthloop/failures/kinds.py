"""What each predicted box of an image is worth against the annotated ones. Pure, no I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Any, TypeAlias

import numpy as np

from truthloop.assignment import Ints
from truthloop.boxes import Box, BoxError, Floats, delta, iou_matrix, matrix
from truthloop.matching import Matches, match

# A millionth of the image's side is less than a pixel; more places than that are noise of the arithmetic.
PLACES = 6
# An IoU is compared as it is shown, so that who computes again from the answer finds the same kind. Nine places
# leave the noise out: half of a box with sides like 0.1 and 0.7 would have 0.49999999999999994 of it.
IOU_PLACES = 9
# Both boxes say the same: the threshold of PASCAL VOC, in use ever since.
MATCH_IOU = 0.5
# One of them is off, but they mean the same thing; below it, they happen to touch.
MISPLACED_IOU = 0.1


class Kind(StrEnum):
    """What a box, or a pair of boxes, is."""

    MATCH = "match"  # paired, IoU >= 0.5
    MISPLACED = "misplaced"  # paired, IoU >= 0.1
    UNRELATED = (
        "unrelated"  # paired, since each is what is left for the other; to count as one missed, one spurious
    )
    MISSED = "missed"  # an annotated box alone
    SPURIOUS = "spurious"  # a predicted box alone
    DUPLICATE = "duplicate"  # a predicted box alone, on an annotated one that has its match already


class Side(StrEnum):
    """Where a box comes from."""

    PREDICTED = "predicted"
    ANNOTATED = "annotated"


# What a document of a box was read as: the box, or why it is none.
Read: TypeAlias = Box | BoxError


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """Four edges, or how far four edges were moved, in fractions of the image, rounded to 6 places."""

    top: float
    left: float
    bottom: float
    right: float

    @classmethod
    def rounded(cls, corners: dict[str, float]) -> "Edges":
        """From the edges by name; -0.0 becomes 0.0."""
        return cls(**{name: round(value, PLACES) + 0.0 for name, value in corners.items()})

    def document(self) -> dict[str, float]:
        """The fields in the order in which brief 1 writes them."""
        return {"top": self.top, "left": self.left, "bottom": self.bottom, "right": self.right}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A predicted box and the annotated one that it is paired with, or one of them alone."""

    image_id: str
    predicted: Edges | None
    annotated: Edges | None
    delta: Edges | None  # annotated minus predicted, of the rounded edges; None unless there are both
    iou: float | None  # of the boxes as stored, rounded to 9 places; None unless there are both
    kind: Kind

    def document(self) -> dict[str, Any]:
        """Brief 1's document, with `iou` and `kind`."""
        return {
            "image_id": self.image_id,
            "predicted": self.predicted and self.predicted.document(),
            "annotated": self.annotated and self.annotated.document(),
            "delta": self.delta and self.delta.document(),
            "iou": self.iou,
            "kind": self.kind.value,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalid:
    """A stored box that has no area or can't be read, so that it is compared with nothing."""

    side: Side
    index: int  # in the sequence that was given, from 0
    reason: str
    box: Box | None  # as stored, not rounded; None if it can't be read or isn't finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """One image's boxes: of one prediction, and of the annotations that it is compared with."""

    image_id: str
    predicted: Sequence[Read]
    annotated: Sequence[Read]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One image: an item for each predicted box in its order, then one for each missed box from left to right."""

    image_id: str
    items: tuple[Item, ...]
    invalid: tuple[Invalid, ...]  # the predicted ones first, then the annotated ones


def compare(images: Iterable[Boxes], *, min_iou: float = 0.0) -> list[Compared]:
    """Pair the boxes of each image and say what each is; many images at once cost little more than one.

    The order of an image's annotated boxes doesn't change the answer: they come from documents that have none, and
    are put in the order of their edges.

    A box counts by its edges as stored. So one that is thinner than a millionth of the image is compared like any
    other, though two of its edges may be equal once they are rounded for the answer: to leave it out would be to
    say that nothing was predicted or drawn there, and to show it wider would be to invent a box.

    Args:
        images: any number of them; each image stands for itself.
        min_iou: in [0, 1]; boxes whose IoU is lower aren't paired.

    Returns:
        One answer an image, in the order given. An image without boxes has no items.

    Raises:
        ValueError: `min_iou` isn't in [0, 1].

    >>> face, near = (
    ...     Box(left=0.2, top=0.18, right=0.53, bottom=0.49), Box(left=0.24, top=0.17, right=0.55, bottom=0.41)
    ... )
    >>> [found] = compare([Boxes(image_id="123abc", predicted=[face], annotated=[near])])
    >>> found.items[0].delta, found.items[0].kind.value
    (Edges(top=-0.01, left=0.04, bottom=-0.08, right=0.02), 'match')
    """
    split = [_Split.of(image) for image in images]
    predicted, starts = _flat([image.predicted for image in split])
    annotated, other_starts = _flat([image.annotated for image in split])
    matches = match(predicted, starts, annotated, other_starts, min_iou=min_iou)
    cuts = np.searchsorted(matches.image, np.arange(len(split) + 1)).tolist()
    pairs = _pairs(matches)
    return [
        Compared(
            image_id=image.image_id,
            items=_items(image, pairs[cuts[at] : cuts[at + 1]], int(starts[at]), int(other_starts[at])),
            invalid=image.invalid,
        )
        for at, image in enumerate(split)
    ]


# Rows of the predicted and the annotated box in the flat arrays, -1 for none, and their IoU.
_Pair: TypeAlias = tuple[int, int, float]


def _pairs(matches: Matches) -> list[_Pair]:
    return list(zip(matches.predicted.tolist(), matches.annotated.tolist(), matches.iou.tolist(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """One image's boxes, those that can be compared apart from those that can't."""

    image_id: str
    predicted: list[Box]
    annotated: list[Box]  # in the order of their edges
    invalid: tuple[Invalid, ...]

    @classmethod
    def of(cls, image: Boxes) -> "_Split":
        predicted, bad = _sorted_out(Side.PREDICTED, image.predicted)
        annotated, bad_annotated = _sorted_out(Side.ANNOTATED, image.annotated)
        annotated.sort(key=lambda box: (box.left, box.top, box.right, box.bottom))
        return cls(
            image_id=image.image_id, predicted=predicted, annotated=annotated, invalid=(*bad, *bad_annotated)
        )


def _sorted_out(side: Side, given: Sequence[Read]) -> tuple[list[Box], list[Invalid]]:
    valid, invalid = [], []
    for index, read in enumerate(given):
        if isinstance(read, BoxError):
            invalid.append(Invalid(side=side, index=index, reason=str(read), box=None))
        elif not _is_finite(read):
            invalid.append(Invalid(side=side, index=index, reason="not finite", box=None))
        elif not read.is_valid:
            faults = [
                text
                for text, holds in (
                    ("left >= right", read.left >= read.right),
                    ("top >= bottom", read.top >= read.bottom),
                )
                if holds
            ]
            invalid.append(Invalid(side=side, index=index, reason=", ".join(faults), box=read))
        else:
            valid.append(read)
    return valid, invalid


def _is_finite(box: Box) -> bool:
    return all(map(isfinite, (box.left, box.top, box.right, box.bottom)))


def _flat(sides: list[list[Box]]) -> tuple[Floats, Ints]:
    """All boxes one after another, and where each image's begin."""
    starts = np.zeros(len(sides) + 1, dtype=np.int64)
    np.cumsum([len(boxes) for boxes in sides], out=starts[1:])
    return matrix([box for boxes in sides for box in boxes]), starts


def _items(image: _Split, pairs: list[_Pair], start: int, other_start: int) -> tuple[Item, ...]:
    """The items of one image; `start` and `other_start` are the rows of its first boxes in the flat arrays."""
    items: list[Item] = []
    alone: list[tuple[int, Box]] = []  # predicted ones, with the place of their item
    matched: list[Box] = []  # annotated ones
    for row, other_row, iou in pairs:
        if row < 0:
            items.append(_alone(image.image_id, image.annotated[other_row - other_start], Kind.MISSED))
        elif other_row < 0:
            alone.append((len(items), image.predicted[row - start]))
            items.append(_alone(image.image_id, image.predicted[row - start], Kind.SPURIOUS))
        else:
            annotated = image.annotated[other_row - other_start]
            items.append(_paired(image.image_id, image.predicted[row - start], annotated, iou))
            if items[-1].kind is Kind.MATCH:
                matched.append(annotated)
    if alone and matched:
        closest = iou_matrix(matrix(matched), matrix([box for _, box in alone])).max(axis=0)
        for (place, predicted), iou in zip(alone, closest.tolist(), strict=True):
            if round(iou, IOU_PLACES) >= MATCH_IOU:
                items[place] = _alone(image.image_id, predicted, Kind.DUPLICATE)
    return tuple(items)


def _paired(image_id: str, predicted: Box, annotated: Box, iou: float) -> Item:
    shown = round(iou, IOU_PLACES)
    one, other = Edges.rounded(predicted.corners()), Edges.rounded(annotated.corners())
    return Item(
        image_id=image_id,
        predicted=one,
        annotated=other,
        delta=Edges.rounded(delta(annotated=_box(other), predicted=_box(one))),
        iou=shown,
        kind=_kind(shown),
    )


def _kind(iou: float) -> Kind:
    if iou >= MATCH_IOU:
        return Kind.MATCH
    return Kind.MISPLACED if iou >= MISPLACED_IOU else Kind.UNRELATED


def _alone(image_id: str, box: Box, kind: Kind) -> Item:
    edges = Edges.rounded(box.corners())
    missed = kind is Kind.MISSED
    return Item(
        image_id=image_id,
        predicted=None if missed else edges,
        annotated=edges if missed else None,
        delta=None,
        iou=None,
        kind=kind,
    )


def _box(edges: Edges) -> Box:
    return Box(left=edges.left, top=edges.top, right=edges.right, bottom=edges.bottom)
