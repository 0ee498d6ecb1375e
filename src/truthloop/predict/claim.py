"""How a worker takes jobs from the queue; what becomes of those that it holds is in held.py.

Times are the server's, since workers' clocks disagree.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uuid_utils
from pymongo.client_session import ClientSession

from truthloop.errors import Unavailable
from truthloop.events.record import NewEvent, record_all
from truthloop.predict.change import BY_ID, NOW
from truthloop.predict.documents import JOBS, SOURCE, JobState
from truthloop.store.connection import Document, Locked, Store

# The most jobs that one claim takes: beyond that a transaction costs little more for each job.
MAX_CLAIM = 16
# How long a claim is tried again as a whole where others claim the same: they are done within milliseconds.
PATIENCE_SECONDS = 0.05
# What is read of a job that may be taken.
FIELDS = dict.fromkeys(
    ("revision", "model", "model_version", "image_id", "image", "options", "attempts", "source"), 1
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedJob:
    """A job that a worker holds."""

    id: str
    revision: int
    model: str
    model_version: str
    image_id: str
    blob: str
    width: int
    height: int
    tolerance: float | None
    attempts: int  # with this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Jobs of one model that a worker holds together."""

    token: str
    model: str
    model_version: str
    jobs: tuple[ClaimedJob, ...]
    locked: tuple[str, ...] = ()  # the ids of those that another transaction held


def held_by(token: str, job_ids: Sequence[str]) -> Document:
    """A query for jobs of a claim: those that are still held by it."""
    return {"_id": {"$in": [*job_ids]}, "state": JobState.RUNNING, "lease.claim": token}


def of_models(models: Collection[str] | None, without: Collection[str]) -> Document:
    """A query for what is of these models, None for any, and not of those."""
    wanted: Document = {}
    if models is not None:
        wanted["$in"] = [*models]
    if without:
        wanted["$nin"] = [*without]
    return {"model": wanted} if wanted else {}


def look(
    store: Store,
    *,
    size: Callable[[str], int] = lambda model: MAX_CLAIM,  # noqa: ARG005
    models: Collection[str] | None = None,
    without: Collection[str] = (),
    locked: Collection[str] = (),
) -> tuple[ClaimedJob, ...]:
    """The job that has waited longest, and more of the same model; each as it will be for whoever takes it.

    One that was begun before comes alone: if it is what kills its workers, it takes no other with it.

    Args:
        store: the workspace.
        size: how many jobs of a model at most.
        models: only these; None for any.
        without: not these, for now.
        locked: the ids of jobs to pass over, for now.

    Returns:
        Nothing where nothing waits.
    """
    query: Document = {
        "state": JobState.QUEUED,
        "$expr": {
            "$and": [
                {"$lte": ["$due_at", NOW]},
                {"$or": [{"$eq": [{"$ifNull": ["$deadline_at", None]}, None]}, {"$gt": ["$deadline_at", NOW]}]},
            ]
        },
        **of_models(models, without),
    }
    if locked:
        query["_id"] = {"$nin": [*locked]}
    with store.errors():
        waiting = store[JOBS].find(query, FIELDS, hint="due").sort("due_at", 1).limit(MAX_CLAIM).to_list()
    if not waiting:
        return ()
    kind = (waiting[0]["model"], waiting[0]["model_version"])
    if waiting[0]["attempts"]:
        return (claimed(waiting[0]),)
    same = [each for each in waiting if (each["model"], each["model_version"]) == kind and not each["attempts"]]
    return tuple(claimed(each) for each in same[: size(kind[0])])


def take(store: Store, chosen: Sequence[ClaimedJob], *, worker: str) -> Claim:
    """Takes jobs that were looked up, in one transaction with their events.

    What another transaction holds is not waited for: it may be that of a worker that was killed, which the server
    ends only after a while. The others are taken one by one then.

    Args:
        store: the workspace.
        chosen: what `look` gave, at least one.
        worker: who takes them, for people to read.

    Returns:
        With those of them that nobody else has taken or changed meanwhile, and with the ids of those held.
    """
    token = str(uuid_utils.uuid7())
    mine: list[ClaimedJob] = []
    locked: list[str] = []
    try:
        mine += _take(store, chosen, token, worker, patience_seconds=PATIENCE_SECONDS)
    except Locked:
        for job in chosen:
            try:
                mine += _take(store, [job], token, worker, patience_seconds=0)
            except Locked:
                locked.append(job.id)
            except Unavailable:
                if not mine:
                    raise
                break  # it is told of again when those that were taken end
    return Claim(
        token=token,
        model=chosen[0].model,
        model_version=chosen[0].model_version,
        jobs=tuple(mine),
        locked=tuple(locked),
    )


def _take(
    store: Store, chosen: Sequence[ClaimedJob], token: str, worker: str, *, patience_seconds: float
) -> Sequence[ClaimedJob]:
    lease_ms = round(store.settings.job_lease_seconds * 1000)
    ids = [job.id for job in chosen]

    def work(session: ClientSession) -> Sequence[ClaimedJob]:
        written = store[JOBS].update_many(
            {
                "_id": {"$in": ids},
                "state": JobState.QUEUED,
                # One that was taken and put back meanwhile is another than was read.
                "$or": [{"_id": job.id, "revision": job.revision - 1} for job in chosen],
            },
            [
                {
                    "$set": {
                        "state": JobState.RUNNING,
                        "revision": {"$add": ["$revision", 1]},
                        "attempts": {"$add": ["$attempts", 1]},
                        "started_at": NOW,
                        "updated_at": NOW,
                        "lease": {
                            "claim": token,
                            "worker": {"$literal": worker},
                            "expires_at": {"$add": [NOW, lease_ms]},
                        },
                    }
                },
                {"$unset": "due_at"},
            ],
            hint=BY_ID,
            session=session,
        )
        mine = chosen
        if written.modified_count < len(chosen):
            taken = {each["_id"] for each in store[JOBS].find(held_by(token, ids), {"_id": 1}, session=session)}
            mine = [job for job in chosen if job.id in taken]
        events = [
            NewEvent(
                type="job.started",
                subject=job.id,
                sequence=job.revision,
                data={
                    "state": JobState.RUNNING,
                    "model": job.model,
                    "image_id": job.image_id,
                    "attempt": job.attempts,
                },
            )
            for job in mine
        ]
        record_all(store, session, events, source=SOURCE)
        return mine

    # Should a crash undo it, the jobs wait again, and whoever ends them without holding them changes nothing.
    return store.transaction(work, is_lasting=False, patience_seconds=patience_seconds)


def announced(
    document: Document, *, models: Collection[str] | None = None, without: Collection[str] = ()
) -> tuple[ClaimedJob, ...]:
    """A job as it was put into the queue, for whoever takes it; nothing if it isn't of a model that is wanted."""
    name = document["model"]
    if name in without or not (models is None or name in models):
        return ()
    return (claimed(document),)


def claimed(document: Mapping[str, Any], *, attempts: int | None = None) -> ClaimedJob:
    """A job as it was read while it waited, and as it is when it's taken."""
    return ClaimedJob(
        id=document["_id"],
        revision=document["revision"] + 1,
        model=document["model"],
        model_version=document["model_version"],
        image_id=document["image_id"],
        blob=document["image"]["blob"],
        width=document["image"]["width"],
        height=document["image"]["height"],
        tolerance=document["options"]["tolerance"],
        attempts=document["attempts"] + 1 if attempts is None else attempts,
    )
