"""What becomes of jobs that a worker holds: it renews its lease on them, ends them, or puts them back.

Every change names the claim it stands on, so whoever has lost a job (cancelled, deleted, or taken by another since
the lease ran out) changes nothing any more. Times are the server's, since workers' clocks disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import bson
from pymongo import UpdateOne
from pymongo.client_session import ClientSession

from truthloop.events.record import NewEvent, record_all
from truthloop.predict.change import BY_ID, NOW, change
from truthloop.predict.claim import FIELDS, ClaimedJob, claimed, held_by
from truthloop.predict.documents import JOBS, MAX_ATTEMPTS, RESULTS, SOURCE, JobState
from truthloop.store.connection import Document, Store

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


def renew(store: Store, token: str, job_ids: Sequence[str]) -> int:
    """Holds the jobs of a claim for another lease's time; returns how many are still held."""
    lease_ms = round(store.settings.job_lease_seconds * 1000)
    with store.errors():
        return (
            store[JOBS]
            .update_many(held_by(token, job_ids), [{"$set": {"lease.expires_at": {"$add": [NOW, lease_ms]}}}])
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
            held = store.transaction(lambda session: _finish_those_held(store, session, token, ended))
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
            .find({"state": JobState.RUNNING, "$expr": lapsed}, {**FIELDS, "lease": 1}, hint="lease")
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
        job = claimed(document, attempts=document["attempts"])
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
        (held_by(token, [outcome.job.id]), _end(outcome, with_result=kept))
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


def _finish_those_held(store: Store, session: ClientSession, token: str, ended: Sequence[Done]) -> int:
    ids = [outcome.job.id for outcome in ended]
    held = {each["_id"] for each in store[JOBS].find(held_by(token, ids), {"_id": 1}, session=session)}
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
            return _fail(store, session, job.id, f"Tried {job.attempts} times. {error}", where=where)
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
        failed = _fail(store, session, job.id, f"It has waited for more than an hour. {error}", where=too_long)
        if failed is not None:
            return failed
        delay_ms = {"$min": [AWAY_SECONDS * 1000, {"$max": [RETRY_SECONDS * 1000, away_ms]}]}
        since = {"away_since": {"$ifNull": ["$away_since", NOW]}}
        waits = {**since, **_NOT_STARTED, "error": {"$literal": error}}
        return _requeue(store, session, job, delay_ms, set=waits, where=where)

    return store.transaction(work) is not None


def _fail(
    store: Store,
    session: ClientSession,
    job_id: str,
    error: str,
    *,
    was: JobState = JobState.RUNNING,
    where: Document,
) -> Document | None:
    return change(
        store,
        session,
        job_id,
        verb="failed",
        expected=[was],
        state=JobState.FAILED,
        set={"finished_at": NOW, "error": {"$literal": error}},
        unset=["lease", "due_at", "deadline_at", "away_since"],
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

    where = {"$expr": {"$lte": ["$deadline_at", NOW]}}

    def work(session: ClientSession) -> Document | None:
        return _fail(store, session, job["_id"], error, was=JobState.QUEUED, where=where)

    return store.transaction(work) is not None
