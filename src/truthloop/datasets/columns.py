"""The documents of a range of images as columns of numbers: images, versions, labels and boxes are numbered. Pure.

What is odd about a document (an unusual shape, a box that can't be used) makes its image odd, which leaves it to
`rule.decide`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import repeat
from typing import TypeAlias

import bson
import numpy as np

from truthloop.boxes import CENTER, CORNERS, LARGEST
from truthloop.datasets import layouts
from truthloop.datasets.layouts import Batch, Bools, Floats, Ints, Layout, Rows, Unusual, Value
from truthloop.datasets.rule import NO_FACE
from truthloop.versions import version_key

Id: TypeAlias = bytes  # of an image, in UTF-8
Parse: TypeAlias = Callable[[bytes], Layout]

NO_LABEL = -1


class Images:
    """The images of `metadata`, numbered; which of them are odd; and the ids that it doesn't have."""

    def __init__(self, metadata: Sequence[Batch]) -> None:
        self._numbers: dict[Id, int] = {}
        for batch in metadata:
            rows, unusual = layouts.read(batch, _parse_known)
            for each in rows:
                self._numbers.update(dict.fromkeys(each.texts, 0))
            for place in unusual.tolist():
                self._numbers.update(dict.fromkeys(_id_of(batch.document(place)), 0))
        self.ids = list(self._numbers)
        self._numbers = dict(zip(self.ids, range(len(self.ids)), strict=True))
        self.odd = np.zeros(len(self.ids), np.bool_)
        self.unknown: set[Id] = set()

    def __len__(self) -> int:
        return len(self.ids)

    def numbers(self, rows: Rows) -> Ints:
        """The numbers of the documents' images; -1 where `metadata` doesn't have it."""
        found = np.fromiter(map(self._numbers.get, rows.texts, repeat(-1)), np.int64, len(rows.texts))
        for place in np.flatnonzero(found < 0).tolist():
            self.unknown.add(rows.texts[place])
        return found

    def refuse(self, unusual: Iterable[bytes]) -> None:
        """Leaves the images of documents of unusual shape to `decide`."""
        for data in unusual:
            for image in _id_of(data):
                number = self._numbers.get(image)
                if number is None:
                    self.unknown.add(image)
                else:
                    self.odd[number] = True

    def refuse_numbers(self, numbers: Ints) -> None:
        """Leaves images to `decide`."""
        self.odd[numbers[numbers >= 0]] = True

    def text(self, number: int) -> str:
        """The id of an image."""
        return self.ids[number].decode()


@dataclass(frozen=True, slots=True)
class Found:
    """What was read of a collection: each of its batches with the documents of each layout in it."""

    batches: list[tuple[Batch, list[Rows]]]

    @property
    def rows(self) -> list[Rows]:
        """The documents of all batches."""
        return [each for _, rows in self.batches for each in rows]


def read(batches: Iterable[Batch], parse: Parse, images: Images) -> Found:
    """Reads a collection's documents; the images of those that can't be read in bulk become odd."""
    found = []
    for batch in batches:
        rows, unusual = layouts.read(batch, parse)
        images.refuse(map(batch.document, unusual.tolist()))
        found.append((batch, rows))
    return Found(found)


class Versions:
    """The versions of models and tasks in the documents, numbered in their order."""

    def __init__(self, *found: Found) -> None:
        texts = {text for each in found for rows in each.rows for text in rows.constants if isinstance(text, str)}
        self.texts = sorted(texts, key=version_key)
        self.numbers = {text: number for number, text in enumerate(self.texts)}


