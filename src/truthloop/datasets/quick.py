"""The dataset rule for a range of images at once, for all of them that nothing is odd about.

What is odd (a document of an unusual shape, a box that can't be used, documents of one image that are equal,
predictions of one version that differ) is left to `rule.decide`, with all of its image.
tests/datasets/test_quick.py holds both ways equal.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, TypeAlias

import bson
import numpy as np
from bson.raw_bson import RawBSONDocument

from truthloop.boxes import CENTER, CORNERS, LARGEST, Box
from truthloop.datasets import layouts
from truthloop.datasets.entry_document import document
from truthloop.datasets.layouts import Batch, Bytes, Floats, Ints, Layout, Rows, Unusual
from truthloop.datasets.report import Kind, Tally
from truthloop.datasets.rule import NO_FACE, Entry, EntryBox, LeftOut, Reason
from truthloop.review.verdict import Audit, verdict
from truthloop.versions import version_key

Id: TypeAlias = bytes  # of an image, in UTF-8


@dataclass(slots=True)
class Quick:
    """What was decided of a range, and the ids of the images that are left to `decide`."""

    documents: list[Any] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    odd: list[str] = field(default_factory=list)


def decide_quickly(
    *,
    metadata: Sequence[Batch],
    predictions: Sequence[Batch],
    annotations: Sequence[Batch],
    audits: Sequence[Batch],
    version: int,
    without_incorrect: bool,
) -> Quick:
    """Decides the images of a range that nothing is odd about.

    Images and versions are numbered first, so that the rest is arrays of numbers: images in no order, versions
    in theirs.

    Args:
        metadata: the documents of the range.
        predictions: those of `bbox.model`.
        annotations: those of `bbox.human_annotation`.
        audits: those of `bbox.human_audit`.
        version: of the dataset, which its documents carry.
        without_incorrect: as in `rule.decide`.
    """
    images = _Images(metadata)
    read = [
        layouts.read(predictions, _parse_prediction),
        layouts.read(annotations, _parse_annotation),
        layouts.read(audits, _parse_audit),
    ]
    for _, unusual in read:
        images.refuse(unusual)
    versions = _Versions(read)
    boxes = _Boxes()
    drawn = _drawn(read[1][0], images, versions, boxes)
    predicted = _predicted(read[0][0], images, versions, boxes)
    sides = boxes.joined()
    human = _human(drawn, images, sides)
    model = _model(predicted, images, human.has)
    said = _verdicts(read[2][0], images, versions, model)

    quick = Quick()
    fine = ~images.odd
    entered = _Entered(images, versions, sides, version, quick)
    entered.humans(human, fine & human.has)
    taken = fine & model.has & ~human.has
    wrong = taken & (said == _FALSE) if without_incorrect else np.zeros_like(taken)
    entered.models(model, said, taken & ~wrong)
    quick.left_out = [
        LeftOut(
            image_id=images.text(number),
            reason=Reason.AUDITED_INCORRECT,
            detail=f"model {versions.texts[model.version[number]]}",
        )
        for number in np.flatnonzero(wrong).tolist()
    ]
    unseen = np.flatnonzero(fine & ~human.has & ~model.has).tolist()
    quick.left_out += [LeftOut(image_id=images.text(number), reason=Reason.UNSEEN) for number in unseen]
    for outcome in quick.left_out:
        quick.tally.add(outcome)
    quick.tally.add_unknown(sorted(image.decode() for image in images.unknown))
    quick.odd = [images.text(number) for number in np.flatnonzero(images.odd).tolist()]
    return quick


# -- numbering ---------------------------------------------------------------------------------------------

Found: TypeAlias = tuple[list[Rows], list[bytes]]


class _Images:
    """The images of `metadata`, numbered; which of them are odd; and the ids that it doesn't have."""

    def __init__(self, metadata: Sequence[Batch]) -> None:
        rows, unusual = layouts.read(metadata, _parse_known)
        self._numbers: dict[Id, int] = {}
        for each in rows:
            self._numbers.update(dict.fromkeys(each.texts, 0))
        for data in unusual:
            self._numbers.update(dict.fromkeys(_id_of(data), 0))
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
        return self.ids[number].decode()


class _Versions:
    """The versions of models and tasks in the documents, numbered in their order."""

    def __init__(self, found: Iterable[Found]) -> None:
        texts = {text for rows, _ in found for each in rows for text in each.constants if isinstance(text, str)}
        self.texts = sorted(texts, key=version_key)
        self.numbers = {text: number for number, text in enumerate(self.texts)}


