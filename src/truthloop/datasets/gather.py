"""Reading the documents of a range of images, and deciding each of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from truthloop.datasets.entry_document import document
from truthloop.datasets.layouts import Batch
from truthloop.datasets.quick import decide_quickly
from truthloop.datasets.report import Tally
from truthloop.datasets.rule import Entry, LeftOut, decide
from truthloop.datasets.snapshot import Snapshot, errors
from truthloop.store.connection import Store
from truthloop.store.migrations import SOURCE_INDEXES

# Which images: an operator on `image_id` such as {"$gt": ..., "$lte": ...}, given texts.
Selector = Mapping[str, Any]

_BATCH = 100_000
# Collections of which the index has all that is needed.
_COVERED = ("metadata", "bbox.human_audit")
# Images that are looked up together to be decided one by one.
_AT_ONCE = 5_000
# What is read of their documents.
_FIELDS: Mapping[str, Mapping[str, int]] = {
    "metadata": {"_id": 0, "image_id": 1},
    "bbox.model": {"_id": 0, "image_id": 1, "model_version": 1, "bboxes": 1, "timestamp": 1},
    # Whole, since equal documents are one.
    "bbox.human_annotation": {"_id": 0, "source_id": 0},
    "bbox.human_audit": {"_id": 0} | dict.fromkeys(SOURCE_INDEXES["bbox.human_audit"], 1),
}


@dataclass(slots=True)
class Decided:
    """What became of the images of a range."""

    documents: list[Any] = field(default_factory=list)  # of `bbox_dataset`
    left_out: list[LeftOut] = field(default_factory=list)  # in the order of their ids
    tally: Tally = field(default_factory=Tally)


def decide_range(
    store: Store, snapshot: Snapshot, which: Selector, *, version: int, without_incorrect: bool
) -> Decided:
    """Decides the images of a range: at once where nothing is odd about them, else one by one.

    Args:
        store: the workspace.
        snapshot: the moment.
        which: the range.
        version: of the dataset, which its documents carry.
        without_incorrect: as in `decide`.
    """
    quick = decide_quickly(
        metadata=_raw(store, snapshot, "metadata", which),
        predictions=_raw(store, snapshot, "bbox.model", which),
        annotations=_raw(store, snapshot, "bbox.human_annotation", which),
        audits=_raw(store, snapshot, "bbox.human_audit", which),
        version=version,
        without_incorrect=without_incorrect,
    )
    decided = Decided(quick.documents, quick.left_out, quick.tally)
    for begin in range(0, len(quick.odd), _AT_ONCE):
        decide_one_by_one(
            store,
            snapshot,
            quick.odd[begin : begin + _AT_ONCE],
            decided,
            version=version,
            without_incorrect=without_incorrect,
        )
    decided.left_out.sort(key=lambda image: image.image_id)
    return decided


def decide_one_by_one(
    store: Store,
    snapshot: Snapshot,
    image_ids: Sequence[str],
    decided: Decided,
    *,
    version: int,
    without_incorrect: bool,
) -> None:
    """Decides images of `metadata` by the rule itself, from their decoded documents."""
    which = {"$in": list(image_ids)}
    read = {name: _by_image(store, snapshot, name, which) for name in _FIELDS if name != "metadata"}
    for image_id in image_ids:
        outcome = decide(
            image_id,
            annotations=read["bbox.human_annotation"].get(image_id, ()),
            predictions=read["bbox.model"].get(image_id, ()),
            audits=read["bbox.human_audit"].get(image_id, ()),
            without_incorrect=without_incorrect,
        )
        decided.tally.add(outcome)
        if isinstance(outcome, Entry):
            decided.documents.append(document(outcome, version))
        else:
            decided.left_out.append(outcome)


def _by_image(store: Store, snapshot: Snapshot, name: str, which: Selector) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with errors(store):
        cursor = snapshot.collection(name).find(
            {"image_id": dict(which)},
            _FIELDS[name],
            hint=[(key, 1) for key in SOURCE_INDEXES[name]],
            batch_size=_BATCH,
        )
        for entry in cursor.to_list():
            # A list of ids matches by its elements; as an id it is none.
            if isinstance(entry["image_id"], str):
                found[entry["image_id"]].append(entry)
    return found


def _raw(store: Store, snapshot: Snapshot, name: str, which: Selector) -> list[Batch]:
    """The documents as their bytes."""
    with errors(store):
        return snapshot.find_raw(
            name,
            {"image_id": dict(which)},
            hint=SOURCE_INDEXES[name],
            # Where documents are fetched anyway, leaving fields out costs the server more than sending them.
            fields=_FIELDS[name] if name in _COVERED else {},
        )


# About so many documents of a collection make a range: enough to be worth a query, few enough to keep memory
# flat. A small workspace is cut smaller, so that there is work for all threads.
_RANGE, _SMALLEST_RANGE, _LEAST_RANGES = 20_000, 2_000, 4
# A crowd has hundreds of boxes in a document: of such documents fewer make a range.
_RANGE_BYTES = 10_000_000
_CUT_BY = ("metadata", "bbox.model", "bbox.human_annotation")
# Documents that are drawn for each range; with so many its size is right within a fifth or so.
_DRAWN = 25


def ranges(store: Store) -> list[Selector]:
    """Cuts the ids of all images into ranges that together cover every text, about equally large.

    The cuts are quantiles of documents drawn at random, since MongoDB finds the n-th of an index by counting to n.
    They don't touch what comes out: the ranges cover all texts, and what they hold is read at the snapshot.
    """
    with store.errors():
        documents, name = max((store[name].estimated_document_count(), name) for name in _CUT_BY)
        size = min(_RANGE, max(_SMALLEST_RANGE, documents // _LEAST_RANGES + 1))
        largest = max(int(store.database.command("collStats", name).get("size", 0)) for name in _CUT_BY)
        parts = max(-(-documents // size), min(documents, largest // _RANGE_BYTES))
        if parts < 2:
            return [{"$gte": ""}]
        drawn = store[name].aggregate([{"$sample": {"size": _DRAWN * parts}}, {"$project": {"image_id": 1}}])
        ids = sorted(each["image_id"] for each in drawn if isinstance(each.get("image_id"), str))
    ends = sorted({ids[number * len(ids) // parts] for number in range(1, parts)} - {""}) if ids else []
    if not ends:
        return [{"$gte": ""}]
    # The empty text is an id too, though no document should have it.
    return [
        {"$gte": "", "$lte": ends[0]},
        *({"$gt": low, "$lte": high} for low, high in pairwise(ends)),
        {"$gt": ends[-1]},
    ]
