"""The dataset rule, the slow and obvious way, written from the brief and the list of faults; for one image."""

import math
from typing import Any

Document = dict[str, Any]


def version(text: str) -> tuple[list[int], str]:
    parts = [int(part) if part.isascii() and part.isdigit() else -1 for part in text.split(".")]
    while parts and parts[-1] == 0:  # missing parts are 0
        parts.pop()
    return [*parts], text


def newer(one: str, other: str) -> bool:
    mine, theirs = version(one)[0], version(other)[0]
    longest = max(len(mine), len(theirs))
    mine += [0] * (longest - len(mine))
    theirs += [0] * (longest - len(theirs))
    return (mine, one) > (theirs, other)


def newest(texts: list[str]) -> str:
    best = texts[0]
    for text in texts:
        if newer(text, best):
            best = text
    return best


def corners(bbox: Document) -> tuple[float, float, float, float]:
    if "left" in bbox:
        return float(bbox["left"]), float(bbox["top"]), float(bbox["right"]), float(bbox["bottom"])
    x, y, w, h = (float(bbox[name]) for name in ("center_x", "center_y", "width", "height"))
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def usable(bbox: Document) -> tuple[tuple[float, float, float, float], bool] | None:
    """The box within the image and whether it was clipped; None if it can't be used."""
    sides = corners(bbox)
    left, top, right, bottom = sides
    if not all(math.isfinite(side) for side in sides) or left >= right or top >= bottom:
        return None
    left, top, right, bottom = max(0.0, left), max(0.0, top), min(1.0, right), min(1.0, bottom)
    if left >= right or top >= bottom:
        return None
    return (left, top, right, bottom), (left, top, right, bottom) != sides


def verdict(audits: list[Document], model_version: str) -> bool | None:
    audits = [audit for audit in audits if audit["model_version"] == model_version]
    if not audits:
        return None
    task = newest([audit["task_version"] for audit in audits])
    audits = [audit for audit in audits if audit["task_version"] == task]
    right = sum(audit["bbox_correct"] for audit in audits)
    if right * 2 != len(audits):
        return right * 2 > len(audits)
    latest = max(audit["timestamp"] for audit in audits)
    return all(audit["bbox_correct"] for audit in audits if audit["timestamp"] == latest)


def entry(predictions: list[Document], audits: list[Document], annotations: list[Document]) -> Any:
    """(kind, version, timestamp, sorted boxes, clipped, verdict), or "unseen" or "refused"."""
    if annotations:
        latest = max(annotation["timestamp"] for annotation in annotations)
        task = newest([a["task_version"] for a in annotations if a["timestamp"] == latest])
        group: list[Document] = []
        for annotation in annotations:
            if annotation["task_version"] == task and annotation not in group:
                group.append(annotation)
        bboxes = [a["bbox"] for a in group if a["bbox"] is not None and a["bbox"] != "None"]
        kind, chosen, stamp, said = "human", task, float(latest), None
    elif predictions:
        chosen = newest([prediction["model_version"] for prediction in predictions])
        same = [prediction for prediction in predictions if prediction["model_version"] == chosen]
        if any(prediction["bboxes"] != same[0]["bboxes"] for prediction in same):
            return "refused"
        bboxes = same[0]["bboxes"]
        kind, stamp, said = "model", None, verdict(audits, chosen)
    else:
        return "unseen"
    found = [usable(bbox) for bbox in bboxes]
    if any(one is None for one in found):
        return "refused"
    boxes = sorted(one[0] for one in found if one)
    return kind, chosen, stamp, boxes, sum(one[1] for one in found if one), said
