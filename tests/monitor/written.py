"""What the tests of the figures share: documents as others write them, and the proof of what is counted."""

from typing import Any

from monitor import reference
from truthloop.monitor import follow, recount
from truthloop.monitor.documents import Status
from truthloop.monitor.status import read_kept, status
from truthloop.store.connection import Store
from truthloop.store.migrations import SOURCES


def metadata(image_id: str) -> dict[str, Any]:
    return {"image_id": image_id, "capture_timestamp": 1}


def prediction(image_id: str, model_version: str = "1.0.0") -> dict[str, Any]:
    return {"image_id": image_id, "bboxes": [], "model_version": model_version}


def audit(image_id: str, *, correct: bool, model_version: str = "1.0.0", timestamp: float = 1) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "model_version": model_version,
        "bbox_correct": correct,
        "auditor": "a@example.com",
        "task_version": "1.0.0",
        "timestamp": timestamp,
    }


def annotation(image_id: str) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "bbox": None,
        "annotator": "a@example.com",
        "task_version": "1.0.0",
        "timestamp": 1,
    }


def counts(found: Status) -> dict[str, int]:
    return {
        "images": found.images,
        "processed": found.processed.count,
        "correct": found.correct.count,
        "incorrect": found.incorrect.count,
        "corrected": found.corrected.count,
        "not_in_metadata": found.not_in_metadata,
    }


def read_all(store: Store) -> reference.Documents:
    return {name: list(store[name].find()) for name in SOURCES}


def current(store: Store) -> Status:
    """The status with everything counted that was written before, whatever its age."""
    assert follow.catch_up(store)
    return status(store)


def assert_proved(store: Store) -> None:
    found = current(store)
    assert counts(found) == reference.count(read_all(store))
    kept = read_kept(store)
    assert kept is not None
    assert kept.figures == recount.count(store)
