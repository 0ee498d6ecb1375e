"""The images behind the status figures over HTTP."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query

from truthloop.api.problems import documented
from truthloop.api.waiting import WaitingDep, WorkspaceDep
from truthloop.errors import CursorRefused, DatabaseUnavailable, FiguresBehind, InputRefused
from truthloop.monitor.documents import ImagePage, State
from truthloop.monitor.status import MAX_LIMIT

DEFAULT_LIMIT = 100

router = APIRouter(tags=["images"])

EXAMPLE: dict[str, Any] = {
    "items": [
        {
            "image_id": "4a25a2ab002137dac4fe3e09ba91c349",
            "states": ["processed", "audited", "incorrect", "corrected"],
        }
    ],
    "next": "4a25a2ab002137dac4fe3e09ba91c349",
}


@router.get(
    "/images",
    summary="The images of a state",
    responses={
        200: {"content": {"application/json": {"example": EXAMPLE}}},
        **documented(InputRefused, CursorRefused, FiguresBehind, DatabaseUnavailable),
    },
)
async def get_images(
    workspace: WorkspaceDep,
    waiting: WaitingDep,
    state: Annotated[
        State | None, Query(description="Only images of this state.", examples=["uncorrected"])
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=MAX_LIMIT, description="How many at most.", examples=[DEFAULT_LIMIT])
    ] = DEFAULT_LIMIT,
    after: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=1024,
            description="The `next` of the page before.",
            examples=["4a25a2ab002137dac4fe3e09ba91c349"],
        ),
    ] = None,
) -> ImagePage:
    """Pages through the images in the order of their ids, each with all that can be said of it."""
    return await waiting.for_figures(partial(workspace.images, state, limit=limit, after=after, catch_up=False))
