"""Which boxes of an image go into the dataset, decided from its documents alone. Pure, no I/O.

`decide` is the definition; `quick.py` comes to the same for the documents that nothing is odd about, and
tests/datasets/test_quick.py holds both equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from truthloop.boxes import Box, box_faults, number_fault, parse
from truthloop.review.verdict import Audit, verdict
from truthloop.versions import version_key

Document: TypeAlias = Mapping[str, Any]

NO_FACE = "None"  # what one export of the data writes for null
# What identifies a document says nothing of the image: two documents that differ in these alone are one.
_IDS = frozenset({"_id", "source_id"})


class Reason(StrEnum):
    """Why an image of `metadata` is in no dataset."""

    UNSEEN = "unseen"  # nobody looked: neither an annotation nor a prediction
    AUDITED_INCORRECT = "audited incorrect"  # left out because --without-incorrect asks for it
    # The others are refusals: somebody looked, and what is stored can't be used as it is.
    SWAPPED_OR_EMPTY = "swapped or empty box"
    NOT_FINITE = "not finite"
    OUTSIDE = "box outside the image"
    UNREADABLE = "unreadable document"
    CONFLICT = "conflicting predictions"

    @property
    def is_refusal(self) -> bool:
        """Whether somebody looked at the image, and what is stored can't be used."""
        return self not in (Reason.UNSEEN, Reason.AUDITED_INCORRECT)


# A box of a prediction that is null: unlike an annotation's it says nothing.
_NULL = object()

