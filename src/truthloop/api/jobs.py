"""Inference jobs over HTTP: one model over one image."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AwareDatetime, BeforeValidator
from starlette.concurrency import run_in_threadpool

from truthloop.api.idempotency import Also, OnceDep
from truthloop.api.job_bodies import (
    CHANGES_BODY,
    EXECUTION_BODY,
    IMAGE_ID,
    NEW_JOB_BODY,
    ExecutionDep,
    JobChangesDep,
    NewJob,
    NewJobDep,
    Sent,
    digest,
)
from truthloop.api.multipart import in_turn
from truthloop.api.problems import NULL, documented, documented_http
from truthloop.api.revisions import (
    ETAG_HEADER,
    IF_MATCH_PARAMETER,
    NOT_MODIFIED,
    IfMatch,
    IfNoneMatch,
    is_known,
    not_modified,
    of_revision,
    tagged,
)
from truthloop.api.waiting import WaitingDep, WorkspaceDep, is_under_way
from truthloop.errors import (
    Conflict,
    CursorRefused,
    DatabaseUnavailable,
    DiskFull,
    ImageRefused,
    InputRefused,
    NotFound,
    QueueFull,
    RevisionMismatch,
    StorageUnavailable,
)
from truthloop.events.passed_on import ID_PATTERN
from truthloop.predict.documents import Job, JobPage, JobState
from truthloop.predict.page import MAX_PAGE
from truthloop.predict.results import JobResult
from truthloop.workspace import Workspace

PREFIX = "/api/v1/inference/jobs"
DEFAULT_LIMIT = 100
MAX_WAIT_SECONDS = 60.0
# A job takes some milliseconds where a worker is free; who asks with `wait` needn't ask again before.
RETRY_AFTER_SECONDS = 1

router = APIRouter(prefix="/inference/jobs", tags=["jobs"])

EXAMPLE: dict[str, Any] = {
    "id": "019c1388-2e1a-7b52-9c6b-8d6f0d3f5a11",
    "revision": 4,
    "state": "succeeded",
    "model": "opencv_faces",
    "model_version": "1.0.0",
    "image_id": IMAGE_ID,
    "options": {"tolerance": NULL},
    "source": "jobs",
    "attempts": 1,
    "error": NULL,
    "progress": NULL,
    "deadline_seconds": NULL,
    "created_at": "2026-01-31T09:30:00.250000Z",
    "updated_at": "2026-01-31T09:30:00.312000Z",
    "queued_at": "2026-01-31T09:30:00.251000Z",
    "started_at": "2026-01-31T09:30:00.260000Z",
    "finished_at": "2026-01-31T09:30:00.312000Z",
}
RESULT_EXAMPLE: dict[str, Any] = {
    "job_id": EXAMPLE["id"],
    "model": "opencv_faces",
    "model_version": "1.0.0",
    "image_id": IMAGE_ID,
    "width": 512,
    "height": 512,
    "labels": NULL,
    "boxes": [{"label": "face", "score": 0.93, "left": 0.31, "top": 0.12, "right": 0.52, "bottom": 0.48}],
    "classes": NULL,
    "objects": NULL,
    "tolerance": NULL,
}
CREATED_EXAMPLE = EXAMPLE | {
    "revision": 1,
    "state": "created",
    "attempts": 0,
    "queued_at": NULL,
    "started_at": NULL,
    "finished_at": NULL,
}
CANCELLED_EXAMPLE = CREATED_EXAMPLE | {
    "revision": 2,
    "state": "cancelled",
    "finished_at": EXAMPLE["finished_at"],
}
QUEUED_EXAMPLE = CREATED_EXAMPLE | {"revision": 2, "state": "queued", "queued_at": EXAMPLE["queued_at"]}

LOCATION_HEADERS = ETAG_HEADER | {
    "Location": {
        "description": "Where the job is, or where its result will be.",
        "schema": {"type": "string"},
        "example": f"{PREFIX}/{EXAMPLE['id']}/result",
    }
}
QUEUED_HEADERS = LOCATION_HEADERS | {
    "Retry-After": {
        "description": "In how many seconds to ask, unless with `wait`.",
        "schema": {"type": "integer"},
        "example": RETRY_AFTER_SECONDS,
    }
}

JobId = Annotated[str, Path(min_length=1, max_length=64, description="Which job.", examples=[EXAMPLE["id"]])]


def _not_a_number(text: str) -> str:
    """Pydantic would take a bare number as seconds or milliseconds, whichever seems likelier."""
    if "-" not in text[1:]:
        raise ValueError("must be a time such as 2026-01-31T09:30:00Z")
    return text


Time = Annotated[AwareDatetime, BeforeValidator(_not_a_number)]
Wait = Annotated[
    float,
    Query(
        ge=0,
        le=MAX_WAIT_SECONDS,
        allow_inf_nan=False,
        description="How many seconds the answer may wait for the job to end, at most 60.",
        examples=[30],
    ),
]


def told(job: Job) -> Response:
    """The answer that tells of a job and where to look next: at the job, or for its result."""
    place = f"{PREFIX}/{job.id}"
    if job.state is JobState.CREATED:
        return of_revision(job, job.revision, status=201, headers={"Location": place})
    return of_revision(
        job,
        job.revision,
        status=202,
        headers={"Location": f"{place}/result", "Retry-After": str(RETRY_AFTER_SECONDS)},
    )


@router.get(
    "",
    summary="The jobs",
    responses={
        200: {"content": {"application/json": {"example": {"items": [EXAMPLE], "next": NULL}}}},
        **documented(InputRefused, CursorRefused, DatabaseUnavailable),
    },
)
def get_jobs(
    workspace: WorkspaceDep,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.", examples=["queued"])] = None,
    model: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=64,
            description="Only jobs of this model, also if it isn't in the catalogue any more.",
            examples=["opencv_faces"],
        ),
    ] = None,
    created_after: Annotated[
        Time | None,
        Query(description="Only jobs made at this time or later.", examples=["2026-01-31T09:30:00Z"]),
    ] = None,
    created_before: Annotated[
        Time | None,
        Query(description="Only jobs made before this time.", examples=["2026-01-31T10:30:00Z"]),
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=MAX_PAGE, description="How many at most.", examples=[DEFAULT_LIMIT])
    ] = DEFAULT_LIMIT,
    after: Annotated[
        str | None,
        Query(description="The `next` of the page before.", examples=[EXAMPLE["id"]], pattern=ID_PATTERN),
    ] = None,
) -> JobPage:
    """Pages through the jobs, the newest first."""
    return workspace.jobs.list(state, model, created_after, created_before, limit=limit, after=after)


@router.post(
    "",
    summary="Make a job, or make and execute one",
    status_code=201,
    response_model=Job,
    response_description="Made; it waits for its execution.",
    responses={
        201: {"content": {"application/json": {"example": CREATED_EXAMPLE}}, "headers": LOCATION_HEADERS},
        202: {
            "model": Job,
            "description": "Made and queued. `Location` is where its result will be.",
            "content": {"application/json": {"example": QUEUED_EXAMPLE}},
            "headers": QUEUED_HEADERS,
        },
        **documented_http(400, 408, 415),
        **documented(InputRefused, ImageRefused, QueueFull, DatabaseUnavailable, StorageUnavailable, DiskFull),
    },
    openapi_extra={"requestBody": NEW_JOB_BODY},
)
async def post_job(request: Request, workspace: WorkspaceDep, once: OnceDep, sent: NewJobDep) -> Response:
    """Makes a job that waits for its execution.

    To make and execute one in one request, send a form with the fields `model` and `image`, the file; or JSON with
    `"execute": true` and the `image_id` of an image of the workspace. The answer is 202 then.
    """
    body = (sent.fields.model_dump_json(), digest(sent.image))
    done = partial(once, *body, make=partial(_make, workspace, sent), tell=told)
    return await (run_in_threadpool(done) if sent.image is None else in_turn(request, done))


def _make(workspace: Workspace, sent: Sent[NewJob], also: Also[Job] | None) -> Job:
    new = sent.fields
    if new.execute:
        return workspace.jobs.submit(
            new.model,
            image_id=new.image_id,
            image=sent.image,
            deadline_seconds=new.deadline_seconds,
            options=new.options,
            also=also,
        )
    return workspace.jobs.create(
        new.model,
        image_id=new.image_id,
        deadline_seconds=new.deadline_seconds,
        options=new.options,
        also=also,
    )


@router.get(
    "/{job_id}",
    summary="A job",
    responses={
        200: {"content": {"application/json": {"example": EXAMPLE}}, "headers": ETAG_HEADER},
        **NOT_MODIFIED,
        **documented(InputRefused, NotFound, DatabaseUnavailable),
    },
    response_model=Job,
)
def get_job(workspace: WorkspaceDep, job_id: JobId, known: IfNoneMatch) -> Response:
    """A job as it stands."""
    job = workspace.jobs.get(job_id)
    return not_modified(job.revision) if is_known(known, job.revision) else of_revision(job, job.revision)


@router.post(
    "/{job_id}",
    summary="Execute a job",
    status_code=202,
    response_model=Job,
    response_description="Queued. `Location` is where its result will be.",
    responses={
        202: {"content": {"application/json": {"example": QUEUED_EXAMPLE}}, "headers": QUEUED_HEADERS},
        **documented_http(400, 408, 415),
        **documented(
            InputRefused,
            ImageRefused,
            NotFound,
            Conflict,
            QueueFull,
            DatabaseUnavailable,
            StorageUnavailable,
            DiskFull,
        ),
    },
    openapi_extra={"requestBody": EXECUTION_BODY},
)
async def post_execution(
    request: Request,
    workspace: WorkspaceDep,
    once: OnceDep,
    job_id: JobId,
    sent: ExecutionDep,
) -> Response:
    """Puts a job into the queue: with the image that is the body, with one of the workspace, or with its own.

    A job is executed once; make another for another image.
    """
    execute = partial(workspace.jobs.execute, job_id, image_id=sent.fields.image_id, image=sent.image)
    body = (sent.fields.model_dump_json(), digest(sent.image))
    done = partial(once, *body, make=lambda also: execute(also=also), tell=told)
    return await (run_in_threadpool(done) if sent.image is None else in_turn(request, done))


@router.patch(
    "/{job_id}",
    summary="Change a job",
    responses={
        200: {"content": {"application/json": {"example": CREATED_EXAMPLE}}, "headers": ETAG_HEADER},
        **documented_http(415, 428),
        **documented(InputRefused, NotFound, Conflict, RevisionMismatch, DatabaseUnavailable),
    },
    openapi_extra={"parameters": [IF_MATCH_PARAMETER], "requestBody": CHANGES_BODY},
    response_model=Job,
)
def patch_job(
    workspace: WorkspaceDep,
    job_id: JobId,
    revisions: IfMatch,
    changes: JobChangesDep,
) -> Response:
    """Changes a job that hasn't been executed yet. `If-Match` carries the ETag of the job as it was read."""
    job = workspace.jobs.update(job_id, revision=revisions, **changes.model_dump(exclude_unset=True))
    return of_revision(job, job.revision)


