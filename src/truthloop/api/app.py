"""The FastAPI application: one router a stage, composed here."""

from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi

import truthloop
from truthloop.api import (
    batches,
    datasets,
    events,
    failures,
    health,
    images,
    jobs,
    models,
    outlines,
    status,
    uploads,
)
from truthloop.api.access import Access, signed_in
from truthloop.api.guard import Guard
from truthloop.api.parameters import only_known_parameters
from truthloop.api.problems import NULL, Problem, add_handlers, documented, documented_http
from truthloop.api.receiving import MAX_HELD_BYTES, Receiving
from truthloop.api.site import add_site
from truthloop.api.waiting import Waiting
from truthloop.errors import InputRefused, NotSignedIn, TruthloopError
from truthloop.settings import Settings
from truthloop.workspace import Workspace

DESCRIPTION = (
    "The data engine for computer-vision teams. Lists page by cursor: give `next` of one answer as `after` of the "
    "next request. Errors are problem documents (RFC 9457); [each kind](/docs/errors) has its explanation."
)


def create_app(workspace: Workspace, *, token: str, settings: Settings) -> FastAPI:
    """The application of one workspace; `serve` runs it.

    Args:
        workspace: open, and closed by the caller after the application has ended.
        token: what requests must carry.
        settings: `host` and `public_url` are the names under which the service may be addressed, beside loopback.
    """
    app = FastAPI(
        title="Truthloop",
        version=truthloop.__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.workspace = workspace
    app.state.settings = settings
    app.state.access = Access(token)
    app.state.waiting = Waiting(workspace)
    app.state.outline_limit = outlines.new_limit()
    app.state.receiving = Receiving(max_held_bytes=max(MAX_HELD_BYTES, settings.max_image_bytes))

    v1 = APIRouter(
        prefix="/api/v1",
        dependencies=[Depends(signed_in), Depends(only_known_parameters)],
        responses=documented(NotSignedIn, InputRefused),
    )
    for router in (status.router, images.router, failures.router, datasets.router, events.router):
        v1.include_router(router)
    for router in (jobs.router, batches.router, models.router):
        v1.include_router(router)
    v1.include_router(uploads.router)  # after the others: one of its paths takes all under /images/
    common = {**documented_http(413, 421), **documented(TruthloopError)}
    app.include_router(v1, responses=common)
    app.include_router(outlines.router, responses=common)
    app.include_router(health.router, responses=common)
    add_site(app, secure_cookie=(settings.public_url or "").startswith("https://"))
    add_handlers(app)
    app.add_middleware(Guard, hosts=_hosts(settings), max_image_bytes=settings.max_image_bytes)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _hosts(settings: Settings) -> frozenset[str]:
    """The names beside loopback under which the service may be addressed."""
    public = urlsplit(settings.public_url).hostname if settings.public_url else None
    return frozenset(name.lower() for name in (settings.host, public) if name)


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        # FastAPI's own form of a refusal, which add_handlers replaces.
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = _with_nulls(document)
    return app.openapi_schema


def _with_nulls(value: Any) -> Any:
    """The document with null where an example has `NULL`."""
    if isinstance(value, dict):
        return {name: _with_nulls(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_nulls(part) for part in value]
    return None if value == NULL else value
