"""Predictions into `bbox.model`: under which version, and each image's once."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bson.binary import Binary
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, DuplicateKeyError

from truthloop.errors import Conflict, InputRefused
from truthloop.ingest.documents import ID_SUBTYPE, MAX_NAME_BYTES, prepare
from truthloop.predict.documents import BATCHES, MODEL_VERSIONS, BatchState
from truthloop.store.connection import Document, Store
from truthloop.versions import version_key

if TYPE_CHECKING:
    from truthloop.models.documents import Boxes, CatalogueEntry

PREDICTIONS = "bbox.model"
AUTO = "auto"
# A major version of more digits is counted up no further: the next one could be too long for a document.
_MAX_DIGITS = 1000
_DUPLICATE_KEY = 11000
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")


class VersionTaken(Exception):
    """Another model has been given the version at the same moment."""


class Collision(Exception):
    """Somebody else stored one of the predictions at the same moment; the next attempt finds it there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of predictions."""

    new: int
    already_there: int
    conflicts: Mapping[str, str]  # by image id: why it isn't recorded


def provenance(entry: "CatalogueEntry") -> Document:
    """Which model made a prediction, as its document says it; no sha256 where the runtime carries the model."""
    return {
        "name": entry.name,
        "version": entry.version,
        "sha256": entry.file.sha256 if entry.file is not None else None,
    }


def choose_version(standing: Mapping[str, Sequence[object]], model: Mapping[str, Any], wanted: str | None) -> str:
    """The version under which a model's boxes are recorded. Pure.

    Args:
        standing: by version, which models' boxes stand under it; None for boxes that don't say.
        model: this one, as `provenance` gives it.
        wanted: the version that was asked for; None for the one under which this very model stands there, else
            the next major above the newest, else 1.0.0.

    Raises:
        Conflict: under the wanted version stand another model's boxes.

    >>> choose_version({"2.1.0": [None], "10.0.0": [None]}, {"name": "faces"}, None)
    '11.0.0'
    >>> choose_version({"2.1.0": [{"name": "faces"}], "10.0.0": [None]}, {"name": "faces"}, None)
    '2.1.0'
    """
    if wanted is None:
        mine = [
            version for version, models in standing.items() if models and all(each == model for each in models)
        ]
        if mine:
            return max(mine, key=version_key)
        return next_major(standing)
    others = [each for each in standing.get(wanted, ()) if each != model]
    if others:
        other = others[0]
        whose = f"{other['name']} {other['version']}" if isinstance(other, Mapping) else "another source"
        raise Conflict(
            f"Under the version {wanted} there are boxes of {whose}, and one version is one model. Give another "
            f"version, such as {next_major(standing)}, or none to have it chosen."
        )
    return wanted


def next_major(versions: Mapping[str, object]) -> str:
    """The next major version above the newest, else the first from 1.0.0 on that is free.

    >>> next_major({"2.1.0": 0, "10.3": 0}), next_major({}), next_major({"beta": 0})
    ('11.0.0', '1.0.0', '1.0.0')
    >>> next_major({"1.0.0": 0, "99999999999999999999.0": 0})
    '100000000000000000000.0.0'
    """
    first = max(versions, key=version_key).split(".")[0] if versions else ""
    number = int(first) + 1 if first.isascii() and first.isdigit() and len(first) < _MAX_DIGITS else 1
    while f"{number}.0.0" in versions:
        number += 1
    return f"{number}.0.0"


def checked_version(version: str) -> str:
    """The version, if it is one that people can compare: numbers with dots between them.

    A text that is no number is older than every number, so what is recorded under it would never be looked at.

    Raises:
        InputRefused: it's empty, too long, or has a part that is no number.
    """
    if not _VERSION.fullmatch(version):
        fault = "must be numbers with dots between them"
    elif len(version) > MAX_NAME_BYTES:
        fault = f"must have 1 to {MAX_NAME_BYTES} bytes"
    else:
        return version
    raise InputRefused(
        f"The version to record as is {version[:64]!r}; it {fault}, such as 2.0.0. Give auto to have it chosen.",
        errors={"record_as": fault},
    )


def newer_than(version: str, standing: Iterable[str]) -> str | None:
    """The newest of the versions that stand there, if it is newer than this one.

    >>> newer_than("2.0.0", ["9.0.0", "10.0.0", "beta"]), newer_than("11.0.0", ["10.0.0"])
    ('10.0.0', None)
    """
    newest = max([version, *standing], key=version_key)
    return newest if newest != version else None


def older_of_others(
    version: str, recorded: Mapping[str, Sequence[object]], model: Mapping[str, Any]
) -> tuple[str, str | None] | None:
    """The newest version of another model that a version of this one outdoes, and that model's name. Pure.

    Args:
        version: under which this model's boxes stand.
        recorded: by version, which models' boxes stand under it; None for boxes that don't say.
        model: this one, as `provenance` gives it.

    Returns:
        The name is None where those boxes don't say whose they are. None where there are no such versions, or
        where a newer one than this stands there, whose boxes count before these.

    >>> older_of_others("10.0.0", {"2.0.0": [{"name": "faces"}], "1.0.0": [None]}, {"name": "people"})
    ('2.0.0', 'faces')
    >>> older_of_others("2.0.0", {"1.0.0": [{"name": "faces"}], "10.0.0": [None]}, {"name": "people"})
    """
    if newer_than(version, recorded) is not None:
        return None
    others = {
        each: whose
        for each, models in recorded.items()
        if version_key(each) < version_key(version)
        for whose in models
        if whose != model
    }
    if not others:
        return None
    newest = max(others, key=version_key)
    whose = others[newest]
    name = whose.get("name") if isinstance(whose, Mapping) else None
    return newest, name if isinstance(name, str) else None


def standing_versions(store: Store) -> dict[str, list[object]]:
    """By model version, which models' boxes stand under it or are about to; a scan of all predictions."""
    found = recorded_versions(store)
    with store.errors():
        for each in store[MODEL_VERSIONS].find({}):
            found.setdefault(each["_id"], []).append(each["model"])
    return found