@router.delete(
    "/{job_id}",
    summary="Delete a job",
    status_code=204,
    response_class=Response,
    responses=documented(InputRefused, NotFound, DatabaseUnavailable),
)
def delete_job(workspace: WorkspaceDep, job_id: JobId) -> None:
    """Removes a job and its result; one that has not ended is cancelled. Its events stay."""
    workspace.jobs.delete(job_id)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    responses={
        200: {"content": {"application/json": {"example": CANCELLED_EXAMPLE}}, "headers": ETAG_HEADER},
        **documented(InputRefused, NotFound, Conflict, DatabaseUnavailable),
    },
    response_model=Job,
)
def post_cancel(workspace: WorkspaceDep, job_id: JobId) -> Response:
    """Ends a job that has not ended; what a worker finds for it after that is dropped."""
    job = workspace.jobs.cancel(job_id)
    return of_revision(job, job.revision)


NOT_YET: dict[int | str, dict[str, Any]] = {
    202: {
        "model": Job,
        "description": "Not yet: the job waits or runs. This is the job; ask again.",
        "content": {"application/json": {"example": QUEUED_EXAMPLE}},
        "headers": QUEUED_HEADERS,
    }
}


@router.get(
    "/{job_id}/result",
    summary="A job's result",
    responses={
        200: {"content": {"application/json": {"example": RESULT_EXAMPLE}}, "headers": ETAG_HEADER},
        **NOT_YET,
        **NOT_MODIFIED,
        **documented(InputRefused, NotFound, Conflict, DatabaseUnavailable, StorageUnavailable),
    },
    response_model=JobResult,
)
async def get_result(
    workspace: WorkspaceDep, waiting: WaitingDep, job_id: JobId, known: IfNoneMatch, wait: Wait = 0.0
) -> Response:
    """What the model says of the image: `labels`, or `boxes`, or `classes` with their `objects`.

    202 with the job while it waits or runs; 409 where there is none to be waited for: the job was not executed, it
    failed, or it was cancelled.
    """
    job = await waiting.for_job(job_id, wait)
    if is_under_way(job):
        return told(job)
    if job.state is JobState.SUCCEEDED and is_known(known, job.revision):
        return not_modified(job.revision)
    return of_revision(await run_in_threadpool(workspace.jobs.result, job_id), job.revision)


@router.get(
    "/{job_id}/picture",
    summary="A job's result as a picture",
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}, "example": "(bytes)"}}},
        **NOT_YET,
        **NOT_MODIFIED,
        **documented(InputRefused, NotFound, Conflict, DatabaseUnavailable, StorageUnavailable),
    },
    response_class=Response,
)
async def get_picture(
    request: Request,
    workspace: WorkspaceDep,
    waiting: WaitingDep,
    job_id: JobId,
    known: IfNoneMatch,
    wait: Wait = 0.0,
) -> Response:
    """The image with the result drawn on it, as PNG. Otherwise as `/result`."""
    job = await waiting.for_job(job_id, wait)
    if is_under_way(job):
        return told(job)
    if job.state is JobState.SUCCEEDED and is_known(known, job.revision):
        return not_modified(job.revision)
    png = await in_turn(request, partial(workspace.jobs.picture, job_id))
    return Response(png, media_type="image/png", headers=tagged(job.revision))
