"""Bodies as JSON, read after sign-in: FastAPI itself would read and parse them before it asks for the token."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from truthloop.api.guard import MAX_BODY_BYTES

T = TypeVar("T", bound=BaseModel)
V = TypeVar("V")


def json_body(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """A dependency that gives the body; goes with `described` in the route's `openapi_extra`."""

    async def read(request: Request) -> T:
        if not is_json(request):
            raise HTTPException(415, "The body must be JSON (Content-Type: application/json).")
        return await read_json(request, kind)

    return read


def is_json(request: Request) -> bool:
    """Whether the body is JSON, or of no type at all."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type in ("", "application/json") or media_type.endswith("+json")


async def read_json(request: Request, kind: type[T], *, empty: bytes = b"") -> T:
    """The body, which is at most 1 MB also where an image may be larger.

    Args:
        request: its body is unread.
        kind: what it must be.
        empty: what no body means.

    Raises:
        RequestValidationError: it isn't that.
        HTTPException: 413 for a larger one.
    """
    text = bytearray()
    async for chunk in request.stream():
        text += chunk
        if len(text) > MAX_BODY_BYTES:
            reason = f"At most {MAX_BODY_BYTES:,} bytes of JSON are taken."
            raise HTTPException(413, reason, {"Connection": "close"})
    return checked(kind.model_validate_json, bytes(text) or empty)


def checked(validate: Callable[[V], T], value: V) -> T:
    """What `validate` makes of a part of the body.

    Raises:
        RequestValidationError: it can't be taken.
    """
    try:
        return validate(value)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_url=False)]
        raise RequestValidationError(faults) from None


def described(kind: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of a route that takes it."""
    content = {"application/json": {"schema": schema_of(kind), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Its schema; what that refers to is among the document's own schemas."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema
