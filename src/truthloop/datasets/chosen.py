"""What the dataset takes of each image: the rule of `rule.decide` on columns of numbers, for all at once. Pure."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from truthloop.boxes import LARGEST
from truthloop.datasets.columns import Documents, Found, Images, Versions
from truthloop.datasets.layouts import Bools, Floats, Ints, Rows
from truthloop.review.verdict import Audit, verdict

# What audits say, as a number.
NONE, FALSE, TRUE = -1, 0, 1
SAID = {NONE: None, FALSE: False, TRUE: True}


@dataclass(frozen=True, slots=True)
class Chosen:
    """Of each image, what one kind of source gives it: column by column, in the order of the images' numbers."""

    has: Bools  # whether it gives anything
    version: Ints
    stamp: Floats  # NaN for none
    boxes: Ints
    first: Ints  # where the first box stands in `order`
    order: Ints  # numbers of boxes, an image's one after the other
    clipped: Ints


def human(drawn: Documents, images: Images, sides: Floats) -> Chosen:
    """The annotations that hold; an image of which two may be one becomes odd.

    Args:
        drawn: all annotations.
        images: which are odd is noted there.
        sides: of all boxes.
    """
    order = np.lexsort((drawn.version, drawn.stamp, drawn.image))
    last = order[_last_of_each(drawn.image[order])]
    count = len(images)
    has, version, stamp = np.zeros(count, np.bool_), np.zeros(count, np.int64), np.zeros(count)
    has[drawn.image[last]] = True
    version[drawn.image[last]] = drawn.version[last]
    stamp[drawn.image[last]] = drawn.stamp[last]
    # An annotation that is null adds no box.
    mine = np.flatnonzero((drawn.version == version[drawn.image]) & (drawn.boxes > 0))
    image = drawn.image[mine]
    box = sides[drawn.first[mine]]
    order = np.lexsort((*box.T[::-1], drawn.stamp[mine], image))
    mine, image, box = mine[order], image[order], box[order]
    same = (image[1:] == image[:-1]) & (drawn.stamp[mine][1:] == drawn.stamp[mine][:-1])
    images.odd[image[1:][same & (box[1:] == box[:-1]).all(axis=1)]] = True  # perhaps one document, twice
    boxes = np.bincount(image, minlength=count)
    clipped = np.bincount(image, weights=drawn.clipped[mine], minlength=count).astype(np.int64)
    return Chosen(has, version, stamp, boxes, np.cumsum(boxes) - boxes, drawn.first[mine], clipped)


def model(predicted: Documents, images: Images, drawn: Bools) -> Chosen:
    """The predictions of the newest version; an image that has several becomes odd, since they may differ.

    Args:
        predicted: all predictions.
        images: which are odd is noted there.
        drawn: which images have annotations; their predictions don't matter.
    """
    order = np.lexsort((predicted.version, predicted.image))
    image, version = predicted.image[order], predicted.version[order]
    twice = image[1:][(image[1:] == image[:-1]) & (version[1:] == version[:-1])]
    images.odd[twice[~drawn[twice]]] = True
    last = order[_last_of_each(image)]
    image, count = predicted.image[last], len(images)

    def of_image(values: Any) -> Any:
        column = np.zeros(count, values.dtype)
        column[image] = values[last]
        return column

    has = np.zeros(count, np.bool_)
    has[image] = True
    total = int((predicted.first + predicted.boxes).max(initial=0))
    return Chosen(
        has=has,
        version=of_image(predicted.version),
        stamp=of_image(predicted.stamp),
        boxes=of_image(predicted.boxes),
        first=of_image(predicted.first),
        order=np.arange(total),
        clipped=of_image(predicted.clipped),
    )


def _last_of_each(image: Ints) -> Any:
    """In numbers that are sorted, where the last of each run of equal ones stands."""
    return np.flatnonzero(np.append(image[1:] != image[:-1], True)) if len(image) else image


def verdicts(audits: Found, images: Images, versions: Versions, predicted: Chosen) -> Ints:
    """What the audits say of the prediction that each image has: `NONE`, `FALSE` or `TRUE`."""
    rows = audits.rows
    parts: list[tuple[Ints, Ints, Floats]] = []
    for layout, each in enumerate(rows):
        image, stamp = images.numbers(each), each.numbers[:, 0]
        fit = np.abs(stamp) <= LARGEST  # NaN isn't
        images.refuse_numbers(image[~fit])
        mine = np.flatnonzero(fit & (image >= 0))
        number = versions.numbers[str(each.constants[0])]
        mine = mine[predicted.has[image[mine]] & (predicted.version[image[mine]] == number)]
        parts.append((image[mine], np.full(len(mine), layout), stamp[mine]))
    said = np.full(len(images), NONE)
    if not parts:
        return said
    image, rows_of, stamp = (np.concatenate(column) for column in zip(*parts, strict=True))
    answers = np.array([_answer(each) for each in rows])
    said[image] = answers[rows_of]
    several = np.bincount(image, minlength=len(images)) > 1
    for number, given in _audits_of(np.flatnonzero(several[image]), image, rows_of, stamp, rows):
        said[number] = TRUE if verdict(given) else FALSE
    return said


def _audits_of(
    which: Ints, image: Ints, rows_of: Ints, stamp: Floats, rows: list[Rows]
) -> Iterator[tuple[int, list[Audit]]]:
    found: dict[int, list[Audit]] = defaultdict(list)
    for number, row, moment in zip(
        image[which].tolist(), rows_of[which].tolist(), stamp[which].tolist(), strict=True
    ):
        _, task_version, correct, resolved = rows[row].constants
        assert isinstance(task_version, str)
        found[number].append(
            Audit(
                correct=correct is True,
                verdict=resolved if isinstance(resolved, bool) else None,
                task_version=task_version,
                timestamp=moment,
            )
        )
    yield from found.items()


def _answer(rows: Rows) -> int:
    """What audits of a layout say where they stand alone."""
    _, _, correct, resolved = rows.constants
    return TRUE if (correct if resolved is None else resolved) else FALSE
