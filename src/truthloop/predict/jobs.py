"""The verbs of jobs that clients call; what workers do with them is in claim.py."""

import builtins
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import uuid_utils
from pymongo import ReturnDocument
from pymongo.client_session import ClientSession

from truthloop.errors import (
    Conflict,
    DatabaseUnavailable,
    InputRefused,
    NotFound,
    RevisionMismatch,
)
from truthloop.events.passed_on import first_id_at, id_time_ms
from truthloop.events.record import NewEvent, record, record_all
from truthloop.predict.change import NOW, change, clash, event_data, literal, missing, stored
from truthloop.predict.documents import (
    JOBS,
    KEEP,
    RESULTS,
    SOURCE,
    Job,
    JobPage,
    JobState,
    Keep,
    Source,
)
from truthloop.predict.files import named_in
from truthloop.predict.job_fields import (
    Given,
    Options,
    check_tolerance,
    checked_deadline,
    checked_options,
    image_fields,
    stored_image,
)
from truthloop.predict.page import check_limit, checked_job_cursor
from truthloop.predict.queue_limit import QueueLimit
from truthloop.store.connection import Document, Store

if TYPE_CHECKING:
    from truthloop.ingest.images import StoredImage
    from truthloop.models.documents import CatalogueEntry

# Gets the transaction's session and the job as it is after the change; may run twice, as the transaction may.
Also = Callable[[ClientSession, Job], None]


def create(
    store: Store,
    *,
    entry: "CatalogueEntry",
    image: "Given | None" = None,
    deadline_seconds: float | None = None,
    options: Options | None = None,
    source: Source = "jobs",
    also: Also | None = None,
) -> Job:
    """A new job that waits for `execute`.

    Args:
        store: the workspace.
        entry: the model, of the catalogue.
        image: what it will run on, where that is known already.
        deadline_seconds: how long it may wait in the queue before it fails.
        options: as `JobOptions`.
        source: who asks.
        also: what belongs to the change, done in its transaction.

    Raises:
        InputRefused: the deadline or an option is out of range.
    """
    document = _new(entry, deadline_seconds, options, source)
    if image is not None:
        document |= image_fields(stored_image(image))

    def work(session: ClientSession) -> Document:
        return _insert(store, session, document)

    return _made(store, work, also)


def submit(
    store: Store,
    limit: QueueLimit,
    *,
    entry: "CatalogueEntry",
    image: Given,
    deadline_seconds: float | None = None,
    options: Options | None = None,
    source: Source = "jobs",
    also: Also | None = None,
) -> Job:
    """Creates a job and puts it into the queue, in one transaction; its events are those of both.

    Args: as for `create`; `image` is asked for only when there is room in the queue.

    Raises:
        InputRefused: as for `create`.
        QueueFull: too many jobs wait already.
    """
    document = _new(entry, deadline_seconds, options, source)
    limit.admit()
    document |= image_fields(stored_image(image))

    def work(session: ClientSession) -> Document:
        return _insert(store, session, document | {"state": JobState.QUEUED, "revision": 2}, **_queued(document))

    return _made(store, work, also)


def get(store: Store, job_id: str) -> Job:
    """A job as it stands; that it has ended or is gone is told only once no failover can take that back.

    Raises:
        NotFound: there is none of this id.
    """
    found = store.find_lasting(
        JOBS, job_id, unless=lambda job: job is not None and not JobState(job["state"]).is_final
    )
    if found is None:
        raise missing(job_id)
    return Job.of(found)


def list(  # noqa: A001 - the verb's name
    store: Store,
    *,
    state: JobState | str | None = None,
    model: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    limit: int = 100,
    after: str | None = None,
) -> JobPage:
    """A page of jobs, the newest first.

    Args:
        store: the workspace.
        state: only those in it.
        model: only those of the model of this name.
        created_after: only those created at this time or later; a time without a zone is UTC.
        created_before: only those created before this time.
        limit: how many at most, 1 to 1,000.
        after: the `next` of the page before.

    Raises:
        CursorRefused: `after` isn't a job's id.
        InputRefused: the limit or the state isn't allowed.
    """
    check_limit(limit)
    query: Document = {}
    if state is not None:
        query["state"] = known_state(state)
    if model is not None:
        query["model"] = model
    # An id begins with the time at which it was made, so a range of times is a range of ids.
    bounds: Document = {}
    if created_after is not None:
        bounds["$gte"] = first_id_at(_milliseconds(created_after))
    last = [first_id_at(_milliseconds(created_before))] if created_before is not None else []
    if after is not None:
        last.append(checked_job_cursor(after))
    if last:
        bounds["$lt"] = min(last)
    if bounds:
        query["_id"] = bounds
    with store.errors():
        found = builtins.list(store[JOBS].find(query, {"result": 0}).sort("_id", -1).limit(limit + 1))
    page = found[:limit]
    return JobPage(
        items=[Job.of(document) for document in page], next=page[-1]["_id"] if len(found) > limit else None
    )


