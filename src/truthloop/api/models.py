"""The models over HTTP: what a job can name."""

from typing import Annotated, Any

from fastapi import APIRouter, Path

from truthloop.api.problems import NULL, documented
from truthloop.api.waiting import WorkspaceDep
from truthloop.errors import FileRefused, InputRefused, ModelRefused, NotFound
from truthloop.models.show import ModelFacts, ModelList, list_models, show_model

router = APIRouter(prefix="/models", tags=["models"])

ITEM_EXAMPLE: dict[str, Any] = {
    "name": "ultraface_rfb_320",
    "version": "1.0.0",
    "task": "detection",
    "runtime": "onnx",
    "licence": "MIT",
    "source": "Ultra-Light-Fast-Generic-Face-Detector-1MB",
    "own": False,
    "state": "there",
}
LIST_EXAMPLE: dict[str, Any] = {
    "items": [ITEM_EXAMPLE],
    "unusable": [
        {
            "name": "eyes",
            "path": "/home/ada/models/eyes.model.json",
            "reason": "version is missing. Add it.",
        }
    ],
    "warning": NULL,
    "next": NULL,
}
EXAMPLE: dict[str, Any] = ITEM_EXAMPLE | {
    "files": [
        {
            "name": "version-RFB-320.onnx",
            "state": "there",
            "path": "/home/ada/.cache/truthloop/models/version-RFB-320.onnx",
            "sha256": "34cd7e60aeff28744c657de7a3dc64e872d506741de66987f3426f2b79f88019",
            "bytes": 1270727,
            "url": "https://example.org/version-RFB-320.onnx",
            "wheel": NULL,
            "member": NULL,
        }
    ],
    "folder": "/home/ada/.cache/truthloop/models",
    "labels": ["face"],
    "input": {"width": 320, "height": 240},
    "output": {"decoder": "ultraface", "threshold": 0.7},
}


@router.get(
    "",
    summary="The models",
    responses={
        200: {"content": {"application/json": {"example": LIST_EXAMPLE}}},
        **documented(InputRefused, ModelRefused, FileRefused),
    },
)
def get_models(workspace: WorkspaceDep) -> ModelList:
    """All models of the catalogue on one page, and whether their files are here."""
    return list_models(workspace.settings)


@router.get(
    "/{name}",
    summary="A model",
    responses={
        200: {"content": {"application/json": {"example": EXAMPLE}}},
        **documented(InputRefused, NotFound, ModelRefused, FileRefused),
    },
)
def get_model(
    workspace: WorkspaceDep,
    name: Annotated[
        str, Path(min_length=1, max_length=64, description="Its name.", examples=[ITEM_EXAMPLE["name"]])
    ],
) -> ModelFacts:
    """All that the catalogue says of a model, and the state of each of its files."""
    return show_model(workspace.settings, name)