@dataclass(slots=True)
class _Boxes:
    """All boxes of a collection's documents, and how they are read."""

    sides: list[Floats] = field(default_factory=list)  # each (N, 4), clipped
    size: int = 0

    def add(self, numbers: Floats, center: tuple[bool, ...]) -> tuple[int, Any, Any]:
        """Takes the boxes of documents of one layout.

        Args:
            numbers: shape (N, 4 K): left, top, right, bottom or center_x, center_y, width, height of each box.
            center: of each of the K boxes whether it is in center notation.

        Returns:
            The number of the first box (document n has the K from there + n K on), which documents can be used,
            and how many of their boxes were clipped.
        """
        count, each = len(numbers), len(center)
        first = self.size
        boxes = numbers.reshape(count, each, 4)
        with np.errstate(over="ignore", invalid="ignore"):
            fit = (np.abs(boxes) <= LARGEST).all(axis=2)
            if any(center):
                boxes = boxes.copy()
                which = np.flatnonzero(center)
                x, y, width, height = (boxes[:, which, side] for side in range(4))
                boxes[:, which] = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=2)
            fit &= (boxes[:, :, 0] < boxes[:, :, 2]) & (boxes[:, :, 1] < boxes[:, :, 3])
            outside = ((boxes < 0.0) | (boxes > 1.0)).any(axis=2)
        if outside.any():
            boxes = np.clip(boxes, 0.0, 1.0)
            fit &= (boxes[:, :, 0] < boxes[:, :, 2]) & (boxes[:, :, 1] < boxes[:, :, 3])
        self.sides.append(boxes.reshape(-1, 4))
        self.size += count * each
        return first, fit.all(axis=1), outside.sum(axis=1)

    def joined(self) -> Floats:
        return np.concatenate(self.sides) if self.sides else np.empty((0, 4))


# -- reading -----------------------------------------------------------------------------------------------


def _parse_known(data: bytes) -> Layout:
    found = layouts.elements(data, 0)
    return _layout(found, taken=("image_id",), constants=())


def _layout(
    found: dict[str, layouts.Value],
    *,
    taken: tuple[str, ...],
    constants: tuple[object, ...],
    numbers: Iterable[layouts.Value] = (),
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
    )


def _id_of(data: bytes) -> set[Id]:
    """The image of a document of unusual shape; none if its id isn't text."""
    image_id = bson.decode(data).get("image_id")
    return {image_id.encode()} if isinstance(image_id, str) else set()


def _box_numbers(data: bytes, value: layouts.Value) -> tuple[bool, list[layouts.Value]]:
    """Whether a box is in center notation, and its four numbers.

    Raises:
        Unusual: it has anything else than the four numbers of one notation.
    """
    if value.type != layouts.OBJECT:
        raise Unusual
    found = layouts.elements(data, value.begin)
    if len(found) != 4:
        raise Unusual
    names = CENTER if "center_x" in found else CORNERS
    try:
        return names is CENTER, [layouts.number(found[name]) for name in names]
    except KeyError:
        raise Unusual from None


def _parse_prediction(data: bytes) -> Layout:
    found = layouts.elements(data, 0)
    if "timestamp" in found or "bboxes" not in found or "model_version" not in found:
        raise Unusual
    if found["bboxes"].type != layouts.ARRAY:
        raise Unusual
    version = layouts.text_of(data, found["model_version"])
    boxes = [_box_numbers(data, value) for value in layouts.elements(data, found["bboxes"].begin).values()]
    return _layout(
        found,
        taken=("image_id", "model_version", "bboxes"),
        constants=(version, tuple(center for center, _ in boxes)),
        numbers=[number for _, numbers in boxes for number in numbers],
    )


def _parse_annotation(data: bytes) -> Layout:
    found = layouts.elements(data, 0)
    if "task_version" not in found or "timestamp" not in found or "bbox" not in found:
        raise Unusual
    version = layouts.text_of(data, found["task_version"])
    center: tuple[bool, ...] = ()
    numbers: list[layouts.Value] = []
    bbox = found["bbox"]
    if bbox.type != layouts.NULL and not (bbox.type == layouts.TEXT and layouts.text_of(data, bbox) == NO_FACE):
        in_center, numbers = _box_numbers(data, bbox)
        center = (in_center,)
    return _layout(
        found,
        taken=("image_id", "task_version", "timestamp", "bbox"),
        constants=(version, center),
        numbers=[*numbers, layouts.number(found["timestamp"])],
    )


def _parse_audit(data: bytes) -> Layout:
    found = layouts.elements(data, 0)
    if not {"model_version", "task_version", "bbox_correct", "timestamp"} <= found.keys():
        raise Unusual
    correct, said = found["bbox_correct"], found.get("verdict")
    if correct.type != layouts.BOOL:
        raise Unusual
    verdict_said = bool(data[said.begin]) if said is not None and said.type == layouts.BOOL else None
    taken = ["image_id", "model_version", "task_version", "bbox_correct", "timestamp"]
    if said is not None and said.type == layouts.BOOL:
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


