"""The collections and indexes of a workspace, made by numbered steps.

Each step is safe to run twice and from two processes at once: it only makes what isn't there, so a process that
finds its step half done by another ends with the same result. A step that has run is noted in
`truthloop.migrations`; a number above the newest known here means that a newer Truthloop made the workspace.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pymongo import IndexModel
from pymongo.database import Database
from pymongo.errors import CollectionInvalid, DuplicateKeyError, OperationFailure

from truthloop.errors import DatabaseRefused

Document = dict[str, Any]

COLLECTION = "truthloop.migrations"
# The four collections of brief 1, which other systems write to as well.
SOURCES = ("metadata", "bbox.model", "bbox.human_audit", "bbox.human_annotation")

# MongoDB's codes: a namespace that exists already, and a command that clashes with the same one elsewhere.
_NAMESPACE_EXISTS = 48
_CONFLICTING_OPERATION = 117
_ATTEMPTS = 50


def are_there(database: Database[Document]) -> bool:
    """Whether the database is a workspace already."""
    return database[COLLECTION].find_one({}) is not None


def migrate(database: Database[Document]) -> None:
    """Runs the steps that the workspace lacks, in order.

    Raises:
        DatabaseRefused: a newer Truthloop has made this workspace.
    """
    done = {document["_id"] for document in database[COLLECTION].find({}, {"_id": 1})}
    unknown = done - set(range(1, len(STEPS) + 1))
    if unknown:
        raise DatabaseRefused(
            f"The workspace was made by a newer Truthloop (step {max(unknown)}; this one knows {len(STEPS)}). "
            "Upgrade Truthloop."
        )
    for number, step in enumerate(STEPS, start=1):
        if number not in done:
            step(database)
            with suppress(DuplicateKeyError):  # another process ran the same step at the same moment
                database[COLLECTION].insert_one({"_id": number, "name": step.__name__, "time": datetime.now(UTC)})


def prepare_sources(database: Database[Document]) -> None:
    """The customer's four collections: indexes for our queries, and pre-images for deletes and updates.

    Also called when one of them was dropped, and so came back without either. No index is unique: these
    collections may hold duplicates, and other systems' writes must not begin to fail because Truthloop is there
    (docs/decisions/0003).
    """
    for name in SOURCES:
        _create(database, name)
        _retry(
            lambda name=name: database.command(  # type: ignore[misc]
                {"collMod": name, "changeStreamPreAndPostImages": {"enabled": True}}
            )
        )
    for name, keys in SOURCE_INDEXES.items():
        database[name].create_indexes([IndexModel([(key, 1) for key in keys])])
    _index_files(database)


# Each covers what the status needs of its collection, so that no document is fetched for it.
SOURCE_INDEXES: Mapping[str, tuple[str, ...]] = {
    "metadata": ("image_id",),
    "bbox.model": ("image_id", "model_version"),
    "bbox.human_audit": (
        "image_id",
        "model_version",
        "task_version",
        "timestamp",
        "bbox_correct",
        "verdict",
    ),
    "bbox.human_annotation": ("image_id", "task_version", "timestamp"),
}


def _make_own(database: Database[Document]) -> None:
    """Truthloop's own collections, each with a validator."""
    text, whole, date = {"bsonType": "string"}, {"bsonType": ["int", "long"]}, {"bsonType": "date"}
    texts = {"bsonType": "array", "items": text}
    _create(
        database,
        "truthloop.events",
        required={
            "_id": text,
            "type": {"bsonType": "string", "pattern": "^dev\\.truthloop\\.[a-z_]+\\.[a-z_]+$"},
            "source": text,
            "subject": text,
            "time": date,
            "sequence": whole,
            "data": {"bsonType": "object"},
        },
    )
    _create(
        database,
        "truthloop.loads",
        required={"_id": text, "state": {"enum": ["loading", "loaded"]}, "collection": text},
    )
    _create(database, "truthloop.leases", required={"_id": text, "holder": text, "expires": date})
    _create(
        database,
        "truthloop.image_states",
        required={
            "_id": text,
            "state": text,
            "predicted": texts,
            "correct": texts,
            "incorrect": texts,
        },
    )
    database["truthloop.image_states"].create_indexes([IndexModel([("state", 1), ("_id", 1)])])
    _create(database, "truthloop.figures", required={"_id": text, "states": {"bsonType": "object"}})
    _create(database, "truthloop.samples", required={"_id": text, "images": whole, "seed": whole})


def _make_datasets(database: Database[Document]) -> None:
    """The record of each version of the dataset, and the way from an image to its events."""
    _create(
        database,
        "truthloop.datasets",
        required={
            "_id": {"bsonType": ["int", "long"]},
            "state": {"enum": ["building", "built", "undone"]},
            "started": {"bsonType": "date"},
        },
    )
    database["truthloop.datasets"].create_indexes([IndexModel([("state", 1), ("_id", -1)])])
    database["truthloop.events"].create_indexes([IndexModel([("subject", 1), ("_id", 1)])])


