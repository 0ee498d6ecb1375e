"""The pages for people: the live status at /, the browsable API at /docs, the problems at /docs/errors.

The part of the API that brief 3 asks for has a page of its own where that brief looks for it.

Plain files without inline scripts or anything from elsewhere, so that they work offline and under a strict
content security policy.
"""

from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from truthloop.api.access import Access
from truthloop.api.guard import CONTENT_SECURITY_POLICY
from truthloop.api.problems import ERRORS_PAGE, errors_page

# The browsable documentation sets styles from its script.
DOCS_POLICY = CONTENT_SECURITY_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")

# Where brief 3's application has its own, and what it shows: jobs, batches and the models that they name.
INFERENCE_PAGE = "/api/v1/inference/ui/"
INFERENCE_PATHS = ("/api/v1/inference/", "/api/v1/models")


def add_site(app: FastAPI, *, secure_cookie: bool) -> None:
    """Adds the pages and the files that they need.

    Args:
        app: has the `Access` in its state.
        secure_cookie: whether people reach the service by https, so that the cookie may only travel there.
    """
    pages = Path(str(resources.files("truthloop.api") / "pages"))
    swagger = Path(str(resources.files("fastapi_offline") / "static"))
    index, sign_in, docs, inference, errors = (
        (pages / name).read_text(encoding="utf-8")
        for name in ("index.html", "sign_in.html", "docs.html", "inference.html", "errors.html")
    )
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def get_index(request: Request, token: str | None = None) -> Response:
        access: Access = request.app.state.access
        if token is not None and access.is_token(token):
            # The link with the token turns into a cookie, so that the token leaves the address bar.
            response: Response = RedirectResponse(request.scope.get("root_path", "") + "/", status_code=303)
            response.set_cookie(
                access.cookie_name, access.cookie_value, httponly=True, samesite="lax", secure=secure_cookie
            )
            return response
        if access.is_signed_in(request):
            return HTMLResponse(index)
        return HTMLResponse(sign_in, status_code=401, headers={"WWW-Authenticate": 'Bearer realm="truthloop"'})

    @router.get("/docs")
    async def get_docs() -> Response:
        return HTMLResponse(docs, headers={"Content-Security-Policy": DOCS_POLICY})

    @router.get(INFERENCE_PAGE)
    async def get_inference_docs() -> Response:
        return HTMLResponse(inference, headers={"Content-Security-Policy": DOCS_POLICY})

    @router.get(INFERENCE_PAGE.rstrip("/"))
    async def get_inference_docs_without_slash(request: Request) -> Response:
        # The page's links are relative to the folder, which works behind a proxy with a path of its own too.
        return RedirectResponse(request.scope.get("root_path", "") + INFERENCE_PAGE, status_code=308)

    @router.get("/api/v1/inference/openapi.json")
    def get_inference_document() -> dict[str, Any]:
        document = app.openapi()
        paths = {path: item for path, item in document["paths"].items() if path.startswith(INFERENCE_PATHS)}
        return document | {"paths": paths}

    @router.get(ERRORS_PAGE)
    async def get_errors() -> Response:
        return HTMLResponse(errors.replace("<!-- sections -->", errors_page()))

    app.include_router(router)
    app.mount("/docs/static", StaticFiles(directory=swagger), name="docs-static")
    app.mount("/pages", StaticFiles(directory=pages), name="pages")