def update(
    store: Store,
    job_id: str,
    *,
    revision: int | Collection[int] | None = None,
    entry: "CatalogueEntry | Keep" = KEEP,
    image: "StoredImage | Keep | None" = KEEP,
    deadline_seconds: float | Keep | None = KEEP,
    options: Options | Keep | None = KEEP,
    known: "Callable[[str], CatalogueEntry] | None" = None,
) -> Job:
    """Changes a job that has not been put into the queue yet.

    Args:
        store: the workspace.
        job_id: which job.
        revision: the one that it must have, or several of which it must have one, so that two who change it at
            once don't undo each other.
        entry: another model.
        image: another image; None for none.
        deadline_seconds: another deadline; None for none.
        options: other options, all of them.
        known: gives the catalogue's entry of a model, where options must be right for the model that stays, or
            another model for the options that stay; None leaves that unasked.

    Raises:
        NotFound: there is no such job.
        Conflict: it isn't `created` any more.
        RevisionMismatch: it has changed since that revision.
        InputRefused: as for `create`.
    """
    fields: Document = {}
    if not isinstance(entry, Keep):
        fields |= {"model": entry.name, "model_version": entry.version}
    if not isinstance(image, Keep):
        fields |= image_fields(image)
    if not isinstance(deadline_seconds, Keep):
        fields["deadline_seconds"] = checked_deadline(deadline_seconds)
    if not isinstance(options, Keep):
        fields["options"] = checked_options(options).model_dump()

    revisions = None if revision is None else sorted([revision] if isinstance(revision, int) else revision)

    def work(session: ClientSession) -> Document:
        job = change(
            store,
            session,
            job_id,
            verb="updated",
            expected=[JobState.CREATED],
            state=JobState.CREATED,
            set=literal(fields),
            where=None if revisions is None else {"revision": {"$in": revisions}},
        )
        if job is None:
            found = stored(store, job_id, session)
            if found["state"] == JobState.CREATED:
                wanted = " or ".join(map(str, revisions or ()))
                raise RevisionMismatch(
                    f"Job {job_id} has revision {found['revision']}, not {wanted}: it has changed since it was "
                    "read. Read it again."
                )
            raise Conflict(f"Job {job_id} is {found['state']}; only a created one can be changed. Make a new one.")
        if known is not None and fields.keys() & {"model", "options"} and job["options"]["tolerance"] is not None:
            check_tolerance(known(job["model"]), Job.of(job).options)  # what is refused undoes the transaction
        return job

    return Job.of(store.transaction(work))


def execute(
    store: Store, limit: QueueLimit, job_id: str, *, image: "Given | None" = None, also: Also | None = None
) -> Job:
    """Puts a created job into the queue.

    Args:
        store: the workspace.
        limit: of the queue.
        job_id: which job.
        image: what it runs on; by default the image that it was created with. It is asked for only when the job
            can be executed and there is room in the queue.
        also: what belongs to the change, done in its transaction.

    Raises:
        NotFound: there is no such job.
        Conflict: it was put there before.
        InputRefused: it has no image.
        QueueFull: too many jobs wait already.
    """
    found = stored(store, job_id)
    if found["state"] != JobState.CREATED:
        raise Conflict(f"Job {job_id} is {found['state']}; only a created one can be executed. Make a new one.")
    if image is None and found["image"] is None:
        raise InputRefused(
            f"Job {job_id} has no image. Send one, or name one of the workspace by its image_id.",
            errors={"image_id": "missing"},
        )
    limit.admit()
    fields = literal(image_fields(stored_image(image))) if image is not None else {}

    def work(session: ClientSession) -> Document:
        job = change(
            store,
            session,
            job_id,
            verb="queued",
            expected=[JobState.CREATED],
            state=JobState.QUEUED,
            set={**fields, **_queued(found)},
            where={"revision": found["revision"]},
        )
        if job is None:
            raise clash(store, job_id, session, to="it has been changed or executed meanwhile")
        return job

    return _made(store, work, also)


def cancel(store: Store, job_id: str) -> Job:
    """Ends a job that has not ended; the result of one that is being worked on is dropped when it comes.

    Raises:
        NotFound: there is no such job.
        Conflict: it has ended already.
    """

    def work(session: ClientSession) -> Document:
        job = _cancel(store, session, job_id)
        if job is None:
            raise clash(store, job_id, session, to="it has ended, so there is nothing to cancel")
        return job

    return Job.of(store.transaction(work))


