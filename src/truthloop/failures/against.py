"""From an image's documents to what each model version predicted against what holds. Pure, no I/O."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truthloop.boxes import Box, BoxError, parse
from truthloop.datasets.rule import NO_FACE, GroupUnreadable, latest_group
from truthloop.failures.documents import EdgesAnswer, FailuresState, InvalidBox
from truthloop.failures.kinds import Boxes, Compared, Edges, Invalid, Read, Side, compare
from truthloop.failures.read import Document, ImageDocuments
from truthloop.versions import version_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One model version's boxes on an image, compared."""

    model_version: str
    compared: Compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjudged:
    """One model version's boxes on an image, which there is nothing to compare with."""

    model_version: str
    boxes: tuple[Edges, ...]  # in the prediction's order, without those that are invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image, each of its model versions against the annotations that hold."""

    image_id: str
    state: FailuresState
    task_version: str | None  # of the annotations that hold; None without any, or where it can't be told
    versions: tuple[Version, ...]  # newest first; none unless the state is annotated
    unjudged: tuple[Unjudged, ...]  # newest first; none where there are `versions`
    invalid: tuple[InvalidBox, ...]

    @property
    def is_refused(self) -> bool:
        """Whether a model and a person looked, and what is stored can't be used, so that nothing is compared."""
        return self.state is FailuresState.ANNOTATED and not self.versions


def against(
    images: Iterable[ImageDocuments], *, min_iou: float = 0.0, model_versions: Collection[str] = ()
) -> list[Image]:
    """Compares every model version's prediction of each image with the annotations that hold.

    These are the group that the dataset's rule takes (`latest_group`). An annotation that is null adds no box, so
    a group of these alone says that there is nothing to be found.

    Where that group can't be told, or one of its boxes can't be used, nothing is compared, just as the image is
    left out of the dataset: a predicted box alone may be the one that can't be read. Nor is a version compared
    whose predictions contradict each other. `invalid` says why; to go on without would make rows up.

    Args:
        images: what is stored of each.
        min_iou: in [0, 1]; boxes whose IoU is lower aren't paired.
        model_versions: whose predictions are looked at, as if there were no others; all if there are none.

    Returns:
        One answer an image, in the order given; the order of an image's documents doesn't matter.
    """
    read = [_Readable.of(image, model_versions) for image in images]
    found = iter(compare((boxes for image in read for boxes in image.comparisons()), min_iou=min_iou))
    return [image.with_comparisons([next(found) for _ in image.comparisons()]) for image in read]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Readable:
    """An image's boxes, read; `faults` are the documents that couldn't be."""

    image_id: str
    state: FailuresState
    task_version: str | None
    annotated: tuple[Read, ...]
    predicted: Mapping[str, tuple[Read, ...]]  # by model version, newest first
    is_comparable: bool  # whether it is known which annotations hold
    faults: tuple[InvalidBox, ...]

    @classmethod
    def of(cls, image: ImageDocuments, model_versions: Collection[str]) -> "_Readable":
        predictions = [each for each in image.predictions if _is_wanted(each.get("model_version"), model_versions)]
        predicted, faults = _predicted(predictions)
        annotated: tuple[Read, ...] = ()
        task_version, is_comparable = None, False
        if image.annotations:
            try:
                group = latest_group(image.annotations)
            except GroupUnreadable as error:
                faults.append(_fault(Side.ANNOTATED, str(error)))
            else:
                task_version, is_comparable = group.task_version, True
                annotated = tuple(_annotated(group.documents))
        if not any(isinstance(each.get("model_version"), str) for each in predictions):
            state = FailuresState.NOT_PREDICTED  # as the status counts it
        else:
            state = FailuresState.ANNOTATED if image.annotations else FailuresState.NOT_ANNOTATED
        return cls(
            image_id=image.image_id,
            state=state,
            task_version=task_version,
            annotated=annotated,
            predicted=predicted,
            is_comparable=is_comparable,
            faults=tuple(faults),
        )

    def comparisons(self) -> Iterator[Boxes]:
        """What is to be compared: the annotated boxes with nothing, for their faults, then with each version."""
        yield Boxes(image_id=self.image_id, predicted=(), annotated=self.annotated)
        for predicted in self.predicted.values():
            yield Boxes(
                image_id=self.image_id,
                predicted=predicted,
                annotated=self.annotated if self.state is FailuresState.ANNOTATED else (),
            )

    def with_comparisons(self, found: Sequence[Compared]) -> Image:
        """The answer, from what became of `comparisons`."""
        annotated, *compared = found
        invalid = [*self.faults]
        for version, of_version in zip(self.predicted, compared, strict=True):
            invalid += [
                _invalid(each, model_version=version) for each in of_version.invalid if each.side is Side.PREDICTED
            ]
        invalid += sorted(
            (_invalid(each, task_version=self.task_version) for each in annotated.invalid),
            key=lambda box: (box.reason, box.model_dump_json()),
        )
        is_compared = self.state is FailuresState.ANNOTATED and self.is_comparable and not annotated.invalid
        versions = list(zip(self.predicted, compared, strict=True))
        return Image(
            image_id=self.image_id,
            state=self.state,
            task_version=self.task_version,
            versions=tuple(Version(model_version=version, compared=of_one) for version, of_one in versions)
            if is_compared
            else (),
            unjudged=() if is_compared else tuple(_unjudged(version, of_one) for version, of_one in versions),
            invalid=tuple(invalid),
        )


