"""One change of one job, with its event, in the caller's transaction."""

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

from pymongo import ReturnDocument
from pymongo.client_session import ClientSession

from truthloop.errors import Conflict, NotFound
from truthloop.events.record import record
from truthloop.predict.documents import JOBS, SOURCE, JobState
from truthloop.store.connection import Document, Store

# By the server's clock, which all workers share.
NOW = "$$NOW"
# The index of ids: told which to take, the server doesn't try others on each change of a job.
BY_ID = "_id_"


def literal(fields: Mapping[str, Any]) -> Document:
    """Values as they are, where the server would take a text with `$` for the name of a field."""
    return {name: {"$literal": value} for name, value in fields.items()}


def change(
    store: Store,
    session: ClientSession,
    job_id: str,
    *,
    verb: str,
    expected: Collection[JobState],
    state: JobState,
    set: Mapping[str, Any],  # noqa: A002 - MongoDB's own name
    unset: Collection[str] = (),
    where: Mapping[str, Any] | None = None,
) -> Document | None:
    """Moves a job to another state and records that it did.

    Args:
        store: where the job is.
        session: the transaction's.
        job_id: which job.
        verb: what happened to it, as the event's type says.
        expected: the states that it may be in.
        state: the one that it gets.
        set: more fields, as expressions of an update pipeline.
        unset: fields that go.
        where: what else must hold of it.

    Returns:
        The document after the change; None if there is no such job in such a state.
    """
    query: Document = {"_id": job_id, "state": {"$in": [*expected]}, **(where or {})}
    pipeline: list[Document] = [
        {"$set": {"state": state, "revision": {"$add": ["$revision", 1]}, "updated_at": NOW, **set}}
    ]
    if unset:
        pipeline.append({"$unset": [*unset]})
    document = store[JOBS].find_one_and_update(
        query, pipeline, hint=BY_ID, session=session, return_document=ReturnDocument.AFTER
    )
    if document is not None:
        record(
            store,
            session,
            type=f"job.{verb}",
            subject=job_id,
            source=SOURCE,
            sequence=document["revision"],
            data=event_data(document),
        )
    return document


def event_data(job: Mapping[str, Any], *, state: JobState | None = None, **more: Any) -> Document:
    """What an event of a job tells: its state after the change, its model and image, and its last error."""
    data = {"state": state or job["state"], "model": job["model"], "image_id": job["image_id"], **more}
    if "error" not in data and job.get("error") is not None:
        data["error"] = job["error"]
    return data


def stored(store: Store, job_id: str, session: ClientSession | None = None) -> Document:
    """The job's document, without its result.

    Raises:
        NotFound: there is none.
    """
    # Inside a transaction its own repetition needs PyMongo's errors as they are.
    with store.errors() if session is None else nullcontext():
        document = store[JOBS].find_one({"_id": job_id}, {"result": 0}, session=session)
    if document is None:
        raise missing(job_id)
    return document


def missing(job_id: str) -> NotFound:
    """The error that says so."""
    return NotFound(f"There is no job {job_id[:64]!r}. `truthloop jobs list` shows those there are.")


def clash(store: Store, job_id: str, session: ClientSession, *, to: str) -> Exception:
    """Why a job could not be changed: it isn't there, or in another state.

    Returns:
        A Conflict to be raised.

    Raises:
        NotFound: there is no such job.
    """
    state = stored(store, job_id, session)["state"]
    return Conflict(f"Job {job_id} is {state}; {to}.")