class Boxes:
    """The boxes of all documents, and their labels, numbered as they were read."""

    def __init__(self) -> None:
        self.size = 0
        self.label_texts: list[str] = []
        self._label_numbers: dict[bytes, int] = {}
        self._sides: list[Floats] = []
        self._labels: list[Ints] = []

    def add(self, boxes: Batch) -> tuple[int, Bools, Bools]:
        """Takes boxes.

        Returns:
            The number of the first, the others follow; which of them can be used; and which were clipped.
        """
        count = len(boxes)
        sides, fit, labels = np.zeros((count, 4)), np.zeros(count, np.bool_), np.full(count, NO_LABEL)
        rows, _ = layouts.read(boxes, _parse_box)
        for each in rows:
            (in_center,) = each.constants
            fit[each.which] = (np.abs(each.numbers) <= LARGEST).all(axis=1)  # NaN isn't
            sides[each.which] = _corners(each.numbers) if in_center else each.numbers
            if each.texts:
                labels[each.which] = self._numbered(each.texts)
        fit &= _have_area(sides)
        outside: Bools = np.any((sides < 0.0) | (sides > 1.0), axis=1)
        if outside.any():
            sides = np.clip(sides, 0.0, 1.0)
            fit &= _have_area(sides)
        first = self.size
        self.size += count
        self._sides.append(sides)
        self._labels.append(labels)
        return first, fit, outside

    def _numbered(self, labels: list[bytes]) -> Ints:
        for new in set(labels) - self._label_numbers.keys():
            self._label_numbers[new] = len(self.label_texts)
            self.label_texts.append(new.decode())
        return np.fromiter(map(self._label_numbers.__getitem__, labels), np.int64, len(labels))

    def sides(self) -> Floats:
        """Left, top, right and bottom of all boxes, within the image: shape (size, 4)."""
        return np.concatenate(self._sides) if self._sides else np.empty((0, 4))

    def labels(self) -> Ints:
        """The number of each box's label in `label_texts`, or `NO_LABEL`."""
        return _ints(self._labels)


def _have_area(sides: Floats) -> Bools:
    return (sides[:, 0] < sides[:, 2]) & (sides[:, 1] < sides[:, 3])


