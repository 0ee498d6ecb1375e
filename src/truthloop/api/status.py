"""The monitor's status over HTTP."""

from functools import partial
from typing import Any

from fastapi import APIRouter

from truthloop.api.problems import documented
from truthloop.api.waiting import WaitingDep, WorkspaceDep
from truthloop.errors import DatabaseUnavailable, FiguresBehind
from truthloop.monitor.documents import Status

router = APIRouter(tags=["status"])

_SHARES: dict[str, Any] = {
    "processed": {"count": 2101, "fraction": 0.8600081866557512},
    "audited": {"count": 1509, "fraction": 0.6176831764224313},
    "correct": {"count": 488, "fraction": 0.19975440032746624},
    "incorrect": {"count": 1021, "fraction": 0.417928776094965},
    "corrected": {"count": 777, "fraction": 0.3180515759312321, "fraction_of_incorrect": 0.7610186092066602},
}
EXAMPLE: dict[str, Any] = {
    **_SHARES,
    "images": 2443,
    "waiting": {"unprocessed": 342, "unaudited": 592, "uncorrected": 244},
    "model_versions": [{**_SHARES, "model_version": "1.0.0"}],
    "not_in_metadata": 0,
    "synthetic": False,
    "as_of": "2026-01-31T09:30:00.250000Z",
}


@router.get(
    "/status",
    summary="How far the boxes have come",
    responses={
        200: {"content": {"application/json": {"example": EXAMPLE}}},
        **documented(FiguresBehind, DatabaseUnavailable),
    },
)
async def get_status(workspace: WorkspaceDep, waiting: WaitingDep) -> Status:
    """The fractions of images processed, audited and corrected, and what waits; at most two seconds old.

    After a large load the answer may wait until the figures have caught up, up to 30 seconds.
    """
    return await waiting.for_figures(partial(workspace.status, catch_up=False))
