"""Batches over HTTP: one model over many images."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from truthloop.api.bodies import described, json_body
from truthloop.api.idempotency import OnceDep
from truthloop.api.job_bodies import IMAGE_ID, ImageId, ModelName
from truthloop.api.jobs import DEFAULT_LIMIT
from truthloop.api.problems import NULL, documented, documented_http
from truthloop.api.revisions import ETAG_HEADER, NOT_MODIFIED, IfNoneMatch, is_known, not_modified, of_revision
from truthloop.api.waiting import WorkspaceDep
from truthloop.errors import (
    Conflict,
    CursorRefused,
    DatabaseUnavailable,
    InputRefused,
    NotFound,
    StorageUnavailable,
)
from truthloop.events.passed_on import ID_PATTERN
from truthloop.predict.batches import MAX_LISTED
from truthloop.predict.documents import Batch, BatchPage, BatchState
from truthloop.predict.documents import Query as ImageQuery
from truthloop.predict.page import MAX_PAGE
from truthloop.predict.results import BatchResultPage

PREFIX = "/api/v1/inference/batches"
# A slice takes seconds, so there is nothing new to be seen earlier.
RETRY_AFTER_SECONDS = 2

router = APIRouter(prefix="/inference/batches", tags=["batches"])

EXAMPLE: dict[str, Any] = {
    "id": "019c1388-3f2b-7c11-8a4e-2d1c5b7a9e33",
    "revision": 3,
    "state": "running",
    "model": "opencv_faces",
    "model_version": "1.0.0",
    "query": "unprocessed",
    "record_as": "3.0.0",
    "newer_version": NULL,
    "total": 342,
    "done": 256,
    "predicted": 255,
    "already_there": 0,
    "refused": 1,
    "refusals": [{"image_id": IMAGE_ID, "reason": "The image has no pixels here."}],
    "error": NULL,
    "created_at": "2026-01-31T09:30:00.250000Z",
    "updated_at": "2026-01-31T09:30:02.312000Z",
    "finished_at": NULL,
}
QUEUED_EXAMPLE = EXAMPLE | {
    "revision": 1,
    "state": "queued",
    "done": 0,
    "predicted": 0,
    "refused": 0,
    "refusals": [],
    "updated_at": EXAMPLE["created_at"],
}
RESULTS_EXAMPLE: dict[str, Any] = {
    "items": [
        {
            "image_id": IMAGE_ID,
            "width": 512,
            "height": 600,
            "labels": NULL,
            "boxes": [{"label": "face", "score": 0.93, "left": 0.31, "top": 0.12, "right": 0.52, "bottom": 0.48}],
            "classes": NULL,
            "objects": NULL,
            "error": NULL,
        }
    ],
    "next": IMAGE_ID,
}
QUEUED_HEADERS = ETAG_HEADER | {
    "Location": {
        "description": "Where the batch is.",
        "schema": {"type": "string"},
        "example": f"{PREFIX}/{EXAMPLE['id']}",
    },
    "Retry-After": {
        "description": "In how many seconds to look at its progress.",
        "schema": {"type": "integer"},
        "example": RETRY_AFTER_SECONDS,
    },
}

BatchId = Annotated[str, Path(min_length=1, max_length=64, description="Which batch.", examples=[EXAMPLE["id"]])]


class NewBatch(BaseModel):
    """A batch to be made: a model, and either a list of images or a query."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelName
    image_ids: list[ImageId] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_LISTED,
        description="Images of the workspace; each counts once.",
        examples=[[IMAGE_ID]],
    )
    query: ImageQuery | None = Field(
        default=None,
        description="Instead of a list: `unprocessed`, the images without a prediction in `bbox.model`, or `all`.",
        examples=["unprocessed"],
    )
    record_as: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        # Told, and checked where it is used: that says better what is meant than the pattern would.
        json_schema_extra={"pattern": "^(auto|[0-9]+([.][0-9]+)*)$"},
        description="Of a detection model: the version in `bbox.model` under which its boxes are recorded; `auto` "
        "for the one under which this very model stands there, else a new one; otherwise numbers with dots "
        "between them. Without it, the batch keeps the boxes.",
        examples=["auto"],
    )


def told(batch: Batch) -> Response:
    """The answer that tells of a batch that is being worked, and where its progress is."""
    return of_revision(
        batch,
        batch.revision,
        status=202,
        headers={"Location": f"{PREFIX}/{batch.id}", "Retry-After": str(RETRY_AFTER_SECONDS)},
    )


