"""What a worker does with the queue: takes jobs, holds them, and ends them or puts them back.

Every change names the claim it stands on, so whoever has lost a job (cancelled, deleted, or taken by another since
the lease ran out) changes nothing any more. Times are the server's, since workers' clocks disagree.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bson
import uuid_utils
from pymongo import UpdateOne
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure

from truthloop.events.record import NewEvent, record_all
from truthloop.predict.change import BY_ID, NOW, change
from truthloop.predict.documents import JOBS, MAX_ATTEMPTS, RESULTS, SOURCE, JobState
from truthloop.store.connection import Document, Store

# MongoDB's code for what another transaction has changed and not committed yet.
_WRITE_CONFLICT = 112
# The most jobs that one claim takes: beyond that a transaction costs little more for each job.
MAX_CLAIM = 16
# A result of at most so many bytes is kept in its job, which saves a command. A larger one would slow down
# whoever looks for jobs.
MAX_IN_JOB_BYTES = 4096
# Of an attempt that doesn't count: nothing was worked, so it leaves no start where it was the first one.
_NOT_STARTED: Document = {
    "attempts": {"$subtract": ["$attempts", 1]},
    "started_at": {"$cond": [{"$gt": ["$attempts", 1]}, "$started_at", None]},
}
# How many jobs one look puts back or fails; the next look goes on.
SWEEP_LIMIT = 100
# A job that could not be worked waits so long before it is tried again, times its attempts so far.
RETRY_SECONDS = 2.0
# While what it needs can't be had, a job waits as long as it has done so already, at least RETRY_SECONDS and at
# most so long. It has failed when that has gone on for more than an hour, or when its deadline has passed.
AWAY_SECONDS = 60.0
AWAY_AT_MOST_SECONDS = 3600.0

_FIELDS = dict.fromkeys(
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A job's end: with `result`, the fields of its result's document; with `error`, failed for good.

    With `retry` it goes back into the queue, unless it has been tried often enough; with `unavailable` besides,
    that isn't counted as an attempt.
    """

    job: ClaimedJob
    result: Document | None = None
    error: str | None = None
    retry: str | None = None
    unavailable: bool = False


class JobsLocked(Exception):
    """A transaction that has not ended yet has changed jobs that were to be taken."""


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
    wanted: Document = {}
    if models is not None:
        wanted["$in"] = [*models]
    if without:
        wanted["$nin"] = [*without]
    query: Document = {
        "state": JobState.QUEUED,
        "$expr": {
            "$and": [
                {"$lte": ["$due_at", NOW]},
                {"$or": [{"$eq": [{"$ifNull": ["$deadline_at", None]}, None]}, {"$gt": ["$deadline_at", NOW]}]},
            ]
        },
    }
    if wanted:
        query["model"] = wanted
    if locked:
        query["_id"] = {"$nin": [*locked]}
    with store.errors():
        waiting = store[JOBS].find(query, _FIELDS, hint="due").sort("due_at", 1).limit(MAX_CLAIM).to_list()
    if not waiting:
        return ()
    kind = (waiting[0]["model"], waiting[0]["model_version"])
    if waiting[0]["attempts"]:
        return (_claimed(waiting[0]),)
    same = [each for each in waiting if (each["model"], each["model_version"]) == kind and not each["attempts"]]
    return tuple(_claimed(each) for each in same[: size(kind[0])])