# -- deciding ----------------------------------------------------------------------------------------------

# What an audit says, as a number.
_NONE, _FALSE, _TRUE = -1, 0, 1
_SAID = {_NONE: None, _FALSE: False, _TRUE: True}


def _joined(parts: list[Any], like: Any = np.int64) -> Any:
    return np.concatenate(parts) if parts else np.empty(0, like)


@dataclass(frozen=True, slots=True)
class _Documents:
    """Predictions or annotations of images that `metadata` has: column by column, in no order."""

    image: Ints
    version: Ints
    first: Ints  # number of the first box
    boxes: Ints  # how many
    clipped: Ints  # how many of them were
    stamp: Floats  # 0 for predictions


def _documents(
    rows: list[Rows], images: _Images, versions: _Versions, boxes: _Boxes, *, stamped: bool
) -> _Documents:
    columns: list[list[Any]] = [[], [], [], [], [], []]
    for each in rows:
        version, center = each.constants
        assert isinstance(version, str) and isinstance(center, tuple)
        numbers, stamps = each.numbers, np.zeros(len(each.texts))
        if stamped:
            numbers, stamps = numbers[:, :-1], numbers[:, -1]
        first, fit, clipped = boxes.add(numbers, center)
        fit = fit & (np.abs(stamps) <= LARGEST)  # NaN isn't
        of = images.numbers(each)
        images.refuse_numbers(of[~fit])
        known = np.flatnonzero(fit & (of >= 0))
        size = len(center)
        for column, values in zip(
            columns,
            (
                of[known],
                np.full(len(known), versions.numbers[version]),
                first + known * size,
                np.full(len(known), size),
                clipped[known],
                stamps[known],
            ),
            strict=True,
        ):
            column.append(values)
    image, number, first_box, size_of, cut, stamp = columns
    return _Documents(
        image=_joined(image),
        version=_joined(number),
        first=_joined(first_box),
        boxes=_joined(size_of),
        clipped=_joined(cut),
        stamp=_joined(stamp, np.float64),
    )


def _predicted(rows: list[Rows], images: _Images, versions: _Versions, boxes: _Boxes) -> _Documents:
    return _documents(rows, images, versions, boxes, stamped=False)


def _drawn(rows: list[Rows], images: _Images, versions: _Versions, boxes: _Boxes) -> _Documents:
    return _documents(rows, images, versions, boxes, stamped=True)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Of each image, what one kind of source gives it: column by column, in the order of the images' numbers."""

    has: Any  # whether it gives anything
    version: Ints
    stamp: Floats
    boxes: Ints
    first: Ints  # where the first box stands in `order`
    order: Ints  # numbers of boxes, an image's one after the other
    clipped: Ints


def _last_of_each(image: Ints) -> Any:
    """In numbers that are sorted, where the last of each run of equal ones stands."""
    return np.flatnonzero(np.append(image[1:] != image[:-1], True)) if len(image) else image


def _human(drawn: _Documents, images: _Images, sides: Floats) -> _Chosen:
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
    return _Chosen(has, version, stamp, boxes, np.cumsum(boxes) - boxes, drawn.first[mine], clipped)


def _model(predicted: _Documents, images: _Images, drawn: Any) -> _Chosen:
    order = np.lexsort((predicted.version, predicted.image))
    image, version = predicted.image[order], predicted.version[order]
    same = (image[1:] == image[:-1]) & (version[1:] == version[:-1])
    # Perhaps they differ. Where people have drawn it doesn't matter, but leaving it to `decide` is never wrong.
    twice = image[1:][same]
    images.odd[twice[~drawn[twice]]] = True
    last = order[_last_of_each(image)]
    image, count = predicted.image[last], len(images)
    columns = [np.zeros(count, np.int64) for _ in range(4)]
    for column, values in zip(
        columns, (predicted.version, predicted.boxes, predicted.first, predicted.clipped), strict=True
    ):
        column[image] = values[last]
    has = np.zeros(count, np.bool_)
    has[image] = True
    version, boxes, first, clipped = columns
    total = int((predicted.first + predicted.boxes).max(initial=0))
    return _Chosen(has, version, np.zeros(count), boxes, first, np.arange(total), clipped)


