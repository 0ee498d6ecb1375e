"""From a model's outputs to what they say of the image: one function a decoder. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from truthloop.errors import ModelRefused
from truthloop.models.documents import (
    MAX_CLASSES,
    AnchorGrid,
    Boxes,
    CatalogueEntry,
    ClassificationOutput,
    ClassMap,
    ClassMapOutput,
    ForegroundMaskOutput,
    Label,
    Labels,
    OpencvCascadeOutput,
    OpencvHogOutput,
    Prediction,
    ScoredBox,
    SsdAnchorsOutput,
    SsdPostprocessedOutput,
    UltrafaceOutput,
)
from truthloop.models.prepare import Prepared
from truthloop.models.runtime import Outputs
from truthloop.models.suppress import suppress

# Weights of OpenCV's classifiers have no upper end. 1 - exp(-weight / this) keeps their order and lies in [0, 1).
_CASCADE_WEIGHT, _HOG_WEIGHT = 4.0, 1.0
# Rounded as shown: a float32 has no more places than these.
_PLACES = 6

_Floats = NDArray[np.float64]
_Scores = NDArray[np.float32]


def decode(entry: CatalogueEntry, labels: Sequence[str], outputs: Outputs, prepared: Prepared) -> Prediction:
    """What the outputs say of the image.

    Args:
        entry: the model.
        labels: all its labels, in the model's order; where it has a class for background, that one, too.
        outputs: of one image, without an axis for the batch.
        prepared: the input that they are of.

    Returns:
        Labels, the best first; or boxes in fractions of the image, clipped to it, the surest first; or a class map
        over the image.

    Raises:
        ModelRefused: the outputs don't have the shapes that the decoder reads.
    """
    match entry.output:
        case ClassificationOutput() as said:
            return _classification(entry, said, labels, outputs)
        case SsdPostprocessedOutput() as said:
            return _ssd_postprocessed(entry, said, labels, outputs, prepared)
        case SsdAnchorsOutput() as said:
            return _ssd_anchors(entry, said, labels, outputs, prepared)
        case UltrafaceOutput() as said:
            return _ultraface(entry, said, labels, outputs, prepared)
        case ClassMapOutput() as said:
            return _class_map(entry, said, labels, outputs, prepared)
        case ForegroundMaskOutput() as said:
            return _foreground_mask(entry, said, labels, outputs, prepared)
        case OpencvCascadeOutput() as said:
            return _opencv(
                labels, outputs, prepared, weight=_CASCADE_WEIGHT, threshold=said.threshold, max_iou=1.0
            )
        case OpencvHogOutput() as said:
            return _opencv(
                labels, outputs, prepared, weight=_HOG_WEIGHT, threshold=said.threshold, max_iou=said.max_iou
            )


def _classification(
    entry: CatalogueEntry, said: ClassificationOutput, labels: Sequence[str], outputs: Outputs
) -> Labels:
    _expect(entry, len(outputs) >= 1 and outputs[0].size == len(labels), outputs, f"{len(labels)} scores")
    scores = outputs[0].reshape(-1)
    if said.activation == "softmax":
        scores = _softmax(scores)
    best: list[Label] = []
    # Of equal scores the earlier label is the first.
    for index in np.argsort(-scores, kind="stable"):
        score = float(scores[index])
        if not score > 0 or score < said.min_score or len(best) == said.top:  # not a number is no score
            break
        if index != said.background:
            best.append(Label(label=labels[index], score=_unit(score)))
    return Labels(labels=best)


def _ssd_postprocessed(
    entry: CatalogueEntry,
    said: SsdPostprocessedOutput,
    labels: Sequence[str],
    outputs: Outputs,
    prepared: Prepared,
) -> Boxes:
    _expect(entry, len(outputs) == len(said.order), outputs, f"{len(said.order)} outputs")
    named = dict(zip(said.order, outputs, strict=True))
    _expect(entry, {"boxes", "classes", "scores"} <= set(named), outputs, "boxes, classes and scores")
    boxes, classes, scores = named["boxes"], named["classes"].reshape(-1), named["scores"].reshape(-1)
    _expect(entry, boxes.shape == (len(scores), 4) and len(classes) == len(scores), outputs, "(N, 4) boxes")
    number = int(named["count"].reshape(-1)[0]) if "count" in named else len(scores)
    chosen = np.flatnonzero(scores[:number] >= said.threshold)
    indices = np.rint(classes[chosen]).astype(int) - said.first_class
    known = (indices >= 0) & (indices < len(labels))
    chosen, indices = chosen[known], indices[known]
    # These models say top, left, bottom, right.
    edges = boxes[chosen][:, [1, 0, 3, 2]].astype(np.float64)
    return _boxes(edges, scores[chosen], [labels[index] for index in indices], prepared)


def _ssd_anchors(
    entry: CatalogueEntry, said: SsdAnchorsOutput, labels: Sequence[str], outputs: Outputs, prepared: Prepared
) -> Boxes:
    _expect(entry, len(outputs) == 2, outputs, "2 outputs")
    named = dict(zip(said.order, outputs, strict=True))
    anchors = _anchors(said.anchors)
    regressed, logits = named["boxes"], named["scores"].reshape(-1)
    _expect(
        entry,
        regressed.ndim == 2 and len(regressed) == len(logits) == len(anchors) and regressed.shape[1] >= 4,
        outputs,
        f"boxes and scores of {len(anchors)} anchors",
    )
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -80, 80)))
    chosen = np.flatnonzero(scores >= said.threshold)
    assert entry.input.width is not None
    assert entry.input.height is not None
    size = np.array([entry.input.width, entry.input.height], np.float64)
    centre = regressed[chosen, 0:2] / size + anchors[chosen]
    half = regressed[chosen, 2:4] / size / 2
    edges = np.concatenate([centre - half, centre + half], axis=1)
    return _suppressed(edges, scores[chosen], labels[0], prepared, max_iou=said.max_iou)


def _anchors(grids: Sequence[AnchorGrid]) -> _Floats:
    """The centres of all anchors, shape (N, 2) as x, y in fractions: grid by grid, row by row, cell by cell."""
    parts = []
    for grid in grids:
        centres = (np.arange(grid.cells) + 0.5) / grid.cells
        y, x = np.meshgrid(centres, centres, indexing="ij")
        parts.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), grid.each, axis=0))
    return np.concatenate(parts)


def _ultraface(
    entry: CatalogueEntry, said: UltrafaceOutput, labels: Sequence[str], outputs: Outputs, prepared: Prepared
) -> Boxes:
    _expect(entry, len(outputs) == 2, outputs, "2 outputs")
    named = dict(zip(said.order, outputs, strict=True))
    boxes, scores = named["boxes"], named["scores"]
    _expect(
        entry,
        scores.shape == (len(boxes), 2) and boxes.shape == (len(boxes), 4),
        outputs,
        "(N, 2) scores, (N, 4) boxes",
    )
    chosen = np.flatnonzero(scores[:, 1] >= said.threshold)
    return _suppressed(
        boxes[chosen].astype(np.float64), scores[chosen, 1], labels[0], prepared, max_iou=said.max_iou
    )


def _class_map(
    entry: CatalogueEntry, said: ClassMapOutput, labels: Sequence[str], outputs: Outputs, prepared: Prepared
) -> ClassMap:
    _expect(entry, len(outputs) >= 1 and outputs[0].ndim == 3, outputs, "a score for each class and cell")
    scores = outputs[0] if entry.input.layout == "nhwc" else outputs[0].transpose(1, 2, 0)
    number = scores.shape[2]
    # Some files of labels end with remarks; a label for each class there must be.
    _expect(entry, 2 <= number <= min(len(labels), MAX_CLASSES + 1), outputs, f"at most {len(labels)} classes")
    scores = _cut(scores, prepared)
    classes = scores.argmax(axis=2).astype(np.uint8)
    if said.activation == "softmax":
        # The best one's share, without the others' shares, which nobody asks for.
        best = scores.max(axis=2, keepdims=True)
        sure = 1 / np.exp(scores - best).sum(axis=2)
    else:
        sure = np.clip(scores.max(axis=2), 0, 1)
    return ClassMap(classes=classes, scores=sure.astype(np.float32), labels=tuple(labels[1:number]))


def _foreground_mask(
    entry: CatalogueEntry, said: ForegroundMaskOutput, labels: Sequence[str], outputs: Outputs, prepared: Prepared
) -> ClassMap:
    _expect(entry, len(outputs) >= 1 and 1 in (outputs[0].ndim - 1, *outputs[0].shape), outputs, "a score a cell")
    likely = outputs[0]
    if likely.ndim == 3:
        likely = likely[:, :, 0] if entry.input.layout == "nhwc" else likely[0]
    likely = np.clip(_cut(likely, prepared), 0, 1)
    classes = (likely > said.threshold).astype(np.uint8)
    sure = np.where(classes == 1, likely, 1 - likely)
    return ClassMap(classes=classes, scores=sure.astype(np.float32), labels=(labels[0],))


def _opencv(
    labels: Sequence[str], outputs: Outputs, prepared: Prepared, *, weight: float, threshold: float, max_iou: float
) -> Boxes:
    boxes, weights = outputs
    high, wide = prepared.array.shape[:2]
    scores = 1 - np.exp(-np.maximum(weights.astype(np.float64), 0) / weight)
    chosen = np.flatnonzero(scores >= threshold)
    edges = boxes[chosen].astype(np.float64) / np.array([wide, high, wide, high])
    return _suppressed(edges, scores[chosen], labels[0], prepared, max_iou=max_iou)


def _suppressed(
    edges: _Floats, scores: "_Scores | _Floats", label: str, prepared: Prepared, *, max_iou: float
) -> Boxes:
    """Boxes of one class, of which those that overlap a surer one are left out."""
    # One without an area overlaps nothing, and is no box.
    sound = np.flatnonzero((edges[:, 0] < edges[:, 2]) & (edges[:, 1] < edges[:, 3]))
    staying = sound[suppress(edges[sound], scores[sound].astype(np.float64), max_iou=max_iou)]
    return _boxes(edges[staying], scores[staying], [label] * len(staying), prepared)


def _boxes(edges: _Floats, scores: "_Scores | _Floats", labels: Sequence[str], prepared: Prepared) -> Boxes:
    """The answer: boxes from fractions of the input to fractions of the image, clipped to it, the surest first.

    One that lies outside the image, or has no area there, is left out.
    """
    left, top, right, bottom = prepared.inside
    origin = np.array([left, top, left, top])
    size = np.array([right - left, bottom - top, right - left, bottom - top])
    clipped = np.round(np.clip((edges - origin) / size, 0, 1), _PLACES)
    found = []
    for index in np.argsort(-scores, kind="stable"):
        box = [float(edge) for edge in clipped[index]]
        if box[0] < box[2] and box[1] < box[3]:
            score = _unit(float(scores[index]))
            found.append(
                ScoredBox(label=labels[index], score=score, left=box[0], top=box[1], right=box[2], bottom=box[3])
            )
    return Boxes(boxes=found)


def _cut(grid: _Scores, prepared: Prepared) -> _Scores:
    """The part of a grid over the input that lies over the image."""
    rows, columns = grid.shape[:2]
    left, top, right, bottom = prepared.inside
    first_row, first_column = min(round(top * rows), rows - 1), min(round(left * columns), columns - 1)
    last_row, last_column = max(round(bottom * rows), first_row + 1), max(round(right * columns), first_column + 1)
    return grid[first_row:last_row, first_column:last_column]


def _softmax(scores: _Scores) -> _Scores:
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum(), np.float32)


def _unit(score: float) -> float:
    return round(min(max(score, 0.0), 1.0), _PLACES)


def _expect(entry: CatalogueEntry, is_so: bool, outputs: Outputs, what: str) -> None:
    if not is_so:
        shapes = ", ".join("×".join(map(str, output.shape)) or "1" for output in outputs)
        raise ModelRefused(
            f"output: the decoder {entry.decoder} reads {what}, but the model {entry.name} gives {shapes}. "
            "Choose the decoder that fits, and as many labels as the model has classes."
        )
