"""An entry as it stands in the collection `bbox_dataset`. Pure."""

from typing import Any

from truthloop.datasets.rule import Entry, EntryBox


def document(entry: Entry, version: int) -> dict[str, Any]:
    """An entry as it stands in `bbox_dataset`.

    The order of the fields is part of the format: `entry_bytes.py` writes the same bytes.
    """
    return {
        "_id": entry.image_id,
        "image_id": entry.image_id,
        "bboxes": [box_document(each) for each in entry.boxes],
        "source": {"kind": entry.kind, "version": entry.version, "timestamp": entry.timestamp},
        "verdict": entry.verdict,
        "dataset_version": version,
    }


def box_document(found: EntryBox) -> dict[str, Any]:
    """A box of an entry: its corners, and its label where it has one."""
    corners: dict[str, Any] = found.box.corners()
    return corners if found.label is None else corners | {"label": found.label}
