"""The outline service over HTTP: an image comes in, a url goes out, and under it the outlines of its objects.

Its two paths aren't under /api/v1, since they were there before.
"""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from truthloop.answers import Answer
from truthloop.api.access import BEARER, COOKIE, Access, signed_in
from truthloop.api.idempotency import Also, OnceDep
from truthloop.api.job_bodies import digest
from truthloop.api.jobs import MAX_WAIT_SECONDS
from truthloop.api.multipart import in_turn, received
from truthloop.api.parameters import only_known_parameters
from truthloop.api.problems import NULL, documented, documented_http
from truthloop.api.rate_limit import RateLimit
from truthloop.api.revisions import ETAG_HEADER, NOT_MODIFIED, IfNoneMatch, is_known, not_modified, of_revision
from truthloop.api.waiting import WaitingDep, WorkspaceDep, is_under_way
from truthloop.errors import (
    DatabaseUnavailable,
    DiskFull,
    ImageRefused,
    InputRefused,
    NotFound,
    NotSignedIn,
    QueueFull,
    StorageUnavailable,
    TooManyRequests,
)
from truthloop.predict.documents import Job
from truthloop.predict.outlines import DEFAULT_MODEL, MAX_TOLERANCE, OutlineTask
from truthloop.settings import Settings
from truthloop.workspace import Workspace

UPLOAD, CHECK = "/image/outline/objects", "/outline/objects/check"
RETRY_AFTER_SECONDS = 1
# A caller without a token: some uploads at once, then one a second, or ten looks at a task.
BURST, PER_SECOND, UPLOAD_COST, CHECK_COST = 100.0, 10.0, 10.0, 1.0

TASK_ID = "019c1388-2e1a-7b52-9c6b-8d6f0d3f5a11"
URL = f"https://outlines.example.org{CHECK}/{TASK_ID}"
RING: dict[str, Any] = {
    "pixels": [[129.48, 720.0], [353.62, 365.84], [911.36, 560.31]],
    "fractions": [[0.101167, 1.0], [0.276265, 0.508111], [0.712, 0.778208]],
}
EXAMPLE: dict[str, Any] = {
    "id": TASK_ID,
    "state": "succeeded",
    "error": NULL,
    "model": DEFAULT_MODEL,
    "tolerance": 4.98,
    "image_id": "60d8ee1fb21ac1d8a8d2b1d8d0e0a2c1e3c0ab9e7cbd7f0a5e9f8f3a5ee6a3c1",
    "width": 1280,
    "height": 720,
    "classes": [{"label": "cat", "fraction": 0.361746582082999}],
    "objects": [
        {
            "label": "cat",
            "score": 0.9418,
            "box": {"left": 0.101167, "top": 0.155642, "right": 0.712062, "bottom": 1.0},
            "area": 0.36157,
            "iou": 0.989661,
            "outlines": [{"outer": RING, "holes": []}],
        }
    ],
}
WAITING_EXAMPLE = EXAMPLE | {
    "state": "queued",
    **dict.fromkeys(("tolerance", "width", "height", "classes", "objects"), NULL),
}


class Uploaded(Answer):
    """A task, and where its outlines will be."""

    id: str = Field(description="The task.", examples=[TASK_ID])
    url: str = Field(description="Ask here for its state and, when it is done, the outlines.", examples=[URL])


