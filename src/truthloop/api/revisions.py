"""Revisions as entity tags: who reads gets one, who asks again or changes something gives it back.

Source: RFC 9110, sections 8.8.3, 13.1 and 15.5.13; RFC 6585, section 3.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Header, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from truthloop.errors import InputRefused, RevisionMismatch

# May be kept, but is asked for again before it is used; without this the guard's `no-store` would forbid it.
REVALIDATED = "private, no-cache"
_ETAG = re.compile(r'(W/)?"([!#-~]{0,18})"')
_ETAGS = re.compile(rf"{_ETAG.pattern}(\s*,\s*{_ETAG.pattern})*")


def etag(revision: int) -> str:
    """The tag of a revision.

    >>> etag(3)
    '"3"'
    """
    return f'"{revision}"'


async def _if_match(
    tags: Annotated[str | None, Header(alias="If-Match", max_length=255, include_in_schema=False)] = None,
) -> frozenset[int] | None:
    if tags is None:
        raise HTTPException(
            428, "Give the ETag of what you read as If-Match, or `*` to change whatever stands there."
        )
    if tags.strip() == "*":
        return None
    if _ETAGS.fullmatch(tags.strip()) is None:
        raise InputRefused(
            f"If-Match is {tags[:64]!r}, which is no ETag. Give the one of what you read, quotes and all.",
            errors={"If-Match": "is no ETag"},
        )
    revisions = frozenset(int(tag) for weak, tag in _ETAG.findall(tags) if not weak and tag.isdecimal())
    if not revisions:
        raise RevisionMismatch(f"If-Match is {tags[:64]}, an ETag that none of ours equals. Read it again.")
    return revisions


async def _if_none_match(
    tags: Annotated[
        str | None,
        Header(
            alias="If-None-Match",
            description="The `ETag` of an earlier answer: where nothing has changed since, the answer is 304.",
            examples=['"3"'],
        ),
    ] = None,
) -> str:
    return tags or ""


# The revisions of which the request asks for one; None for any.
IfMatch = Annotated[frozenset[int] | None, Depends(_if_match)]
IfNoneMatch = Annotated[str, Depends(_if_none_match)]


def is_known(tags: str, revision: int) -> bool:
    """Whether a request's If-None-Match has the revision.

    >>> is_known('W/"2", "3"', 3), is_known("*", 3), is_known("", 3)
    (True, True, False)
    """
    given = [part.strip().removeprefix("W/") for part in tags.split(",")]
    return etag(revision) in given or "*" in given


def tagged(revision: int) -> dict[str, str]:
    """The headers of an answer that is the same as long as the revision is."""
    return {"ETag": etag(revision), "Cache-Control": REVALIDATED}


def not_modified(revision: int) -> Response:
    """The answer to who has it already."""
    return Response(status_code=304, headers=tagged(revision))


def of_revision(
    body: BaseModel, revision: int, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer as JSON, with its tag."""
    return Response(
        body.model_dump_json(),
        status_code=status,
        media_type="application/json",
        headers={**tagged(revision), **(headers or {})},
    )


# For the OpenAPI document.
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Nothing has changed since `If-None-Match`."}
}
ETAG_HEADER: dict[str, Any] = {
    "ETag": {"description": "Its revision.", "schema": {"type": "string"}, "example": '"3"'}
}
# As required, though FastAPI is told that it isn't: who leaves it out gets 428 and not 422.
IF_MATCH_PARAMETER: dict[str, Any] = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "The `ETag` of what was read, so that of two who change it at once the second is told; `*` for "
    "whatever stands there. Of several, with commas, one must be the present one.",
    "schema": {"type": "string", "pattern": '^([*]|"[0-9]{1,18}"(, ?"[0-9]{1,18}")*)$', "examples": ['"1"']},
}
