"""Entries of the dataset as their bytes, many at once; the same that `entry_document.document` says. Pure.

An entry is a frame (all but its boxes) and its boxes. Those that are alike are written together, from a template.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import bson
import numpy as np
from numpy.typing import NDArray

from truthloop.boxes import CORNERS, Box
from truthloop.datasets import layouts
from truthloop.datasets.chosen import SAID, Chosen
from truthloop.datasets.columns import NO_LABEL
from truthloop.datasets.entry_document import box_document, document
from truthloop.datasets.layouts import Bytes, Floats, Ints
from truthloop.datasets.report import Kind
from truthloop.datasets.rule import Entry, EntryBox

_BOX = Box(left=0.0, top=0.0, right=1.0, bottom=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the numbers of images, versions, boxes and labels stand for."""

    ids: Sequence[bytes]
    versions: Sequence[str]
    sides: Floats  # shape (boxes, 4): left, top, right, bottom
    labels: Ints  # of the boxes, `NO_LABEL` for none
    label_texts: Sequence[str]


def entry_bytes(
    numbers: Ints, chosen: Chosen, said: Ints, *, kind: Kind, sources: Sources, version: int
) -> list[bytes]:
    """The documents of entries.

    Args:
        numbers: of the images that have one.
        chosen: what each image has.
        said: of each image, what audits say.
        kind: where the boxes come from.
        sources: what the numbers stand for.
        version: of the dataset.

    Returns:
        The documents in the order of `numbers`.
    """
    if not len(numbers):
        return []
    count = len(numbers)
    # The boxes, entry by entry: whose each is, which of its entry, and its bytes with its name before.
    counts = chosen.boxes[numbers]
    first = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(count), counts)
    nth = np.arange(len(owner)) - first[owner]
    box = chosen.order[chosen.first[numbers][owner] + nth]
    sides, labels = sources.sides[box], sources.labels[box]
    names = [layouts.item_name(number) for number in range(int(counts.max()))]
    templates = _box_templates(labels, sources.label_texts)
    name_bytes = np.array([len(name) for name in names], np.int64)[nth]
    label_bytes = np.array([len(templates.get(label, b"")) for label in range(NO_LABEL, len(sources.label_texts))])
    ends = np.concatenate([[0], np.cumsum(name_bytes + label_bytes[labels - NO_LABEL])])
    boxes_bytes = ends[first + counts] - ends[first]

    ids = [sources.ids[number] for number in numbers.tolist()]
    id_bytes = np.fromiter(map(len, ids), np.int64, count)
    stamp = chosen.stamp[numbers]
    frame_bytes, head_bytes = np.empty(count, np.int64), np.empty(count, np.int64)
    frames: list[tuple[Ints, bytes]] = []
    for mine in _alike(chosen.version[numbers], said[numbers], id_bytes, np.isnan(stamp)):
        one = mine[0]
        frame = Entry(
            image_id="x" * int(id_bytes[one]),
            boxes=(),
            kind=kind,
            version=sources.versions[chosen.version[numbers[one]]],
            timestamp=None if np.isnan(stamp[one]) else 0.0,
            verdict=SAID[int(said[numbers[one]])],
        )
        template = bson.encode(document(frame, version))
        frames.append((mine, template))
        frame_bytes[mine] = len(template)
        head_bytes[mine] = layouts.elements(template, 0)["bboxes"].begin + 4

    total_bytes = frame_bytes + boxes_bytes
    begins = np.cumsum(total_bytes) - total_bytes
    written = np.empty(int(total_bytes.sum()), np.uint8)
    for mine, template in frames:
        rows = _frames(template, [ids[place] for place in mine.tolist()], stamp[mine], boxes_bytes[mine])
        head = int(head_bytes[mine[0]])
        layouts.put(written, begins[mine], rows[:, :head])
        layouts.put(written, begins[mine] + head + boxes_bytes[mine], rows[:, head:])
    at = (begins + head_bytes - ends[first])[owner] + ends[:-1]
    for mine in _alike(nth):
        layouts.put(written, at[mine], np.frombuffer(names[nth[mine[0]]], np.uint8)[None])
    at += name_bytes
    for mine in _alike(labels):
        layouts.put(written, at[mine], _boxes(templates[int(labels[mine[0]])], sides[mine]))
    joined = written.tobytes()
    return [joined[begin:end] for begin, end in zip(begins.tolist(), (begins + total_bytes).tolist(), strict=True)]


def _box_templates(labels: Ints, texts: Sequence[str]) -> dict[int, bytes]:
    return {
        label: bson.encode(box_document(EntryBox(box=_BOX, label=None if label == NO_LABEL else texts[label])))
        for label in np.unique(labels).tolist()
    }


def _alike(*columns: NDArray[Any]) -> Iterator[Ints]:
    """The places of equal rows together, in their order."""
    if not len(columns[0]):
        return
    order = np.lexsort(columns)
    changes = np.zeros(len(order) - 1, np.bool_)
    for column in columns:
        changes |= column[order][1:] != column[order][:-1]
    yield from np.split(order, np.flatnonzero(changes) + 1)


def _frames(template: bytes, ids: list[bytes], stamp: Floats, boxes_bytes: Ints) -> Bytes:
    """Entries as rows, without the boxes that their lengths count already."""
    count, found = len(ids), layouts.elements(template, 0)
    id_rows = np.frombuffer(b"".join(ids), np.uint8).reshape(count, -1)
    bboxes, moment = found["bboxes"], layouts.elements(template, found["source"].begin)["timestamp"]
    places = [(0, 4), (bboxes.begin, bboxes.begin + 4)]
    columns = [_int32(len(template) + boxes_bytes), _int32(bboxes.end - bboxes.begin + boxes_bytes)]
    for name in ("_id", "image_id"):
        places.append((found[name].begin + 4, found[name].end - 1))
        columns.append(id_rows)
    if moment.type == layouts.DOUBLE:
        places.append((moment.begin, moment.end))
        columns.append(_double(stamp))
    return layouts.fill(template, places, columns, count)


def _boxes(template: bytes, sides: Floats) -> Bytes:
    found = layouts.elements(template, 0)
    places = [(found[name].begin, found[name].end) for name in CORNERS]
    return layouts.fill(template, places, [_double(side) for side in sides.T], len(sides))


def _double(numbers: Floats) -> Bytes:
    return np.ascontiguousarray(numbers, dtype="<f8").view(np.uint8).reshape(len(numbers), 8)


def _int32(numbers: Ints) -> Bytes:
    return numbers.astype("<i4").view(np.uint8).reshape(len(numbers), 4)