def recorded_versions(store: Store) -> dict[str, list[object]]:
    """By model version, which models' boxes stand under it, None for those that don't say; a scan as above."""
    found: dict[str, list[object]] = {}
    group = {"$group": {"_id": {"version": "$model_version", "model": {"$ifNull": ["$model", None]}}}}
    with store.errors():
        for each in store[PREDICTIONS].aggregate([group]):
            if isinstance(version := each["_id"].get("version"), str):
                found.setdefault(version, []).append(each["_id"].get("model"))
    return found


def reserve_version(store: Store, session: ClientSession, version: str, model: Mapping[str, Any]) -> None:
    """Notes that a version is this model's from now on.

    Raises:
        VersionTaken: it is another's.
    """
    try:
        store[MODEL_VERSIONS].update_one(
            {"_id": version, "model": dict(model)},
            # A write in any case, so that it clashes with a release at the same moment.
            {"$currentDate": {"reserved_at": True}},
            upsert=True,
            session=session,
        )
    except DuplicateKeyError as error:
        raise VersionTaken from error


def release_version(store: Store, session: ClientSession, batch: Mapping[str, Any]) -> None:
    """Frees the version of a batch that has found nothing to record, unless another batch may record under it.

    Boxes that stand under it say themselves whose it is.
    """
    version = batch["record_as"]
    others = {"_id": {"$ne": batch["_id"]}, "record_as": version, "state": {"$ne": BatchState.SUCCEEDED}}
    if store[BATCHES].find_one(others, {"_id": 1}, session=session) is None:
        store[MODEL_VERSIONS].delete_one({"_id": version, "model": batch["provenance"]}, session=session)


def recorded_of(
    store: Store, image_ids: Sequence[str], version: str, session: ClientSession | None = None
) -> dict[str, object]:
    """By image id, whose prediction stands there under a version already, whatever its `_id`."""
    query = {"image_id": {"$in": [*image_ids]}, "model_version": {"$eq": version}}
    with store.errors():
        found = store[PREDICTIONS].find(query, {"_id": 0, "image_id": 1, "model": 1}, session=session)
        return {each["image_id"]: each.get("model") for each in found}


def conflict_text(version: str) -> str:
    """Why a prediction isn't recorded where another stands."""
    return f"There is a prediction of another model under the version {version}."


def record_boxes(
    store: Store,
    session: ClientSession,
    found: Mapping[str, "Boxes"],
    *,
    version: str,
    model: Mapping[str, Any],
) -> Recorded:
    """Stores the boxes of images as documents of `bbox.model`, in the caller's transaction.

    A prediction of the same model that stands there under the version is left as it is.

    Args:
        store: the workspace.
        session: the transaction's.
        found: by image id.
        version: the model version of the documents.
        model: as `provenance` gives it.

    Raises:
        Collision: somebody else has stored one of them meanwhile; the transaction is void.
    """
    there = recorded_of(store, list(found), version, session)
    new = []
    for image_id, boxes in found.items():
        if image_id not in there:
            document = {
                "image_id": image_id,
                "model_version": version,
                "bboxes": [box.model_dump() for box in boxes.boxes],
                "model": dict(model),
            }
            identity = Binary(prepare(PREDICTIONS, document, encode=False).id, ID_SUBTYPE)
            new.append({"_id": identity, **document})
    if new:
        try:
            store[PREDICTIONS].insert_many(new, session=session)
        except BulkWriteError as error:
            if any(fault.get("code") == _DUPLICATE_KEY for fault in (error.details or {}).get("writeErrors", ())):
                raise Collision from error
            raise
    conflicts = {image_id: conflict_text(version) for image_id, whose in there.items() if whose != model}
    return Recorded(new=len(new), already_there=len(there) - len(conflicts), conflicts=conflicts)
