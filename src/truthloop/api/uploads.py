"""Images over HTTP: sending them, and getting their files and thumbnails."""

from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BeforeValidator

from truthloop.api.multipart import in_turn, received
from truthloop.api.problems import documented, documented_http
from truthloop.api.waiting import WorkspaceDep
from truthloop.errors import (
    Conflict,
    DatabaseUnavailable,
    DiskFull,
    ImageRefused,
    InputRefused,
    NotFound,
    StorageUnavailable,
)
from truthloop.ingest.image_header import MEDIA_TYPES
from truthloop.ingest.images import MAX_NAME, ImageFacts, IngestedImage
from truthloop.ingest.thumbnails import MEDIA_TYPE, Size

router = APIRouter(tags=["images"])

IMAGE_ID = "9d5e3ecf4ba1e6c8b1dbb0a4d1d8f2b5c0f9f7f2f6d2b7b4a1f0a6d3c2e1b0f9"
FACTS_EXAMPLE: dict[str, Any] = {
    "image_id": IMAGE_ID,
    "width": 512,
    "height": 600,
    "media_type": "image/jpeg",
    "capture_timestamp": 1681533506.925,
    "source": "hopper.jpg",
}
EXAMPLE = FACTS_EXAMPLE | {"state": "new"}
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}, "example": "(bytes)"}
# An image as a request's body, for the OpenAPI entries of routes that read it with `received`.
IMAGE_BODY: dict[str, Any] = {
    "required": True,
    "description": "The file as it is, or a form with the file in its field `image`.",
    "content": {
        **dict.fromkeys(MEDIA_TYPES.values(), BINARY),
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "additionalProperties": False,
                "properties": {"image": {"type": "string", "format": "binary", "description": "The file."}},
            }
        },
    },
}
# A file is named by its content, which never changes; without the token nobody else may keep it.
IMMUTABLE = "private, max-age=31536000, immutable"

# An image's id may hold a slash.
ImageId = Annotated[str, Path(min_length=1, max_length=1024, description="The image.", examples=[IMAGE_ID])]


@router.post(
    "/images",
    status_code=201,
    summary="Send an image",
    openapi_extra={"requestBody": IMAGE_BODY},
    responses={
        201: {
            "description": "It is new.",
            "content": {"application/json": {"example": EXAMPLE}},
            "headers": {"Location": {"description": "The image.", "schema": {"type": "string"}}},
        },
        200: {
            "description": "It was there already.",
            "model": IngestedImage,
            "content": {"application/json": {"example": {**EXAMPLE, "state": "already_there"}}},
        },
        **documented(ImageRefused, Conflict, DatabaseUnavailable, StorageUnavailable, DiskFull),
        **documented_http(400, 408, 415),
    },
)
async def post_image(
    request: Request,
    response: Response,
    workspace: WorkspaceDep,
    name: Annotated[
        str | None,
        Query(
            max_length=MAX_NAME,
            description="What people call the file; by default what the form says.",
            examples=["hopper.jpg"],
        ),
    ] = None,
) -> IngestedImage:
    """Takes a JPEG, PNG, WebP, BMP or TIFF, told by its content, into the workspace.

    The image's id is the SHA-256 of the bytes sent, so the same file sent twice is one image. Where EXIF turns it,
    an upright copy is made and used everywhere. A file that is refused leaves nothing behind.
    """
    async with received(request, max_bytes=workspace.settings.max_image_bytes) as upload:
        _refuse_fields(upload.fields)
        image = await in_turn(request, partial(workspace.ingest_image, upload.data, name=name or upload.name))
    response.status_code = 201 if image.state == "new" else 200
    response.headers["Location"] = f"/api/v1/images/{image.image_id}"
    return image


def _refuse_fields(fields: Iterable[str]) -> None:
    names = [name[:64] for name in fields]
    if names:
        raise InputRefused(
            f"The form has fields that aren't taken: {', '.join(names)}. Send the field image alone; a name goes "
            "into the address, as ?name=...",
            errors=dict.fromkeys(names, "not a field of this form"),
        )


@router.get(
    "/images/{image_id:path}/file",
    summary="The file of an image",
    response_class=Response,
    responses={
        200: {
            "description": "The file.",
            "content": dict.fromkeys(MEDIA_TYPES.values(), BINARY),
        },
        **documented(NotFound, DatabaseUnavailable, StorageUnavailable),
    },
)
def get_file(
    request: Request,
    workspace: WorkspaceDep,
    image_id: ImageId,
    original: Annotated[
        bool, Query(description="The bytes as they were received, instead of the upright file.", examples=[False])
    ] = False,
) -> Response:
    """The upright file, with its true type and an `ETag`; 304 answers an `If-None-Match` that still holds."""
    file = workspace.image_file(image_id, original=original)
    return _file(request, file.data, key=file.key, media_type=file.media_type)


@router.get(
    "/images/{image_id:path}/thumbnail",
    summary="A small copy of an image",
    response_class=Response,
    responses={
        200: {"description": "The thumbnail.", "content": {MEDIA_TYPE: BINARY}},
        **documented(NotFound, ImageRefused, DatabaseUnavailable, StorageUnavailable),
    },
)
async def get_thumbnail(
    request: Request,
    workspace: WorkspaceDep,
    image_id: ImageId,
    size: Annotated[
        Size,
        BeforeValidator(int),  # the text of a query is no number yet
        Query(description="Pixels of its longer side; a smaller image keeps its size.", examples=[256]),
    ] = 256,
) -> Response:
    """A WebP of the upright image, made at the first request and kept."""
    file = await in_turn(request, partial(workspace.thumbnail, image_id, size=size))
    return _file(request, file.data, key=f"{file.key}-{size}", media_type=file.media_type)


@router.get(
    "/images/{image_id:path}",
    summary="An image",
    responses={
        200: {"content": {"application/json": {"example": FACTS_EXAMPLE}}},
        **documented(NotFound, DatabaseUnavailable),
    },
)
def get_image(workspace: WorkspaceDep, image_id: ImageId) -> ImageFacts:
    """What is known of an image whose file was sent or ingested."""
    return workspace.image(image_id)


def _file(request: Request, data: bytes, *, key: str, media_type: str) -> Response:
    etag = f'"{key}"'
    headers = {"ETag": etag, "Cache-Control": IMMUTABLE}
    asked = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if etag in asked or asked == ["*"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)