def _unjudged(model_version: str, compared: Compared) -> Unjudged:
    boxes = tuple(item.predicted for item in compared.items if item.predicted is not None)
    return Unjudged(model_version=model_version, boxes=boxes)


def _is_wanted(model_version: Any, model_versions: Collection[str]) -> bool:
    return not model_versions or (isinstance(model_version, str) and model_version in model_versions)


def _predicted(documents: Sequence[Document]) -> tuple[dict[str, tuple[Read, ...]], list[InvalidBox]]:
    """The boxes of each model version, newest first, and the predictions that can't be read."""
    by_version: dict[str, list[Any]] = {}
    faults = []
    for document in documents:
        version = document.get("model_version")
        if not isinstance(version, str):
            faults.append(_fault(Side.PREDICTED, "a prediction's model_version is not text"))
            continue
        seen = by_version.setdefault(version, [])
        if document.get("bboxes") not in seen:
            seen.append(document.get("bboxes"))
    predicted: dict[str, tuple[Read, ...]] = {}
    for version in sorted(by_version, key=version_key, reverse=True):
        bboxes, *others = by_version[version]
        if others:
            reason = f"there are several predictions of model {version}, which differ"
            faults.append(_fault(Side.PREDICTED, reason, model_version=version))
        elif not isinstance(bboxes, list | tuple):
            reason = f"the bboxes of model {version} are no list"
            faults.append(_fault(Side.PREDICTED, reason, model_version=version))
        else:
            predicted[version] = tuple(_read(bbox) for bbox in bboxes)
    return predicted, faults


def _annotated(documents: Sequence[Document]) -> Iterator[Read]:
    for document in documents:
        if "bbox" not in document:
            yield BoxError("bbox", "missing")
        elif document["bbox"] is not None and document["bbox"] != NO_FACE:
            yield _read(document["bbox"])


def _read(bbox: Any) -> Read:
    try:
        return parse(bbox)
    except BoxError as error:
        return error


def _invalid(invalid: Invalid, *, model_version: str | None = None, task_version: str | None = None) -> InvalidBox:
    return InvalidBox(
        side=invalid.side,
        model_version=model_version,
        task_version=task_version,
        # An annotation is a document of its own, and documents have no order.
        index=invalid.index if invalid.side is Side.PREDICTED else None,
        reason=invalid.reason,
        box=_edges(invalid.box),
    )


def _edges(box: Box | None) -> EdgesAnswer | None:
    return None if box is None else EdgesAnswer(**box.corners())


def _fault(side: Side, reason: str, *, model_version: str | None = None) -> InvalidBox:
    return InvalidBox(
        side=side, model_version=model_version, task_version=None, index=None, reason=reason, box=None
    )
