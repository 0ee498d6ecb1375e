"""The training sets over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from truthloop.api.problems import documented
from truthloop.api.waiting import WorkspaceDep
from truthloop.datasets.documents import DatasetPage, DatasetReport
from truthloop.datasets.show import MAX_LIMIT, MAX_VERSION
from truthloop.datasets.why import Story
from truthloop.errors import DatabaseUnavailable, InputRefused, NotFound

DEFAULT_LIMIT = 100

router = APIRouter()

PAGE_EXAMPLE: dict[str, Any] = {
    "items": [
        {
            "version": 1,
            "built_at": "2026-01-31T09:30:01.250000Z",
            "as_of": "2026-01-31T09:30:00Z",
            "without_incorrect": False,
            "images": 2443,
            "entries": 2100,
            "human": 776,
            "model": 1324,
            "seen_fraction": 0.659047619047619,
            "current": True,
        }
    ],
    "next": 1,
}
EXAMPLE: dict[str, Any] = {
    "version": 1,
    "as_of": "2026-01-31T09:30:00Z",
    "cluster_time": "1769851800.7821",
    "built_at": "2026-01-31T09:30:01.250000Z",
    "without_incorrect": False,
    "synthetic": False,
    "images": 2443,
    "entries": 2100,
    "boxes": 2574,
    "human": {"images": 776, "empty": 66, "boxes": 937},
    "model": {"images": 1324, "empty": 125, "boxes": 1637, "correct": 406, "incorrect": 202, "unaudited": 716},
    "sources": [{"kind": "model", "version": "2.0.0", "images": 793}],
    "seen": 1384,
    "seen_fraction": 0.659047619047619,
    "left_out": {
        "count": 343,
        "unseen": 342,
        "refused": 1,
        "audited_incorrect": 0,
        "reasons": [
            {
                "reason": "swapped or empty box",
                "count": 1,
                "examples": [
                    {
                        "image_id": "0c8ab894bf50daa46320126e4d731a35",
                        "reason": "swapped or empty box",
                        "detail": "an annotation's bbox: left 0.345 is not below right 0.339",
                    }
                ],
            }
        ],
    },
    "clipped": {"boxes": 100, "images": 100},
    "not_in_metadata": {"count": 0, "examples": []},
    "unfinished_loads": 0,
    "seconds": {"entries": 0.12, "parquet": 0.03, "swap": 0.01},
    "folder": "datasets/1-3f9a2c1b",
}


@router.get(
    "/datasets",
    tags=["datasets"],
    summary="The versions of the training set",
    responses={
        200: {"content": {"application/json": {"example": PAGE_EXAMPLE}}},
        **documented(InputRefused, DatabaseUnavailable),
    },
)
def get_datasets(
    workspace: WorkspaceDep,
    limit: Annotated[
        int, Query(ge=1, le=MAX_LIMIT, description="How many at most.", examples=[DEFAULT_LIMIT])
    ] = DEFAULT_LIMIT,
    after: Annotated[
        int | None, Query(ge=1, le=MAX_VERSION, description="The `next` of the page before.", examples=[7])
    ] = None,
) -> DatasetPage:
    """Pages through the versions, the newest first."""
    return workspace.dataset.list(limit=limit, after=after)


@router.get(
    "/datasets/{version}",
    tags=["datasets"],
    summary="What a version consists of",
    responses={
        200: {"content": {"application/json": {"example": EXAMPLE}}},
        **documented(InputRefused, NotFound, DatabaseUnavailable),
    },
)
def get_dataset(
    workspace: WorkspaceDep,
    version: Annotated[int, Path(ge=1, le=MAX_VERSION, description="Its number.", examples=[1])],
) -> DatasetReport:
    """Where the boxes of a version come from, who was left out and why; it accounts for every image."""
    return workspace.dataset.show(version)


STORY_EXAMPLE: dict[str, Any] = {
    "image_id": "4a25a2ab002137dac4fe3e09ba91c349",
    "in_metadata": True,
    "captured_at": "2025-06-01T12:00:00Z",
    "predictions": [
        {
            "model_version": "1.0.0",
            "model": {"name": "opencv_faces", "version": "1"},
            "boxes": 2,
            "seen": [{"label": "face", "score": 0.91}, {"label": "face", "score": 0.74}],
            "stored": True,
            "verdict": False,
            "audits": [
                {
                    "auditor": "ada@example.org",
                    "correct": False,
                    "task_version": "1.0.0",
                    "at": "2025-07-01T12:00:00Z",
                }
            ],
        }
    ],
    "drawn": [
        {"task_version": "1.0.0", "annotators": ["ben@example.org"], "boxes": 2, "latest": "2025-08-01T12:00:00Z"}
    ],
    "now": {"outcome": "in", "why": "2 boxes drawn by people in annotation task 1.0.0"},
    "datasets": [
        {
            "version": 1,
            "at": "2026-01-31T09:30:00Z",
            "outcome": "in",
            "why": "2 boxes drawn by people in annotation task 1.0.0",
        }
    ],
    "older_datasets": False,
    "events": [],
    "older_events": False,
}


@router.get(
    "/images/{image_id:path}/why",
    tags=["images"],
    summary="An image's whole story",
    responses={
        200: {"content": {"application/json": {"example": STORY_EXAMPLE}}},
        **documented(InputRefused, NotFound, DatabaseUnavailable),
    },
)
def get_why(
    workspace: WorkspaceDep,
    # An image's id may hold a slash.
    image_id: Annotated[
        str,
        Path(
            min_length=1,
            max_length=1024,
            description="Whose story.",
            examples=["4a25a2ab002137dac4fe3e09ba91c349"],
        ),
    ],
) -> Story:
    """When it came, what models saw, what people said and drew, in which versions of the dataset it is and why."""
    return workspace.why(image_id)
