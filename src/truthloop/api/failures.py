"""The failures of an image over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from truthloop.api.problems import documented
from truthloop.api.waiting import WorkspaceDep
from truthloop.errors import DatabaseUnavailable, InputRefused, NotFound
from truthloop.failures.documents import ImageFailures
from truthloop.failures.kinds import Kind
from truthloop.failures.selection import Selection, Size

router = APIRouter(tags=["failures"])

EXAMPLE: dict[str, Any] = {
    "image_id": "24982f38d2d732ef367638a175d72eae",
    "state": "annotated",
    "items": [
        {
            "image_id": "24982f38d2d732ef367638a175d72eae",
            "predicted": {"top": 0.379, "left": 0.308, "bottom": 0.886, "right": 0.48},
            "annotated": {"top": 0.375, "left": 0.302, "bottom": 0.838, "right": 0.439},
            "delta": {"top": -0.004, "left": -0.006, "bottom": -0.048, "right": -0.041},
            "model_version": "1.0.0",
            "task_version": "1.0.0",
            "iou": 0.664364793,
            "kind": "match",
        }
    ],
    "predictions": [],
    "invalid": [],
}

# An image's id may hold a slash.
ImageId = Annotated[
    str,
    Path(
        min_length=1,
        max_length=1024,
        description="Whose failures.",
        examples=["24982f38d2d732ef367638a175d72eae"],
    ),
]
Iou = Annotated[
    float | None, Query(ge=0, le=1, description="Only pairs whose IoU is this or more.", examples=[0.1])
]


@router.get(
    "/images/{image_id:path}/failures",
    summary="Where the model was wrong on an image",
    responses={
        200: {"content": {"application/json": {"example": EXAMPLE}}},
        **documented(InputRefused, NotFound, DatabaseUnavailable),
    },
)
def get_failures(
    workspace: WorkspaceDep,
    image_id: ImageId,
    min_iou: Annotated[
        float, Query(ge=0, le=1, description="Boxes whose IoU is lower aren't paired at all.", examples=[0.1])
    ] = 0.0,
    model_version: Annotated[
        list[str] | None,
        Query(description="Only these model versions, as if there were no others.", examples=[["2.0.0"]]),
    ] = None,
    kind: Annotated[
        list[Kind] | None, Query(description="Only items of these kinds.", examples=[["missed"]])
    ] = None,
    size: Annotated[
        list[Size] | None,
        Query(
            description="Only boxes of these sizes: small is below 1 % of the image's area, large from 10 % on. "
            "Of a pair, the annotated box counts.",
            examples=[["small"]],
        ),
    ] = None,
    iou_at_least: Iou = None,
    iou_below: Annotated[
        float | None, Query(ge=0, le=1, description="Only pairs whose IoU is below it.", examples=[0.5])
    ] = None,
) -> ImageFailures:
    """Each prediction of each model version against the annotations that the dataset takes.

    These are the annotations of the task version that was annotated last. `items` is there only if the image is
    both predicted and annotated; where there is nothing to compare with, `predictions` has what was predicted. An
    image that is neither is no error, and 404 is for ids that no image has.
    """
    selection = Selection.of(
        model_versions=model_version or (),
        kinds=kind or (),
        sizes=size or (),
        iou_at_least=iou_at_least,
        iou_below=iou_below,
    )
    return workspace.failures(image_id, selection=selection, min_iou=min_iou)