def take(store: Store, chosen: Sequence[ClaimedJob], *, worker: str) -> Claim:
    """Takes jobs that were looked up, in one transaction with their events.

    Args:
        store: the workspace.
        chosen: what `look` gave, at least one.
        worker: who takes them, for people to read.

    Returns:
        With those of them that nobody else has taken or changed meanwhile.

    Raises:
        JobsLocked: another transaction has changed at least one of them and has not ended. It isn't waited for: it
            may be that of a worker that was killed, which the server ends only after a while.
    """
    token = str(uuid_utils.uuid7())
    lease_ms = round(store.settings.job_lease_seconds * 1000)

    def work(session: ClientSession) -> tuple[ClaimedJob, ...]:
        # By revision: one that was taken and put back meanwhile is another than was read.
        written = store[JOBS].update_many(
            {
                "_id": {"$in": [job.id for job in chosen]},
                "state": JobState.QUEUED,
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
        mine = tuple(chosen)
        if written.modified_count < len(chosen):
            ids = [job.id for job in chosen]
            held = {each["_id"] for each in store[JOBS].find(_held(token, ids), {"_id": 1}, session=session)}
            mine = tuple(job for job in chosen if job.id in held)
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

    def work_or_leave(session: ClientSession) -> tuple[ClaimedJob, ...]:
        try:
            return work(session)
        except OperationFailure as error:
            if error.code == _WRITE_CONFLICT:
                raise JobsLocked from error
            raise

    # Should a crash undo it, the jobs wait again, and whoever ends them without holding them changes nothing.
    mine = store.transaction(work_or_leave, is_lasting=False)
    return Claim(token=token, model=chosen[0].model, model_version=chosen[0].model_version, jobs=mine)


def renew(store: Store, token: str, job_ids: Sequence[str]) -> int:
    """Holds the jobs of a claim for another lease's time; returns how many are still held."""
    lease_ms = round(store.settings.job_lease_seconds * 1000)
    with store.errors():
        return (
            store[JOBS]
            .update_many(_held(token, job_ids), [{"$set": {"lease.expires_at": {"$add": [NOW, lease_ms]}}}])
            .matched_count
        )


def finish(store: Store, token: str, outcomes: Sequence[Done]) -> int:
    """Ends the jobs of a claim: results, states and events in one transaction.

    What isn't held any more (cancelled, deleted, or lost with its lease) is dropped.

    Args:
        store: the workspace.
        token: of the claim.
        outcomes: of those of its jobs that are to end or to go back.

    Returns:
        How many were still held.
    """
    ended = [outcome for outcome in outcomes if outcome.retry is None]
    held = len(ended)
    if ended:
        try:
            store.transaction(lambda session: _finish(store, session, token, ended))
        except _SomeLost:
            held = store.transaction(lambda session: _finish_held(store, session, token, ended))
    for outcome in outcomes:
        if outcome.retry is not None:
            held += put_back(store, token, [outcome.job], error=outcome.retry, unavailable=outcome.unavailable)
    return held


def put_back(
    store: Store,
    token: str,
    claimed: Sequence[ClaimedJob],
    *,
    error: str | None = None,
    expired: bool = False,
    unavailable: bool = False,
) -> int:
    """Puts jobs of a claim back into the queue; those that were tried often enough have failed.

    Args:
        store: the workspace.
        token: of the claim.
        claimed: which of its jobs.
        error: why; None where it is nobody's fault, and the attempt doesn't count.
        expired: whether it is done for a worker whose lease has run out, and only if it has.
        unavailable: whether `error` says that something they need is away for now: the attempt doesn't count, they
            wait longer each time, and have failed after an hour of it.

    Returns:
        How many were still held.
    """
    if unavailable:
        assert error is not None
        return sum(_put_off(store, token, job, error) for job in claimed)
    return sum(_put_back(store, token, job, error, expired=expired) for job in claimed)


def sweep(store: Store) -> int:
    """Puts jobs back whose lease has run out, and fails those that waited beyond their deadline.

    Any worker may do it at any time, also several at once.

    Returns:
        How many jobs it has changed.
    """
    lapsed = {"$lte": ["$lease.expires_at", NOW]}
    late = {"$lte": ["$deadline_at", NOW]}
    with store.errors():
        expired = (
            store[JOBS]
            .find({"state": JobState.RUNNING, "$expr": lapsed}, {**_FIELDS, "lease": 1}, hint="lease")
            .sort("lease.expires_at", 1)
            .limit(SWEEP_LIMIT)
            .to_list()
        )
        overdue = (
            store[JOBS]
            .find(
                {"state": JobState.QUEUED, "deadline_at": {"$type": "date"}, "$expr": late},
                {"deadline_seconds": 1, "error": 1},
                hint="deadline",
            )
            .sort("deadline_at", 1)
            .limit(SWEEP_LIMIT)
            .to_list()
        )
    changed = 0
    for document in expired:
        who = document["lease"].get("worker", "its worker")
        error = f"{who} has given no sign of life for {store.settings.job_lease_seconds:g} s."
        job = _claimed(document, attempts=document["attempts"])
        changed += put_back(store, document["lease"]["claim"], [job], error=error, expired=True)
    for document in overdue:
        changed += _fail_overdue(store, document)
    return changed


class _SomeLost(Exception):
    """Not all jobs of a claim are held any more."""


def _finish(store: Store, session: ClientSession, token: str, ended: Sequence[Done]) -> None:
    """Ends all of them, or raises `_SomeLost`."""
    small = [is_small(outcome.result) for outcome in ended]
    writes = [
        (_held(token, [outcome.job.id]), _end(outcome, with_result=kept))
        for outcome, kept in zip(ended, small, strict=True)
    ]
    if len(writes) == 1:
        held = store[JOBS].update_one(*writes[0], hint=BY_ID, session=session).matched_count
    else:
        updates = [UpdateOne(*write, hint=BY_ID) for write in writes]
        held = store[JOBS].bulk_write(updates, session=session).matched_count
    if held != len(ended):
        raise _SomeLost
    apart = [
        {
            "_id": outcome.job.id,
            "model": outcome.job.model,
            "model_version": outcome.job.model_version,
            "image_id": outcome.job.image_id,
            **outcome.result,
        }
        for outcome, kept in zip(ended, small, strict=True)
        if outcome.result is not None and not kept
    ]
    if apart:
        store[RESULTS].insert_many(apart, session=session)
    record_all(store, session, [_ended(outcome) for outcome in ended], source=SOURCE)


def _finish_held(store: Store, session: ClientSession, token: str, ended: Sequence[Done]) -> int:
    ids = [outcome.job.id for outcome in ended]
    held = {each["_id"] for each in store[JOBS].find(_held(token, ids), {"_id": 1}, session=session)}
    left = [outcome for outcome in ended if outcome.job.id in held]
    if left:
        _finish(store, session, token, left)
    return len(left)


def is_small(result: Document | None) -> bool:
    """Whether a result is kept in its job: one that names a file is not, since files are looked for elsewhere."""
    return result is not None and "blob" not in result and len(bson.encode(result)) <= MAX_IN_JOB_BYTES


def _end(outcome: Done, *, with_result: bool) -> list[Document]:
    fields: Document = {
        "state": JobState.FAILED if outcome.result is None else JobState.SUCCEEDED,
        "revision": {"$add": ["$revision", 1]},
        "error": {"$literal": outcome.error},
        "updated_at": NOW,
        "finished_at": NOW,
    }
    if with_result:
        fields["result"] = {"$literal": outcome.result}
    return [{"$set": fields}, {"$unset": ["lease", "deadline_at", "away_since"]}]


def _ended(outcome: Done) -> NewEvent:
    job = outcome.job
    data: Document = {"state": JobState.SUCCEEDED, "model": job.model, "image_id": job.image_id}
    if outcome.result is None:
        data |= {"state": JobState.FAILED, "error": outcome.error}
    # Only the holder changes a running job, but for those who take it away: so the revision is known.
    return NewEvent(type=f"job.{data['state']}", subject=job.id, sequence=job.revision + 1, data=data)


def _put_back(store: Store, token: str, job: ClaimedJob, error: str | None, *, expired: bool) -> bool:
    where: Document = {"lease.claim": token}
    if expired:
        where["$expr"] = {"$lte": ["$lease.expires_at", NOW]}

    def work(session: ClientSession) -> Document | None:
        if error is not None and job.attempts >= MAX_ATTEMPTS:
            return _fail(store, session, job, f"Tried {job.attempts} times. {error}", where=where)
        counted: Document = {"error": {"$literal": error}}
        if error is None:
            counted = _NOT_STARTED
        # Only what failed waits for a moment; what a worker gave back, or died with, is due now, behind those that
        # wait already.
        delay_ms = round(RETRY_SECONDS * 1000 * job.attempts) if error is not None and not expired else 0
        return _requeue(store, session, job, delay_ms, set=counted, unset=["away_since"], where=where)

    return store.transaction(work) is not None


def _put_off(store: Store, token: str, job: ClaimedJob, error: str) -> bool:
    """Puts a job back that waits for something to be there again; without counting the attempt."""
    away_ms: Document = {"$subtract": [NOW, {"$ifNull": ["$away_since", NOW]}]}
    where: Document = {"lease.claim": token}

    def work(session: ClientSession) -> Document | None:
        too_long = {**where, "$expr": {"$gte": [away_ms, round(AWAY_AT_MOST_SECONDS * 1000)]}}
        failed = _fail(store, session, job, f"It has waited for more than an hour. {error}", where=too_long)
        if failed is not None:
            return failed
        delay_ms = {"$min": [AWAY_SECONDS * 1000, {"$max": [RETRY_SECONDS * 1000, away_ms]}]}
        since = {"away_since": {"$ifNull": ["$away_since", NOW]}}
        waits = {**since, **_NOT_STARTED, "error": {"$literal": error}}
        return _requeue(store, session, job, delay_ms, set=waits, where=where)

    return store.transaction(work) is not None


def _fail(
    store: Store, session: ClientSession, job: ClaimedJob, error: str, *, where: Document
) -> Document | None:
    return change(
        store,
        session,
        job.id,
        verb="failed",
        expected=[JobState.RUNNING],
        state=JobState.FAILED,
        set={"finished_at": NOW, "error": {"$literal": error}},
        unset=["lease", "deadline_at", "away_since"],
        where=where,
    )


def _requeue(
    store: Store,
    session: ClientSession,
    job: ClaimedJob,
    delay_ms: int | Document,
    *,
    set: Document,  # noqa: A002 - MongoDB's name
    unset: Sequence[str] = (),
    where: Document,
) -> Document | None:
    return change(
        store,
        session,
        job.id,
        verb="requeued",
        expected=[JobState.RUNNING],
        state=JobState.QUEUED,
        set={"queued_at": NOW, "due_at": {"$add": [NOW, delay_ms]}, **set},
        unset=["lease", *unset],
        where=where,
    )


def _fail_overdue(store: Store, job: Document) -> bool:
    error = f"No worker took it within its deadline of {job['deadline_seconds']:.10g} s."
    if job["error"] is not None:  # why it was put back
        error = f"{error} {job['error']}"

    def work(session: ClientSession) -> Document | None:
        return change(
            store,
            session,
            job["_id"],
            verb="failed",
            expected=[JobState.QUEUED],
            state=JobState.FAILED,
            set={"finished_at": NOW, "error": {"$literal": error}},
            unset=["due_at", "deadline_at"],
            where={"$expr": {"$lte": ["$deadline_at", NOW]}},
        )

    return store.transaction(work) is not None


def _held(token: str, job_ids: Sequence[str]) -> Document:
    return {"_id": {"$in": [*job_ids]}, "state": JobState.RUNNING, "lease.claim": token}


def announced(
    document: Document, *, models: Collection[str] | None = None, without: Collection[str] = ()
) -> tuple[ClaimedJob, ...]:
    """A job as it was put into the queue, for whoever takes it; nothing if it isn't of a model that is wanted."""
    name = document["model"]
    if name in without or not (models is None or name in models):
        return ()
    return (_claimed(document),)


def _claimed(document: Mapping[str, Any], *, attempts: int | None = None) -> ClaimedJob:
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
