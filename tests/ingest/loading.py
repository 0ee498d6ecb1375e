"""What the tests of loading share: documents, and what became of them."""

import json
from pathlib import Path
from typing import Any

from truthloop.ingest.documents import COLLECTIONS
from truthloop.ingest.reports import FileReport, LoadReport
from truthloop.store.connection import Store

AUDIT = {
    "image_id": "a",
    "model_version": "1.0.0",
    "bbox_correct": True,
    "auditor": "x",
    "task_version": "1.0.0",
    "timestamp": 1,
}
ANNOTATION = {
    "image_id": "a",
    "bbox": {"left": 0.1, "top": 0.2, "right": 0.3, "bottom": 0.4},
    "annotator": "x",
    "task_version": "1.0.0",
    "timestamp": 1,
}


def write(folder: Path, name: str, documents: list[Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(documents), encoding="utf-8")
    return path


def stored(store: Store, collection: str) -> list[dict[str, Any]]:
    """What a collection holds, without the ids."""
    return [{key: value for key, value in each.items() if key != "_id"} for each in store[collection].find()]


def only(report: LoadReport) -> FileReport:
    assert len(report.items) == 1
    return report.items[0]


def rejects(report: LoadReport) -> list[dict[str, Any]]:
    assert report.rejects is not None
    return [json.loads(line) for line in Path(report.rejects).read_text(encoding="utf-8").splitlines()]


def empty(store: Store) -> None:
    for name in (*COLLECTIONS, "truthloop.loads", "truthloop.events"):
        store[name].delete_many({})
