"""The dataset rule for a range of images at once, for all of them that nothing is odd about.

    layouts      documents that are laid out alike become columns
    columns      images, versions, labels and boxes are numbered
    chosen       what each image gets, by sorting numbers
    entry_bytes  the entries, written from templates

What is odd (a document of an unusual shape, a box that can't be used, documents of one image that are equal,
predictions of one version that differ) is left to `rule.decide`, with all of its image.
tests/datasets/test_quick.py holds both ways equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from bson.raw_bson import RawBSONDocument

from truthloop.datasets import chosen, columns
from truthloop.datasets.chosen import FALSE, NONE, SAID, Chosen
from truthloop.datasets.columns import Boxes, Images, Versions
from truthloop.datasets.entry_bytes import Sources, entry_bytes
from truthloop.datasets.layouts import Batch, Ints
from truthloop.datasets.report import Kind, Tally
from truthloop.datasets.rule import LeftOut, Reason

# Kind, what each image has of it, what audits say of that, and the images that get it.
_Source: TypeAlias = tuple[Kind, Chosen, Ints, Ints]


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
    images = Images(metadata)
    found_predictions = columns.read(predictions, columns.parse_prediction, images)
    found_annotations = columns.read(annotations, columns.parse_annotation, images)
    found_audits = columns.read(audits, columns.parse_audit, images)
    versions = Versions(found_predictions, found_annotations, found_audits)
    boxes = Boxes()
    drawn = columns.drawn(found_annotations, images, versions, boxes)
    predicted = columns.predicted(found_predictions, images, versions, boxes)
    sources = Sources(
        ids=images.ids,
        versions=versions.texts,
        sides=boxes.sides(),
        labels=boxes.labels(),
        label_texts=boxes.label_texts,
    )
    human = chosen.human(drawn, images, sources.sides)
    model = chosen.model(predicted, images, human.has)
    said = chosen.verdicts(found_audits, images, versions, model)

    fine = ~images.odd
    by_human, by_model = fine & human.has, fine & model.has & ~human.has
    wrong = by_model & (said == FALSE) if without_incorrect else np.zeros_like(by_model)
    quick = Quick(odd=[images.text(number) for number in np.flatnonzero(images.odd).tolist()])
    of_human: _Source = "human", human, np.full(len(images), NONE), np.flatnonzero(by_human)
    of_model: _Source = "model", model, said, np.flatnonzero(by_model & ~wrong)
    for kind, source, answers, numbers in (of_human, of_model):
        entries = entry_bytes(numbers, source, answers, kind=kind, sources=sources, version=version)
        quick.documents += map(RawBSONDocument, entries)
        _count(quick.tally, kind, source, answers, numbers, versions)
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
    return quick


def _count(tally: Tally, kind: Kind, source: Chosen, said: Ints, numbers: Ints, versions: Versions) -> None:
    """Counts the entries of images as `Tally.add` does one by one."""
    for number, count in _counted(source.version[numbers]):
        tally.entries[kind, versions.texts[number]] += count
    if kind == "model":
        for answer, count in _counted(said[numbers]):
            tally.verdicts[SAID[answer]] += count
    boxes, clipped = source.boxes[numbers], source.clipped[numbers]
    tally.boxes[kind] += int(boxes.sum())
    tally.empty[kind] += int((boxes == 0).sum())
    tally.clipped_boxes += int(clipped.sum())
    tally.clipped_images += int((clipped > 0).sum())


def _counted(numbers: Ints) -> list[tuple[int, int]]:
    found, counts = np.unique(numbers, return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))
