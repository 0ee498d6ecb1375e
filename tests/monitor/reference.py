"""The figures of brief 1, counted the slow and obvious way from whole documents."""

from typing import Any

Documents = dict[str, list[dict[str, Any]]]


def version(text: str) -> tuple[list[int], str]:
    return [int(part) if part.isascii() and part.isdigit() else -1 for part in text.split(".")], text


def verdict(audits: list[dict[str, Any]]) -> bool | None:
    if not audits:
        return None
    newest = max((audit["task_version"] for audit in audits), key=version)
    audits = [audit for audit in audits if audit["task_version"] == newest]
    right = [audit for audit in audits if audit["bbox_correct"]]
    wrong = [audit for audit in audits if not audit["bbox_correct"]]
    if len(right) != len(wrong):
        return len(right) > len(wrong)
    latest = max(audit["timestamp"] for audit in audits)
    return not any(audit["timestamp"] == latest for audit in wrong)


def count(documents: Documents) -> dict[str, int]:
    """Counts of `Status`, for documents that are all well formed."""
    found = dict.fromkeys(("images", "processed", "correct", "incorrect", "corrected", "not_in_metadata"), 0)
    known = {document["image_id"] for document in documents["metadata"]}
    for image_id in known:
        predictions = [d for d in documents["bbox.model"] if d["image_id"] == image_id]
        audits = [d for d in documents["bbox.human_audit"] if d["image_id"] == image_id]
        annotations = [d for d in documents["bbox.human_annotation"] if d["image_id"] == image_id]
        found["images"] += 1
        found["processed"] += bool(predictions)
        if audits:
            newest = max((audit["model_version"] for audit in audits), key=version)
            right = verdict([audit for audit in audits if audit["model_version"] == newest])
            found["correct"] += right is True
            found["incorrect"] += right is False
            found["corrected"] += right is False and bool(annotations)
    named = {document["image_id"] for of_one in documents.values() for document in of_one}
    found["not_in_metadata"] = len(named - known)
    return found
