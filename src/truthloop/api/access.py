"""Who may come in: who carries the workspace's token, as a bearer token or in the cookie that / makes of it."""

import hashlib
import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from truthloop.errors import NotSignedIn


class Access:
    """The token of this service and the cookie that stands for it."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        # Not the token itself: what a browser stores can't be used as a bearer token.
        self.cookie_value = hmac.new(self._token, b"truthloop cookie", hashlib.sha256).hexdigest()
        # Who calls, where what they sent is kept: everyone who knows the token, until there are accounts.
        self.caller = hmac.new(self._token, b"truthloop caller", hashlib.sha256).hexdigest()
        # Browsers send cookies to every port of a host; two workspaces there must not share one name.
        self.cookie_name = "truthloop-" + hmac.new(self._token, b"truthloop name", hashlib.sha256).hexdigest()[:8]

    def is_token(self, token: str) -> bool:
        """Whether this is the token; takes the same time whatever is wrong with it."""
        return hmac.compare_digest(token.encode(errors="surrogateescape"), self._token)

    def is_signed_in(self, request: Request) -> bool:
        """Whether a request carries the token or the cookie."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(token.strip()):
            return True
        cookie = request.cookies.get(self.cookie_name, "")
        return hmac.compare_digest(cookie.encode(errors="surrogateescape"), self.cookie_value.encode())


# For the OpenAPI document; `signed_in` decides.
BEARER = HTTPBearer(auto_error=False, scheme_name="token", description="The token that `truthloop up` prints.")
COOKIE = APIKeyCookie(
    name="truthloop", auto_error=False, scheme_name="cookie", description="What opening the printed link sets."
)


async def signed_in(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    cookie: Annotated[str | None, Depends(COOKIE)],
) -> None:
    """The dependency of every route that isn't open to all.

    Raises:
        NotSignedIn: no token came with the request, or a wrong one.
    """
    access: Access = request.app.state.access
    if access.is_signed_in(request):
        return
    raise NotSignedIn(
        "The token that came with the request is wrong."
        if bearer or cookie or "authorization" in request.headers
        else "No token came with the request. Send it as `Authorization: Bearer TOKEN`; `truthloop up` prints it."
    )