_ORDER = {reason: place for place, reason in enumerate(Reason)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryBox:
    """A box of an entry, within the image; `label` where its document has one."""

    box: Box
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What stands in the dataset for one image.

    `version` is the task version of the annotations, or the model version; `timestamp` (seconds since 1970, UTC)
    that of the latest annotation, or of the prediction where it has one. `verdict` is that of the prediction
    taken. `clipped` counts the boxes that reached over the image's edge.
    """

    image_id: str
    boxes: tuple[EntryBox, ...]
    kind: Literal["human", "model"]
    version: str
    timestamp: float | None
    verdict: bool | None = None
    clipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An image that isn't in the dataset; `detail` names the culprit where somebody can mend it."""

    image_id: str
    reason: Reason
    detail: str = ""


class _Unusable(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(detail)


def decide(
    image_id: str,
    *,
    annotations: Sequence[Document] = (),
    predictions: Sequence[Document] = (),
    audits: Sequence[Document] = (),
    without_incorrect: bool = False,
) -> Entry | LeftOut:
    """The dataset's entry of one image of `metadata`, or why it has none; their order doesn't matter.

    If it has annotations, the group (`image_id`, `task_version`) that holds the latest timestamp (on a tie the
    higher version) gives all boxes, since versions don't mix; otherwise the prediction of the newest model
    version does. There is no falling back: where the chosen source can't be used as it is stored, the image is
    left out.

    Args:
        image_id: the image.
        annotations: its documents in `bbox.human_annotation`.
        predictions: its documents in `bbox.model`.
        audits: its documents in `bbox.human_audit`; those that can't be read count as absent, as in the status.
        without_incorrect: whether a prediction that was audited as incorrect is left out.
    """
    try:
        if annotations:
            return _human(image_id, annotations)
        if not predictions:
            return LeftOut(image_id=image_id, reason=Reason.UNSEEN)
        entry = _model(image_id, predictions, audits)
    except _Unusable as unusable:
        return LeftOut(image_id=image_id, reason=unusable.reason, detail=unusable.detail)
    if without_incorrect and entry.verdict is False:
        return LeftOut(image_id=image_id, reason=Reason.AUDITED_INCORRECT, detail=f"model {entry.version}")
    return entry


class GroupUnreadable(Exception):
    """Which annotations hold can't be told, since one of them lacks what it is told by; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The annotations that hold for an image: those of one task version."""

    task_version: str
    timestamp: float  # the latest of them, seconds since 1970, UTC
    documents: tuple[Document, ...]  # each once: two that are equal but for their ids are one


def latest_group(annotations: Sequence[Document]) -> Group:
    """The annotations that hold, of an image that has any: the group (`image_id`, `task_version`) with the latest.

    The latest is that of the latest timestamp, on a tie the one of the higher version. Versions don't mix. The
    order of the annotations doesn't matter, but for the order of the documents in the group.

    Raises:
        GroupUnreadable: an annotation's task version isn't text, or its timestamp is no number.
    """
    latest: dict[str, float] = {}
    faults: list[str] = []
    for annotation in annotations:
        task_version, timestamp = annotation.get("task_version"), annotation.get("timestamp")
        if not isinstance(task_version, str):
            faults.append("an annotation's task_version is not text")
        elif fault := number_fault(timestamp):
            faults.append(f"an annotation's timestamp is {fault}")
        else:
            latest[task_version] = max(latest.get(task_version, timestamp), timestamp)  # type: ignore[type-var,assignment]
    if faults:
        raise GroupUnreadable(min(faults))  # the same one in whatever order they are read
    chosen = max(latest, key=lambda task_version: (latest[task_version], version_key(task_version)))
    documents = _distinct([each for each in annotations if each["task_version"] == chosen])
    return Group(task_version=chosen, timestamp=float(latest[chosen]), documents=tuple(documents))


def _human(image_id: str, annotations: Sequence[Document]) -> Entry:
    try:
        group = latest_group(annotations)
    except GroupUnreadable as error:
        raise _Unusable(Reason.UNREADABLE, str(error)) from error
    boxes = _boxes(
        [(each, each["bbox"]) if "bbox" in each else (each, ...) for each in group.documents],
        place="an annotation's bbox",
    )
    boxes.sort(key=lambda found: (found[0]["timestamp"], *_sides(found[1]), found[1].label or ""))
    return Entry(
        image_id=image_id,
        boxes=tuple(box for _, box, _ in boxes),
        kind="human",
        version=group.task_version,
        timestamp=group.timestamp,
        clipped=sum(clipped for _, _, clipped in boxes),
    )


def _model(image_id: str, predictions: Sequence[Document], audits: Sequence[Document]) -> Entry:
    if not all(isinstance(each.get("model_version"), str) for each in predictions):
        raise _Unusable(Reason.UNREADABLE, "a prediction's model_version is not text")
    newest = max((each["model_version"] for each in predictions), key=version_key)
    of_newest = [each for each in predictions if each["model_version"] == newest]
    prediction, *others = sorted(of_newest, key=repr) if len(of_newest) > 1 else of_newest
    for other in others:
        if any(other.get(name) != prediction.get(name) for name in ("bboxes", "timestamp")):
            raise _Unusable(Reason.CONFLICT, f"several predictions of model {newest}, which differ")
    bboxes, timestamp = prediction.get("bboxes"), prediction.get("timestamp")
    if not isinstance(bboxes, list | tuple):
        raise _Unusable(Reason.UNREADABLE, f"the bboxes of model {newest} are no list")
    # A prediction without boxes is one that found nothing; a box that is null is none.
    boxes = _boxes(
        [(prediction, _NULL if bbox is None or bbox == NO_FACE else bbox) for bbox in bboxes],
        place=f"a box of model {newest}",
    )
    return Entry(
        image_id=image_id,
        boxes=tuple(box for _, box, _ in boxes),
        kind="model",
        version=newest,
        # It decides nothing here, so one that can't be read is as good as none.
        timestamp=None if number_fault(timestamp) else float(timestamp),  # type: ignore[arg-type]
        verdict=verdict_on(newest, audits),
        clipped=sum(clipped for _, _, clipped in boxes),
    )


def verdict_on(model_version: str, audits: Sequence[Document]) -> bool | None:
    """The verdict of an image's audits on one model version; None without any that can be read."""
    return verdict(
        [
            audit
            for each in audits
            if each.get("model_version") == model_version and (audit := Audit.parse(each)) is not None
        ]
    )


def _distinct(documents: list[Document]) -> list[Document]:
    """Each document once: two that are equal but for their ids are one."""
    if len(documents) == 1:
        return documents
    said: list[dict[str, Any]] = []
    # Sorted, since 1 equals 1.0 and true here: which of two such documents stays shall not depend on their order.
    for document in sorted(documents, key=repr):
        content = {name: value for name, value in document.items() if name not in _IDS}
        if content not in said:
            said.append(content)
    return list(said)


def _boxes(found: list[tuple[Document, Any]], *, place: str) -> list[tuple[Document, EntryBox, bool]]:
    """The boxes within the image, each with its document and whether it was clipped.

    Raises:
        _Unusable: for the worst of the boxes that can't be used, whatever their order.
    """
    boxes, faults = [], list[tuple[int, str, Reason]]()
    for document, bbox in found:
        if bbox is None or bbox == NO_FACE:
            continue
        try:
            box, clipped = _clip(bbox)
        except _Unusable as unusable:
            faults.append((_ORDER[unusable.reason], f"{place}: {unusable.detail}", unusable.reason))
            continue
        label = bbox.get("label")
        boxes.append((document, EntryBox(box=box, label=label if isinstance(label, str) else None), clipped))
    if faults:
        _, detail, reason = min(faults)
        raise _Unusable(reason, detail)
    return boxes


def _clip(bbox: Any) -> tuple[Box, bool]:
    if bbox is ...:
        raise _Unusable(Reason.UNREADABLE, "missing")
    if bbox is _NULL:
        raise _Unusable(Reason.UNREADABLE, "null")
    if faults := box_faults(bbox):
        field, fault = min(faults, key=lambda each: (each[1] != "not finite", each))
        reason = Reason.NOT_FINITE if fault == "not finite" else Reason.UNREADABLE
        raise _Unusable(reason, f"{field} {fault}".strip())
    box = parse(bbox)
    if not box.is_valid:
        across = box.left >= box.right
        names = ("left", "right") if across else ("top", "bottom")
        low, high = (box.left, box.right) if across else (box.top, box.bottom)
        raise _Unusable(Reason.SWAPPED_OR_EMPTY, f"{names[0]} {low:g} is not below {names[1]} {high:g}")
    if not box.is_outside:
        return box, False
    inside = box.clipped()
    if not inside.is_valid:
        raise _Unusable(Reason.OUTSIDE, "no part of it lies in the image")
    return inside, True


def _sides(found: EntryBox) -> tuple[float, float, float, float]:
    return found.box.left, found.box.top, found.box.right, found.box.bottom
