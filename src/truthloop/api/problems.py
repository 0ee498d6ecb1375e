"""Errors as RFC 9457 problem documents, made in this one place.

A problem's `type` is the address of its explanation, relative to the service: /docs/errors has one heading for
each class in errors.py. What is plain HTTP and nothing more (405, 413, 421) has the type `about:blank`.
"""

import html
import uuid
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from truthloop.errors import InputRefused, NotFound, NotSignedIn, TruthloopError, Unavailable
from truthloop.logs import get_logger

MEDIA_TYPE = "application/problem+json"
ERRORS_PAGE = "/docs/errors"
# When a caller may try again after a 503; the figures, say, need a few seconds.
RETRY_AFTER_SECONDS = 2

# Stands for null in an example: FastAPI leaves null out of the OpenAPI document, and create_app puts it back.
NULL = "(null)"

log = get_logger(__name__)


class Problem(BaseModel):
    """What went wrong with a request (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(
        description="Where this kind of problem is explained, relative to the service.",
        examples=["/docs/errors#input-refused"],
    )
    title: str = Field(description="The kind of problem.", examples=["Input refused"])
    status: int = Field(ge=400, le=599, description="The HTTP status, once more.", examples=[422])
    detail: str = Field(description="What is wrong and what to do.", examples=["limit: must be 1 to 1,000."])
    errors: dict[str, str] | None = Field(
        default=None,
        description="The reason for each refused field, by its place.",
        examples=[{"limit": "must be 1 to 1,000"}],
    )


class ProblemResponse(JSONResponse):
    """A problem document as a response."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            problem.model_dump(exclude_none=True), status_code=problem.status, headers=dict(headers or {})
        )


def anchor(title: str) -> str:
    """The anchor of a heading, as GitHub and our own page make it.

    >>> anchor("Figures are catching up")
    'figures-are-catching-up'
    """
    return title.lower().replace(" ", "-")


def error_classes(root: type[TruthloopError] = TruthloopError) -> Iterator[type[TruthloopError]]:
    """The tree of errors.py, each class after its parent."""
    yield root
    for child in root.__subclasses__():
        yield from error_classes(child)


def problem_of(error: TruthloopError) -> Problem:
    """The problem document of one of our errors."""
    return Problem(
        type=f"{ERRORS_PAGE}#{anchor(error.title)}",
        title=error.title,
        status=error.status,
        detail=str(error),
        errors=(error.errors or None) if isinstance(error, InputRefused) else None,
    )


def response_to(error: TruthloopError) -> ProblemResponse:
    """The response to one of our errors, with the headers that belong to its status."""
    headers = {}
    if isinstance(error, NotSignedIn):
        headers["WWW-Authenticate"] = 'Bearer realm="truthloop"'
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return ProblemResponse(problem_of(error), headers)


def http_problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> ProblemResponse:
    """The response to what is a matter of HTTP alone."""
    return ProblemResponse(
        Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail), headers
    )


def unexpected(error: Exception) -> ProblemResponse:
    """The response to a fault of ours: it says nothing about the inside, the log says all."""
    reference = uuid.uuid4().hex[:12]
    log.error("request_failed", reference=reference, exc_info=error)
    return ProblemResponse(
        Problem(
            type=f"{ERRORS_PAGE}#{anchor(TruthloopError.title)}",
            title=TruthloopError.title,
            status=500,
            detail=f"Truthloop made a mistake. Its log has the details under the reference {reference}.",
        )
    )


def place_of(location: Sequence[str | int]) -> str:
    """Where a refused value stands, without the part of the request.

    >>> place_of(("body", "bboxes", 0, "left"))
    'bboxes[0].left'
    >>> place_of(("body",))
    'body'
    """
    parts = location[1:] or location
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def add_handlers(app: FastAPI) -> None:
    """Makes problem documents of everything that a route can raise on purpose."""

    @app.exception_handler(TruthloopError)
    async def ours(request: Request, error: TruthloopError) -> ProblemResponse:  # noqa: ARG001
        if error.status >= 500:
            log.warning("request_unavailable", title=error.title, detail=str(error))
        return response_to(error)

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: RequestValidationError) -> ProblemResponse:  # noqa: ARG001
        errors = {place_of(fault["loc"]): _reason(fault) for fault in error.errors()}
        detail = " ".join(f"{place}: {reason}." for place, reason in errors.items())
        return response_to(InputRefused(detail, errors=errors))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> ProblemResponse:
        if error.status_code == 404:
            return response_to(NotFound(f"There is nothing at {request.url.path}. /docs lists what there is."))
        if error.status_code == 405:
            # Starlette names the methods of the first route with such a path, and there may be several.
            allowed = _allowed(app, request.url.path) or (error.headers or {}).get("Allow", "")
            text = f"{request.method} is not possible at {request.url.path}; allowed: {allowed}."
            return http_problem(405, text, {"Allow": allowed})
        return http_problem(error.status_code, str(error.detail), error.headers)


def _allowed(app: FastAPI, path: str) -> str:
    """The methods of all documented routes with this path; empty where there are none."""
    return ", ".join(
        method.upper()
        for template, methods in app.openapi()["paths"].items()
        if compile_path(template)[0].fullmatch(path)
        for method in methods
    )


def _reason(fault: Mapping[str, Any]) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def documented(*errors: type[TruthloopError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these problems, for its OpenAPI entry."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        first_line = (error.__doc__ or error.title).splitlines()[0]
        content = responses.setdefault(
            error.status,
            {
                "description": error.title,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )["content"][MEDIA_TYPE]
        example = problem_of(error(EXAMPLES.get(error, first_line)))
        if issubclass(error, InputRefused):
            example = example.model_copy(update={"errors": {"limit": "must be 1 to 1,000"}})
        content["examples"][anchor(error.title)] = {
            "summary": first_line,
            "value": example.model_dump(exclude_none=True),
        }
    return responses


def documented_http(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for problems that are a matter of HTTP alone."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": {
                        "type": "about:blank",
                        "title": HTTPStatus(status).phrase,
                        "status": status,
                        "detail": "What is wrong and what to do.",
                    },
                }
            },
        }
        for status in statuses
    }


# The texts of the examples in the OpenAPI document, where the class's first line would say too little.
EXAMPLES: Mapping[type[TruthloopError], str] = {
    NotSignedIn: "No token came with the request. Send it as `Authorization: Bearer TOKEN`.",
    InputRefused: "limit: must be 1 to 1,000.",
}


def errors_page() -> str:
    """The body of the page that explains every problem; its headings are those of docs/errors.md."""
    sections = []
    for error in error_classes():
        text = html.escape((error.__doc__ or "").strip().split("\n\n")[0]).replace("\n", " ")
        sections.append(
            f'<section><h2 id="{anchor(error.title)}">{html.escape(error.title)}</h2>'
            f"<p>{text}</p><p><small>HTTP status {error.status}</small></p></section>"
        )
    return "\n".join(sections)