def _make_workspace(database: Database[Document]) -> None:
    """What is true of the workspace as a whole: whether it holds real or made-up documents."""
    kinds = {"enum": ["real", "synthetic"]}
    _create(database, "truthloop.workspace", required={"_id": {"bsonType": "string"}, "kind": kinds})


def _make_jobs(database: Database[Document]) -> None:
    """Inference jobs, batches of images, and their results."""
    text, whole, date = {"bsonType": "string"}, {"bsonType": ["int", "long"]}, {"bsonType": "date"}
    states = ["created", "queued", "running", "succeeded", "failed", "cancelled"]
    _create(
        database,
        "truthloop.jobs",
        required={
            "_id": text,
            "revision": whole,
            "state": {"enum": states},
            "model": text,
            "model_version": text,
            "attempts": whole,
            "created_at": date,
        },
    )
    # The first three hold only the jobs that wait or run, so that claiming costs the same after a million jobs.
    waiting, running = {"state": "queued"}, {"state": "running"}
    database["truthloop.jobs"].create_indexes(
        [
            IndexModel([("due_at", 1), ("model", 1)], name="due", partialFilterExpression=waiting),
            IndexModel([("deadline_at", 1)], name="deadline", partialFilterExpression=waiting),
            IndexModel([("lease.expires_at", 1)], name="lease", partialFilterExpression=running),
            IndexModel([("state", 1), ("_id", -1)]),
            IndexModel([("model", 1), ("_id", -1)]),
        ]
    )
    _create(database, "truthloop.results", required={"_id": text, "model": text, "model_version": text})
    _create(
        database,
        "truthloop.batches",
        required={
            "_id": text,
            "revision": whole,
            "state": {"enum": states[1:]},
            "model": text,
            "slices": {"bsonType": "array"},
        },
    )
    database["truthloop.batches"].create_indexes([IndexModel([("state", 1), ("_id", -1)])])
    _create(database, "truthloop.model_versions", required={"_id": text, "model": {"bsonType": "object"}})


def _make_idempotency_keys(database: Database[Document]) -> None:
    """The answers to requests that may be repeated (api/idempotency.py); each goes when its time is over."""
    _create(
        database,
        "truthloop.idempotency_keys",
        required={
            "_id": {"bsonType": "string"},
            "fingerprint": {"bsonType": "string"},
            "expires": {"bsonType": "date"},
        },
    )
    database["truthloop.idempotency_keys"].create_indexes([IndexModel([("expires", 1)], expireAfterSeconds=0)])


def _make_relay_positions(database: Database[Document]) -> None:
    """How far the events have come into Kafka, one document for each of its clusters (events/relay.py)."""
    text = {"bsonType": "string"}
    _create(
        database,
        "truthloop.relay_positions",
        required={"_id": text, "position": text, "term": {"bsonType": ["int", "long"]}},
    )


def _make_file_names(database: Database[Document]) -> None:
    """The ways from a file to the documents that name it, so that files are found that nobody names any more.

    Also the trace that workers leave, and the way to the tasks of the outline service that have had their time.
    """
    _index_files(database)
    database["truthloop.jobs"].create_indexes(
        [
            # Not partial: so of a million jobs with one image a single entry is looked at.
            IndexModel([("image_id", 1)]),
            IndexModel([("image.blob", 1)]),
            IndexModel([("created_at", 1)], name="outlines", partialFilterExpression={"source": "outline"}),
        ]
    )
    database["truthloop.results"].create_indexes(
        [IndexModel([("blob", 1)], partialFilterExpression={"blob": {"$type": "string"}})]
    )
    _create(
        database,
        "truthloop.workers",
        required={"_id": {"bsonType": "string"}, "name": {"bsonType": "string"}, "seen": {"bsonType": "date"}},
    )
    database["truthloop.workers"].create_indexes([IndexModel([("seen", 1)], expireAfterSeconds=86_400)])


def _index_files(database: Database[Document]) -> None:
    database["metadata"].create_indexes(
        [IndexModel([("blob", 1)], partialFilterExpression={"blob": {"$type": "string"}})]
    )


STEPS: tuple[Callable[[Database[Document]], None], ...] = (
    prepare_sources,
    _make_own,
    _make_datasets,
    _make_workspace,
    _make_jobs,
    _make_idempotency_keys,
    _make_relay_positions,
    _make_file_names,
)


def _create(database: Database[Document], name: str, *, required: Document | None = None) -> None:
    validator: Document = {}
    if required is not None:
        validator = {"$jsonSchema": {"bsonType": "object", "required": sorted(required), "properties": required}}
    try:
        database.create_collection(name, validator=validator, check_exists=False)
    except CollectionInvalid:
        pass
    except OperationFailure as error:
        if error.code != _NAMESPACE_EXISTS:
            raise


def _retry(command: Callable[[], object]) -> None:
    """Repeats a command while the same one runs elsewhere."""
    for attempt in range(_ATTEMPTS):
        try:
            command()
            return
        except OperationFailure as error:
            if error.code != _CONFLICTING_OPERATION or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.05)