@router.get(
    "",
    summary="The batches",
    responses={
        200: {"content": {"application/json": {"example": {"items": [EXAMPLE], "next": NULL}}}},
        **documented(InputRefused, CursorRefused, DatabaseUnavailable),
    },
)
def get_batches(
    workspace: WorkspaceDep,
    state: Annotated[
        BatchState | None, Query(description="Only batches in this state.", examples=["running"])
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=MAX_PAGE, description="How many at most.", examples=[DEFAULT_LIMIT])
    ] = DEFAULT_LIMIT,
    after: Annotated[
        str | None,
        Query(description="The `next` of the page before.", examples=[EXAMPLE["id"]], pattern=ID_PATTERN),
    ] = None,
) -> BatchPage:
    """Pages through the batches, the newest first."""
    return workspace.batches.list(state, limit=limit, after=after)


@router.post(
    "",
    summary="Run a model over many images",
    status_code=202,
    response_model=Batch,
    response_description="Queued. `Location` is where its progress is.",
    responses={
        202: {"content": {"application/json": {"example": QUEUED_EXAMPLE}}, "headers": QUEUED_HEADERS},
        **documented_http(415),
        **documented(InputRefused, Conflict, DatabaseUnavailable),
    },
    openapi_extra=described(NewBatch, {"model": "opencv_faces", "query": "unprocessed", "record_as": "auto"}),
)
def post_batch(
    workspace: WorkspaceDep, once: OnceDep, new: Annotated[NewBatch, Depends(json_body(NewBatch))]
) -> Response:
    """Makes a batch, which workers begin at once, in slices of up to 256 images."""
    create = partial(
        workspace.batches.create, new.model, image_ids=new.image_ids, query=new.query, record_as=new.record_as
    )
    return once(new.model_dump_json(), make=lambda also: create(also=also), tell=told)


@router.get(
    "/{batch_id}",
    summary="A batch and its progress",
    responses={
        200: {"content": {"application/json": {"example": EXAMPLE}}, "headers": ETAG_HEADER},
        **NOT_MODIFIED,
        **documented(InputRefused, NotFound, DatabaseUnavailable),
    },
    response_model=Batch,
)
def get_batch(workspace: WorkspaceDep, batch_id: BatchId, known: IfNoneMatch) -> Response:
    """A batch as it stands: `done` of `total` images."""
    batch = workspace.batches.get(batch_id)
    return not_modified(batch.revision) if is_known(known, batch.revision) else of_revision(batch, batch.revision)


@router.get(
    "/{batch_id}/results",
    summary="What a batch found",
    responses={
        200: {"content": {"application/json": {"example": RESULTS_EXAMPLE}}},
        **documented(InputRefused, NotFound, DatabaseUnavailable, StorageUnavailable),
    },
)
def get_results(
    workspace: WorkspaceDep,
    batch_id: BatchId,
    limit: Annotated[
        int, Query(ge=1, le=MAX_PAGE, description="How many at most.", examples=[DEFAULT_LIMIT])
    ] = DEFAULT_LIMIT,
    after: Annotated[
        str | None,
        Query(min_length=1, max_length=1024, description="The `next` of the page before.", examples=[IMAGE_ID]),
    ] = None,
) -> BatchResultPage:
    """Pages through the results so far, in the order of the images' ids, with the images that were refused.

    Boxes that are recorded in `bbox.model` are there alone. The pages are complete once the batch has ended: while
    it runs, a later page may miss what came before it.
    """
    return workspace.batches.results(batch_id, limit=limit, after=after)


@router.post(
    "/{batch_id}/cancel",
    summary="Stop a batch",
    responses={
        200: {
            "content": {"application/json": {"example": EXAMPLE | {"state": "cancelled"}}},
            "headers": ETAG_HEADER,
        },
        **documented(InputRefused, NotFound, Conflict, DatabaseUnavailable),
    },
    response_model=Batch,
)
def post_cancel(workspace: WorkspaceDep, batch_id: BatchId) -> Response:
    """Stops a batch: what is being worked is dropped, what is stored stays. It can be resumed."""
    batch = workspace.batches.cancel(batch_id)
    return of_revision(batch, batch.revision)


@router.post(
    "/{batch_id}/resume",
    summary="Go on with a batch",
    status_code=202,
    response_model=Batch,
    response_description="Queued. `Location` is where its progress is.",
    responses={
        202: {
            "content": {"application/json": {"example": EXAMPLE | {"state": "queued"}}},
            "headers": QUEUED_HEADERS,
        },
        **documented(InputRefused, NotFound, Conflict, DatabaseUnavailable),
    },
)
def post_resume(workspace: WorkspaceDep, batch_id: BatchId) -> Response:
    """Goes on with a batch that was cancelled or has failed; one that is being worked stays as it is."""
    return told(workspace.batches.resume(batch_id))
