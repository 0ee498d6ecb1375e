"""Reading image states from the four collections, and the ones that were written down before."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeGuard

from pymongo.client_session import ClientSession
from pymongo.read_concern import ReadConcern

from truthloop.monitor.states import NOTHING, ImageState, verdicts
from truthloop.review.verdict import Audit
from truthloop.store.connection import Store
from truthloop.store.migrations import SOURCE_INDEXES

COLLECTION = "truthloop.image_states"

# Which images: an operator on `image_id`, such as {"$in": [...]} or {"$gt": ..., "$lte": ...}. Ids that aren't
# text belong to no image; both operators pass them over when they are given texts.
Selector = Mapping[str, Any]

_BATCH = 100_000
# Ids of images are names, not texts; thousands of them must fit into one query.
MAX_ID_BYTES = 1024
_UNAUDITED: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
_NOT_UTF8 = "\ufffd"  # what PyMongo puts for bytes that aren't UTF-8 (see Store)


def is_image_id(value: object) -> TypeGuard[str]:
    """Whether a stored `image_id` can be one: text in UTF-8 of at most 1,024 bytes.

    Documents with another one belong to no image; every reader passes them over.
    """
    return isinstance(value, str) and _NOT_UTF8 not in value and len(value.encode()) <= MAX_ID_BYTES


def read_states(store: Store, which: Selector, session: ClientSession | None = None) -> dict[str, ImageState]:
    """The states of the chosen images, from their documents as they are now.

    Each collection is read by its index alone (`SOURCE_INDEXES`), without a document being fetched.

    Returns:
        By image id, for each chosen image that any of the four collections names.
    """
    known = _read_known(store, which, session)
    predicted = _read_predicted(store, which, session)
    audited = _read_audited(store, which, session)
    annotated = _read_annotated(store, which, session)
    return {
        image_id: ImageState(
            image_id in known,
            predicted.get(image_id, ()),
            *audited.get(image_id, _UNAUDITED),
            image_id in annotated,
        )
        for image_id in known | predicted.keys() | audited.keys() | annotated
    }


def read_changed(
    store: Store,
    changed: Mapping[str, set[str]],
    old: Mapping[str, ImageState],
    session: ClientSession | None = None,
) -> dict[str, ImageState]:
    """The states of images that changed in some of the collections: only these are read again.

    Args:
        store: the workspace.
        changed: by collection, the ids of the images whose documents there may have changed.
        old: the states of these images before, by id.
        session: for reads that follow what a change stream has shown.

    Returns:
        As `read_states`.
    """

    def those(name: str) -> tuple[set[str], Selector]:
        ids = changed.get(name, set())
        return ids, {"$in": sorted(ids)}

    (in_metadata, which), states = those("metadata"), {}
    known = _read_known(store, which, session) if in_metadata else set()
    in_model, which = those("bbox.model")
    predicted = _read_predicted(store, which, session) if in_model else {}
    in_audits, which = those("bbox.human_audit")
    audited = _read_audited(store, which, session) if in_audits else {}
    in_annotations, which = those("bbox.human_annotation")
    annotated = _read_annotated(store, which, session) if in_annotations else set()
    for image_id in in_metadata | in_model | in_audits | in_annotations:
        before = old.get(image_id, NOTHING)
        correct, incorrect = (
            audited.get(image_id, _UNAUDITED) if image_id in in_audits else (before.correct, before.incorrect)
        )
        state = ImageState(
            image_id in known if image_id in in_metadata else before.known,
            predicted.get(image_id, ()) if image_id in in_model else before.predicted,
            correct,
            incorrect,
            image_id in annotated if image_id in in_annotations else before.annotated,
        )
        if state != NOTHING:
            states[image_id] = state
    return states


# An image's state has a part from each collection, which depends on that collection alone.


def _read_known(store: Store, which: Selector, session: ClientSession | None) -> set[str]:
    return {entry["image_id"] for entry in _read(store, "metadata", which, session)}


def _read_predicted(store: Store, which: Selector, session: ClientSession | None) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = defaultdict(set)
    for entry in _read(store, "bbox.model", which, session):
        if isinstance(version := entry.get("model_version"), str):
            found[entry["image_id"]].add(version)
    return {image_id: tuple(sorted(versions)) for image_id, versions in found.items()}


def _read_audited(
    store: Store, which: Selector, session: ClientSession | None
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    found: dict[str, dict[str, list[Audit]]] = defaultdict(dict)
    for entry in _read(store, "bbox.human_audit", which, session):
        audit, version = Audit.parse(entry), entry.get("model_version")
        if audit is not None and isinstance(version, str):
            found[entry["image_id"]].setdefault(version, []).append(audit)
    return {image_id: verdicts(audits) for image_id, audits in found.items()}


def _read_annotated(store: Store, which: Selector, session: ClientSession | None) -> set[str]:
    return {entry["image_id"] for entry in _read(store, "bbox.human_annotation", which, session)}


def _read(store: Store, name: str, which: Selector, session: ClientSession | None) -> list[dict[str, Any]]:
    keys = SOURCE_INDEXES[name]
    # Majority: a document that a failover rolls back would be counted, and no change event would count it out.
    collection = store.database.get_collection(name, read_concern=ReadConcern("majority"))
    found = collection.find(
        {"image_id": dict(which)},
        {"_id": 0} | dict.fromkeys(keys, 1),
        hint=[(key, 1) for key in keys],
        batch_size=_BATCH,
        session=session,
    ).to_list()
    return [entry for entry in found if is_image_id(entry["image_id"])]


def read_written(store: Store, which: Selector, session: ClientSession | None = None) -> dict[str, ImageState]:
    """The states of the chosen images that were written down before, by image id."""
    return {
        document["_id"]: ImageState(
            known=document["known"],
            predicted=tuple(document["predicted"]),
            correct=tuple(document["correct"]),
            incorrect=tuple(document["incorrect"]),
            annotated=document["annotated"],
        )
        for document in store[COLLECTION].find({"_id": dict(which)}, batch_size=_BATCH, session=session).to_list()
    }


def fields(state: ImageState) -> dict[str, Any]:
    """A state as it is written down: what it says, and `state`, the key by which images are listed."""
    return {
        "state": state.key,
        "known": state.known,
        "predicted": list(state.predicted),
        "correct": list(state.correct),
        "incorrect": list(state.incorrect),
        "annotated": state.annotated,
    }


def write_states(
    store: Store,
    old: Mapping[str, ImageState],
    new: Mapping[str, ImageState],
    session: ClientSession | None = None,
) -> None:
    """Writes down what differs: images in `new` get their state, images only in `old` go.

    Images that come to the same state are updated together: there are few different states, and one update of
    many costs half of many updates of one.
    """
    states = store[COLLECTION]
    changed: dict[ImageState, list[str]] = defaultdict(list)
    for image_id, state in new.items():
        if image_id in old and old[image_id] != state:
            changed[state].append(image_id)
    for state, image_ids in changed.items():
        states.update_many({"_id": {"$in": image_ids}}, {"$set": fields(state)}, session=session)
    added = [{"_id": image_id, **fields(new[image_id])} for image_id in sorted(new.keys() - old.keys())]
    if added:
        states.insert_many(added, ordered=False, session=session)
    if gone := list(old.keys() - new.keys()):
        states.delete_many({"_id": {"$in": gone}}, session=session)