def _verdicts(rows: list[Rows], images: _Images, versions: _Versions, model: _Chosen) -> Ints:
    """What the audits say of the prediction that each image has."""
    parts: list[tuple[Ints, Ints, Floats]] = []
    for layout, each in enumerate(rows):
        image, stamp = images.numbers(each), each.numbers[:, 0]
        fit = np.abs(stamp) <= LARGEST  # NaN isn't
        images.refuse_numbers(image[~fit])
        mine = np.flatnonzero(fit & (image >= 0))
        number = versions.numbers[str(each.constants[0])]
        mine = mine[model.has[image[mine]] & (model.version[image[mine]] == number)]
        parts.append((image[mine], np.full(len(mine), layout), stamp[mine]))
    said = np.full(len(images), _NONE)
    if not parts:
        return said
    image, rows_of, stamp = (np.concatenate(column) for column in zip(*parts, strict=True))
    answers = np.array([_answer(each) for each in rows])
    said[image] = answers[rows_of]
    several = np.bincount(image, minlength=len(images)) > 1
    which = np.flatnonzero(several[image])
    audits: dict[int, list[Audit]] = defaultdict(list)
    for number, row, moment in zip(
        image[which].tolist(), rows_of[which].tolist(), stamp[which].tolist(), strict=True
    ):
        _, task_version, correct, resolved = rows[row].constants
        audits[number].append(
            Audit(correct=correct, verdict=resolved, task_version=task_version, timestamp=moment)
        )
    for number, given in audits.items():
        said[number] = _TRUE if verdict(given) else _FALSE
    return said


def _answer(rows: Rows) -> int:
    """What audits of a layout say where they stand alone."""
    _, _, correct, resolved = rows.constants
    return _TRUE if (correct if resolved is None else resolved) else _FALSE


# -- writing -----------------------------------------------------------------------------------------------


class _Entered:
    """Writes the entries of images, those together whose documents are laid out alike."""

    def __init__(self, images: _Images, versions: _Versions, sides: Floats, version: int, quick: Quick) -> None:
        self._images, self._versions, self._sides = images, versions, sides
        self._version, self._quick = version, quick
        self._sizes = np.fromiter(map(len, images.ids), np.int64, len(images))

    def humans(self, human: _Chosen, which: Any) -> None:
        self._write("human", human, np.full(len(self._images), _NONE), which)

    def models(self, model: _Chosen, said: Ints, which: Any) -> None:
        self._write("model", model, said, which)

    def _write(self, kind: Kind, chosen: _Chosen, said: Ints, which: Any) -> None:
        numbers = np.flatnonzero(which)
        if not len(numbers):
            return
        columns = np.stack(
            [chosen.version[numbers], said[numbers], self._sizes[numbers], chosen.boxes[numbers]], axis=1
        )
        order = np.lexsort(columns.T)
        columns, numbers = columns[order], numbers[order]
        changes = np.flatnonzero((columns[1:] != columns[:-1]).any(axis=1)) + 1
        for mine in np.split(numbers, changes):
            self._write_alike(kind, chosen, _SAID[int(said[mine[0]])], mine)

    def _write_alike(self, kind: Kind, chosen: _Chosen, said: bool | None, mine: Ints) -> None:
        version = self._versions.texts[chosen.version[mine[0]]]
        id_bytes, size, count = int(self._sizes[mine[0]]), int(chosen.boxes[mine[0]]), len(mine)
        template = bson.encode(
            document(
                Entry(
                    image_id="x" * id_bytes,
                    boxes=(EntryBox(box=Box(left=0.0, top=0.0, right=1.0, bottom=1.0)),) * size,
                    kind=kind,
                    version=version,
                    timestamp=0.0 if kind == "human" else None,
                    verdict=said,
                ),
                self._version,
            )
        )
        found = layouts.elements(template, 0)
        ids = np.frombuffer(b"".join(map(self._images.ids.__getitem__, mine.tolist())), np.uint8)
        ids = ids.reshape(count, id_bytes)
        places = [(found[name].begin + 4, found[name].end - 1) for name in ("_id", "image_id")]
        columns: list[Bytes] = [ids, ids]
        if size:
            boxes = self._sides[chosen.order[chosen.first[mine][:, None] + np.arange(size)]].reshape(count, -1)
            for number, value in enumerate(layouts.elements(template, found["bboxes"].begin).values()):
                for side, place in enumerate(layouts.elements(template, value.begin).values()):
                    places.append((place.begin, place.end))
                    columns.append(_bytes(boxes[:, number * 4 + side]))
        if kind == "human":
            stamp = layouts.elements(template, found["source"].begin)["timestamp"]
            places.append((stamp.begin, stamp.end))
            columns.append(_bytes(chosen.stamp[mine]))
        self._quick.documents += map(RawBSONDocument, layouts.fill(template, places, columns))
        tally, clipped = self._quick.tally, chosen.clipped[mine]
        tally.entries[kind, version] += count
        tally.boxes[kind] += count * size
        if not size:
            tally.empty[kind] += count
        if kind == "model":
            tally.verdicts[said] += count
        tally.clipped_boxes += int(clipped.sum())
        tally.clipped_images += int((clipped > 0).sum())


def _bytes(numbers: Floats) -> Bytes:
    return np.ascontiguousarray(numbers, dtype="<f8").view(np.uint8).reshape(len(numbers), 8)