class OutlineForm(BaseModel):
    """What may come beside the image, in the form or in the query."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(default=DEFAULT_MODEL, min_length=1, max_length=64)
    tolerance: float | None = Field(default=None, ge=0, le=MAX_TOLERANCE, allow_inf_nan=False)


async def _admitted(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    cookie: Annotated[str | None, Depends(COOKIE)],
) -> None:
    """Lets in who has the token and, where TRUTHLOOP_OUTLINE_ANONYMOUS says so, others at a limited rate.

    Raises:
        NotSignedIn: neither.
        TooManyRequests: too many from this address.
    """
    settings: Settings = request.app.state.settings
    access: Access = request.app.state.access
    is_stranger = "authorization" not in request.headers and not access.is_signed_in(request)
    if settings.outline_anonymous and is_stranger:
        limit: RateLimit = request.app.state.outline_limit
        cost = UPLOAD_COST if request.method == "POST" else CHECK_COST
        address = request.client.host if request.client else ""
        limit.take(address, cost)
        request.state.stranger = address
    else:
        await signed_in(request, bearer, cookie)


def new_limit() -> RateLimit:
    """The rate at which callers without a token are let in."""
    return RateLimit(burst=BURST, per_second=PER_SECOND)


router = APIRouter(
    tags=["outlines"],
    dependencies=[Depends(_admitted), Depends(only_known_parameters)],
    responses=documented(NotSignedIn, InputRefused, TooManyRequests),
)

_TOLERANCE = (
    "How far an outline may be from the exact one, in pixels of the upright image; 0 gives the exact one. By "
    "default one cell of the model's grid."
)
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "additionalProperties": False,
                "properties": {
                    "image": {"type": "string", "format": "binary", "description": "The image's file."},
                    "model": {
                        "type": "string",
                        "enum": [DEFAULT_MODEL, "selfie_segmentation"],
                        "description": "A segmentation model; of your own, too.",
                    },
                    "tolerance": {
                        "type": "number",
                        "minimum": 0,
                        "maximum": MAX_TOLERANCE,
                        "description": _TOLERANCE,
                    },
                },
            }
        }
    },
}


@router.post(
    UPLOAD,
    status_code=202,
    summary="Send an image to be outlined",
    response_model=Uploaded,
    response_description="Queued. The outlines will be under `url`.",
    responses={
        202: {
            "content": {"application/json": {"example": {"id": TASK_ID, "url": URL}}},
            "headers": {
                "Location": {"description": "The `url`.", "schema": {"type": "string"}, "example": URL},
                "Retry-After": {
                    "description": "In how many seconds to ask there.",
                    "schema": {"type": "integer"},
                    "example": RETRY_AFTER_SECONDS,
                },
            },
        },
        **documented_http(400, 408, 415),
        **documented(
            InputRefused,
            ImageRefused,
            QueueFull,
            TooManyRequests,
            DatabaseUnavailable,
            StorageUnavailable,
            DiskFull,
        ),
    },
    openapi_extra={"requestBody": _BODY},
)
async def post_image(
    request: Request,
    workspace: WorkspaceDep,
    once: OnceDep,
    model: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=64,
            description="A segmentation model; the form's field of this name comes first.",
            examples=["selfie_segmentation"],
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        Query(
            ge=0,
            le=MAX_TOLERANCE,
            allow_inf_nan=False,
            description=_TOLERANCE + " The form's field of this name comes first.",
            examples=[2.0],
        ),
    ] = None,
) -> Response:
    """Takes an image as the field `image` of a form, and answers at once with where its outlines will be.

    With curl: `-F image=@PATH`. The task is an inference job; a worker does it.
    """
    settings: Settings = request.app.state.settings
    place = settings.public_url or f"{request.url.scheme}://{request.headers['host']}"
    asked = {name: value for name, value in (("model", model), ("tolerance", tolerance)) if value is not None}
    async with received(request, max_bytes=settings.max_image_bytes) as upload:
        form = _checked({**asked, **upload.fields})
        done = partial(
            once,
            form.model_dump_json(),
            digest(upload.data),
            make=partial(_submit, workspace, upload.data, form),
            tell=partial(_told, place),
        )
        return await in_turn(request, done)


def _checked(fields: dict[str, Any]) -> OutlineForm:
    try:
        return OutlineForm.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        ) from None


def _submit(workspace: Workspace, image: bytes, form: OutlineForm, also: Also[Job] | None) -> Job:
    return workspace.outlines.submit(image, model=form.model, tolerance=form.tolerance, also=also)


def _told(place: str, job: Job) -> Response:
    url = f"{place}{CHECK}/{job.id}"
    return Response(
        Uploaded(id=job.id, url=url).model_dump_json(),
        status_code=202,
        media_type="application/json",
        headers={"Location": url, "Retry-After": str(RETRY_AFTER_SECONDS)},
    )


@router.get(
    CHECK + "/{task_id}",
    summary="The outlines of an image's objects",
    response_model=OutlineTask,
    responses={
        200: {
            "content": {
                "application/json": {
                    "examples": {
                        "succeeded": {"summary": "Done.", "value": EXAMPLE},
                        "queued": {"summary": "Not yet: ask again.", "value": WAITING_EXAMPLE},
                    }
                }
            },
            "headers": ETAG_HEADER,
        },
        **NOT_MODIFIED,
        **documented(InputRefused, NotFound, TooManyRequests, DatabaseUnavailable, StorageUnavailable),
    },
)
async def get_task(
    workspace: WorkspaceDep,
    waiting: WaitingDep,
    task_id: Annotated[
        str, Path(min_length=1, max_length=64, description="The task of an upload.", examples=[TASK_ID])
    ],
    known: IfNoneMatch,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=MAX_WAIT_SECONDS,
            allow_inf_nan=False,
            description="How many seconds the answer may wait for the task to end, at most 60.",
            examples=[30],
        ),
    ] = 0.0,
) -> Response:
    """Where the task stands and, when it is done, each object's label, score, box and outlines.

    While it is `queued` or `running`, `Retry-After` says when to ask again. When it has `failed`, `error` says
    why.

    Objects are the connected parts of a class, so those of one class that touch are one.
    """
    job = await run_in_threadpool(workspace.outlines.job, task_id)
    if wait and is_under_way(job):
        job = await waiting.for_job(task_id, wait)
    if is_known(known, job.revision):
        return not_modified(job.revision)
    task = await run_in_threadpool(workspace.outlines.task, job)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if is_under_way(job) else {}
    return of_revision(task, job.revision, headers=headers)
