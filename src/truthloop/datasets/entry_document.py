"""An entry as it stands in the collection `bbox_dataset`. Pure."""

from typing import Any

from truthloop.datasets.rule import Entry


def document(entry: Entry, version: int) -> dict[str, Any]:
    """An entry as it stands in `bbox_dataset`.

    The order of the fields is part of the format: `quick.py` writes the same bytes.
    """
    return {
        "_id": entry.image_id,
        "image_id": entry.image_id,
        "bboxes": [
            each.box.corners() if each.label is None else each.box.corners() | {"label": each.label}
            for each in entry.boxes
        ],
        "source": {"kind": entry.kind, "version": entry.version, "timestamp": entry.timestamp},
        "verdict": entry.verdict,
        "dataset_version": version,
    }