def delete(store: Store, job_id: str) -> builtins.list[str]:
    """Removes a job and its result; one that has not ended is cancelled first.

    Events stay, and what was recorded elsewhere.

    Returns:
        The keys of the blobs that it named; others may name the same ones.

    Raises:
        NotFound: there is no such job.
    """

    def work(session: ClientSession) -> builtins.list[str]:
        job = _cancel(store, session, job_id) or stored(store, job_id, session)
        store[JOBS].delete_one({"_id": job_id}, session=session)
        result = store[RESULTS].find_one_and_delete({"_id": job_id}, {"blob": 1}, session=session)
        record(
            store,
            session,
            type="job.deleted",
            subject=job_id,
            source=SOURCE,
            sequence=job["revision"] + 1,
            data=event_data(job),
        )
        return named_in(job, result)

    try:
        return store.transaction(work)
    except NotFound:
        # Another request may have deleted it just now; it is gone only when no failover can bring it back.
        if store.find_lasting(JOBS, job_id) is not None:
            raise DatabaseUnavailable(f"Whether job {job_id} is deleted isn't certain yet. Try again.") from None
        raise


def known_state(state: JobState | str) -> JobState:
    """The state of that name.

    Raises:
        InputRefused: there is none.
    """
    try:
        return JobState(state)
    except ValueError:
        allowed = ", ".join(JobState)
        raise InputRefused(
            f"state is {str(state)[:64]!r}; give one of {allowed}.", errors={"state": f"must be one of {allowed}"}
        ) from None


def _made(store: Store, work: Callable[[ClientSession], Document], also: Also | None) -> Job:
    """Makes a change, and what belongs to it, in one transaction."""

    def whole(session: ClientSession) -> Job:
        job = Job.of(work(session))
        if also is not None:
            also(session, job)
        return job

    return store.transaction(whole)


def _cancel(store: Store, session: ClientSession, job_id: str) -> Document | None:
    return change(
        store,
        session,
        job_id,
        verb="cancelled",
        expected=[JobState.CREATED, JobState.QUEUED, JobState.RUNNING],
        state=JobState.CANCELLED,
        set={"finished_at": NOW},
        unset=["lease", "due_at", "deadline_at"],
    )


def _new(
    entry: "CatalogueEntry", deadline_seconds: float | None, options: Options | None, source: Source
) -> Document:
    """The document of a new job, without an image."""
    job_id = str(uuid_utils.uuid7())
    return {
        "_id": job_id,
        "revision": 1,
        "state": JobState.CREATED,
        "model": entry.name,
        "model_version": entry.version,
        **image_fields(None),
        "options": check_tolerance(entry, checked_options(options)).model_dump(),
        "source": source,
        "attempts": 0,
        "error": None,
        "progress": None,
        "deadline_seconds": checked_deadline(deadline_seconds),
        # To the millisecond the id's own time, so that a range of times is a range of ids.
        "created_at": datetime.fromtimestamp(id_time_ms(job_id) / 1000, UTC),
        "queued_at": None,
        "started_at": None,
        "finished_at": None,
    }


def _insert(store: Store, session: ClientSession, document: Document, **computed: Any) -> Document:
    """Writes a new job and an event for each of its revisions; `computed` are expressions of a pipeline."""
    plain = {name: value for name, value in document.items() if name != "_id" and name not in computed}
    job = store[JOBS].find_one_and_update(
        {"_id": document["_id"]},
        [{"$set": {**literal(plain), "updated_at": NOW, **computed}}],
        upsert=True,
        session=session,
        return_document=ReturnDocument.AFTER,
    )
    assert job is not None  # it was inserted just now
    passed = (JobState.CREATED, JobState.QUEUED)[: document["revision"]]
    events = [
        NewEvent(type=f"job.{state}", subject=job["_id"], sequence=revision, data=event_data(job, state=state))
        for revision, state in enumerate(passed, start=1)
    ]
    record_all(store, session, events, source=SOURCE)
    return job


def _queued(job: Mapping[str, Any]) -> Document:
    """What a job gets when it is put into the queue, by the server's clock."""
    fields: Document = {"queued_at": NOW, "first_queued_at": NOW, "due_at": NOW}
    if job["deadline_seconds"] is not None:
        fields["deadline_at"] = {"$add": [NOW, round(job["deadline_seconds"] * 1000)]}
    return fields


def _milliseconds(time: datetime) -> int:
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)
