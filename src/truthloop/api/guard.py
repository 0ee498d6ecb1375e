"""The outermost layer: what every request must pass, and what every response carries.

Checks before anything is read: the `Host` (a page of another site that got itself our address by DNS can't use
us), the `Origin` of writes (a form of another site can't write with our cookie) and the size of the body.
"""

import ipaddress
import re
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from truthloop.api.problems import ProblemResponse, http_problem, response_to, unexpected
from truthloop.errors import NotAllowed
from truthloop.logs import get_logger

# The most that a body may have, but for an image.
MAX_BODY_BYTES = 1024 * 1024
# Where images come in: known here by their paths, since bodies are bounded before anything looks for a route.
TAKES_IMAGES = re.compile(r"/api/v1/images|/api/v1/inference/jobs(/[^/]+)?|/image/outline/objects")
# What a form puts around an image.
_FORM_BYTES = 64 * 1024
_LENGTH_DIGITS = 20
_READS = ("GET", "HEAD", "OPTIONS")
# No script, style or request from elsewhere, and nothing inline.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

log = get_logger(__name__)


class Guard:
    """An ASGI layer around the application.

    Args:
        app: what it lies around.
        hosts: the names beside loopback under which the service may be addressed.
        max_image_bytes: the most that an image may have, where one is taken.
        max_body_bytes: the most that any other body may have.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str], max_image_bytes: int, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max(max_body_bytes, max_image_bytes + _FORM_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or has the application answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, send_guarded)
            else:
                await self._app(scope, self._bounded(receive, self._limit(scope)), send_guarded)
        except Exception as error:
            response = unexpected(error)
            if status:
                raise ResponseBroken("the response had begun already; the log has its cause above") from None
            await response(scope, receive, send_guarded)
        finally:
            write = log.debug if status < 400 else log.info if status < 500 else log.warning
            milliseconds = round((time.monotonic() - began) * 1000, 1)
            # The path without its query, which may hold a token.
            write("request", method=scope["method"], path=scope["path"], status=status, milliseconds=milliseconds)

    def _refusal(self, scope: Scope) -> ProblemResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not is_allowed_host(hosts[0], self._hosts):
            return http_problem(
                421, "This service isn't known under the request's Host. Set TRUTHLOOP_PUBLIC_URL to its address."
            )
        if scope["method"] not in _READS and not self._is_own_origin(headers):
            return response_to(NotAllowed("A page of another site can't write here (its Origin isn't ours)."))
        length = headers.get("content-length", "0")
        limit = self._limit(scope)
        # A number of thousands of digits is one that Python refuses to read.
        if not length.isdecimal() or len(length) > _LENGTH_DIGITS or int(length) > limit:
            return _too_large(limit)
        return None

    def _limit(self, scope: Scope) -> int:
        """The most bytes that the body of this request may have."""
        takes_image = scope["method"] == "POST" and TAKES_IMAGES.fullmatch(scope["path"])
        return self._max_upload_bytes if takes_image else self._max_body_bytes

    def _is_own_origin(self, headers: Headers) -> bool:
        """Whether a write comes from our own page, or from no page at all: programs send no Origin."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        parts = urlsplit(origin)
        own = urlsplit(f"//{headers['host']}")
        return parts.scheme in ("http", "https") and (parts.netloc == own.netloc)

    def _bounded(self, receive: Receive, limit: int) -> Receive:
        """Counts what is read of a body whose length nobody gave."""
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    raise HTTPException(413, _too_large_text(limit), {"Connection": "close"})
            return message

        return receive_bounded


class ResponseBroken(Exception):
    """A fault came when the response was on its way, so that the connection can only be cut."""


def is_allowed_host(header: str, hosts: Collection[str]) -> bool:
    """Whether a `Host` header names this service: loopback by any name, or one of `hosts` (in lower case).

    >>> is_allowed_host("127.0.0.1:8080", ()), is_allowed_host("evil.example", ())
    (True, False)
    """
    host = hostname(header)
    if host is None:
        return False
    return host in hosts or host == "localhost" or _is_loopback(host)


def hostname(header: str) -> str | None:
    """The name in a `Host` header, in lower case, without port, brackets and the final dot; None if malformed."""
    if any(character in header for character in "/?#@\\ ,"):
        return None
    try:
        parts = urlsplit(f"//{header}")
        parts.port  # noqa: B018 - raises if it is no number
        host = parts.hostname
    except ValueError:
        return None
    return host.rstrip(".") if host else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _too_large(limit: int) -> ProblemResponse:
    # The rest of the body isn't read, so the connection can't be used again.
    return http_problem(413, _too_large_text(limit), {"Connection": "close"})


def _too_large_text(limit: int) -> str:
    return f"The request's body is too large: at most {limit:,} bytes are taken, and their number must be true."