def _corners(center: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        x, y, width, height = center.T
        return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


def _ints(parts: Sequence[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Documents:
    """Predictions or annotations of images that `metadata` has: column by column, in no order."""

    image: Ints
    version: Ints
    first: Ints  # number of the first box, the others follow
    boxes: Ints  # how many
    clipped: Ints  # how many of them were
    stamp: Floats  # NaN where a prediction has none that can be read


def predicted(found: Found, images: Images, versions: Versions, boxes: Boxes) -> Documents:
    """Predictions, read by `parse_prediction`."""
    return _documents(found, images, versions, boxes, drawn=False)


def drawn(found: Found, images: Images, versions: Versions, boxes: Boxes) -> Documents:
    """Annotations, read by `parse_annotation`."""
    return _documents(found, images, versions, boxes, drawn=True)


def _documents(found: Found, images: Images, versions: Versions, boxes: Boxes, *, drawn: bool) -> Documents:
    no_number = np.empty(0, np.int64)
    parts = [Documents(no_number, no_number, no_number, no_number, no_number, stamp=np.empty(0))]
    for batch, rows in found.batches:
        first, size, clipped, fit = _boxes_of(batch, rows, boxes, in_lists=not drawn)
        for each in rows:
            version, is_stamped = each.constants
            assert isinstance(version, str)
            stamp = each.numbers[:, 0] if is_stamped else np.full(len(each.which), np.nan)
            readable = np.abs(stamp) <= LARGEST  # NaN isn't
            if not drawn:  # of a prediction it decides nothing
                stamp, readable = np.where(readable, stamp, np.nan), np.ones(len(stamp), np.bool_)
            readable &= fit[each.which]
            image = images.numbers(each)
            images.refuse_numbers(image[~readable])
            known = np.flatnonzero(readable & (image >= 0))
            which = each.which[known]
            parts.append(
                Documents(
                    image=image[known],
                    version=np.full(len(known), versions.numbers[version]),
                    first=first[which],
                    boxes=size[which],
                    clipped=clipped[which],
                    stamp=stamp[known],
                )
            )
    return Documents(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Documents)))


def _boxes_of(batch: Batch, rows: list[Rows], boxes: Boxes, *, in_lists: bool) -> tuple[Ints, Ints, Ints, Bools]:
    """Takes the boxes of a batch's documents, which hold one each, or a list of them.

    Returns:
        Of each document the number of its first box, how many it has, how many of them were clipped, and whether
        all can be used.
    """
    parted = [(each.which, each.parts) for each in rows if each.parts is not None]
    which = _ints([places for places, _ in parted])
    begins = _ints([part.begins for _, part in parted])
    lengths = _ints([part.lengths for _, part in parted])
    found, counts, odd = Batch(batch.data, begins, lengths), np.ones(len(which), np.int64), None
    if in_lists:
        found, counts, odd = layouts.items(found)
    start, usable, outside = boxes.add(found)
    owner = np.repeat(which, counts)

    first, size = np.zeros(len(batch), np.int64), np.zeros(len(batch), np.int64)
    first[which], size[which] = start + np.cumsum(counts) - counts, counts
    clipped = np.bincount(owner[outside], minlength=len(batch))
    fit = np.ones(len(batch), np.bool_)
    fit[owner[~usable]] = False
    if odd is not None:
        fit[which[odd]] = False
    return first, size, clipped, fit


# -- what is read ------------------------------------------------------------------------------------------


def _parse_known(data: bytes) -> Layout:
    found = layouts.elements(data, 0)
    return _layout(found, taken=("image_id",), constants=())


def parse_prediction(data: bytes) -> Layout:
    """The layout of a document of `bbox.model`; its boxes are the part."""
    found = layouts.elements(data, 0)
    if "bboxes" not in found or "model_version" not in found or found["bboxes"].type != layouts.ARRAY:
        raise Unusual
    stamp = found.get("timestamp")
    stamps = [stamp] if stamp is not None and stamp.is_number else []  # one that is something else is as none
    return _layout(
        found,
        taken=("image_id", "model_version", "bboxes", *(["timestamp"] if stamps else ())),
        constants=(layouts.text_of(data, found["model_version"]), bool(stamps)),
        numbers=stamps,
        part=found["bboxes"],
    )


def parse_annotation(data: bytes) -> Layout:
    """The layout of a document of `bbox.human_annotation`; its box is the part."""
    found = layouts.elements(data, 0)
    if "task_version" not in found or "timestamp" not in found or "bbox" not in found:
        raise Unusual
    bbox = found["bbox"]
    is_null = bbox.type == layouts.NULL or (bbox.type == layouts.TEXT and layouts.text_of(data, bbox) == NO_FACE)
    if not is_null and bbox.type != layouts.OBJECT:
        raise Unusual
    return _layout(
        found,
        taken=("image_id", "task_version", "timestamp", "bbox"),
        constants=(layouts.text_of(data, found["task_version"]), True),
        numbers=[layouts.number(found["timestamp"])],
        part=None if is_null else bbox,
    )


def parse_audit(data: bytes) -> Layout:
    """The layout of a document of `bbox.human_audit`.

    Its constants: model version, task version, whether the boxes are correct, and the verdict or None.
    """
    found = layouts.elements(data, 0)
    if not {"model_version", "task_version", "bbox_correct", "timestamp"} <= found.keys():
        raise Unusual
    correct, said = found["bbox_correct"], found.get("verdict")
    if correct.type != layouts.BOOL:
        raise Unusual
    verdict_said = bool(data[said.begin]) if said is not None and said.type == layouts.BOOL else None
    taken = ["image_id", "model_version", "task_version", "bbox_correct", "timestamp"]
    if verdict_said is not None:
        taken.append("verdict")
    return _layout(
        found,
        taken=tuple(taken),
        constants=(
            layouts.text_of(data, found["model_version"]),
            layouts.text_of(data, found["task_version"]),
            bool(data[correct.begin]),
            verdict_said,
        ),
        numbers=[layouts.number(found["timestamp"])],
    )


def _parse_box(data: bytes) -> Layout:
    """The layout of a box: its notation, its four numbers, and its label where it has one.

    What else it has doesn't matter, such as a score.
    """
    found = layouts.elements(data, 0)
    in_center = "center_x" in found
    names, others = (CENTER, CORNERS) if in_center else (CORNERS, CENTER)
    if any(name in found for name in others) or not all(name in found for name in names):
        raise Unusual
    label = found.get("label")
    text = label if label is not None and label.type == layouts.TEXT else None
    taken = {*names} if text is None else {*names, "label"}
    return Layout(
        constants=(in_center,),
        text=text,
        numbers=[layouts.number(found[name]) for name in names],
        free=[value for name, value in found.items() if name not in taken],
    )


def _layout(
    found: dict[str, Value],
    *,
    taken: tuple[str, ...],
    constants: tuple[object, ...],
    numbers: Iterable[Value] = (),
    part: Value | None = None,
) -> Layout:
    """The layout of a document with an image's id; fields that aren't taken don't matter.

    Raises:
        Unusual: it has no id that is text.
    """
    text = found.get("image_id")
    if text is None or text.type != layouts.TEXT:
        raise Unusual
    return Layout(
        constants=constants,
        text=text,
        numbers=list(numbers),
        free=[value for name, value in found.items() if name not in taken],
        part=part,
    )


def _id_of(data: bytes) -> set[Id]:
    """The image of a document of unusual shape; none if its id isn't text."""
    image_id = bson.decode(data).get("image_id")
    return {image_id.encode()} if isinstance(image_id, str) else set()
