"""`Idempotency-Key`: a request that creates or starts work may be repeated and is done once.

The answer is kept under the key, in the very transaction of the change that it tells of: no change without its
key, no key without its change, whenever the process dies. Of several requests with one key at the same time, one
transaction commits; the others find its key and give its answer. So nobody has to wait for, or guess about, a
request that still runs.

Source: draft-ietf-httpapi-idempotency-key-header-07, but for its 409 while the first request runs.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeAlias, TypeVar

from fastapi import Depends, Header, Request, Response
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from truthloop.api.access import Access
from truthloop.errors import DatabaseUnavailable, InputRefused, TruthloopError
from truthloop.store.connection import Store
from truthloop.workspace import Workspace

COLLECTION = "truthloop.idempotency_keys"
HEADER = "Idempotency-Key"
# Says of an answer that it was given before.
REPLAYED = "Idempotency-Replayed"
KEPT = timedelta(hours=24)
# The headers of an answer that are given again.
_HEADERS = ("content-type", "location", "etag", "retry-after")

T = TypeVar("T")
# Called inside a change's transaction, with the thing as it is afterwards.
Also: TypeAlias = Callable[[ClientSession, T], None]


class Once:
    """One request that may be a repetition."""

    def __init__(self, store: Store, *, caller: str, route: str, key: str | None) -> None:
        """Args: the route is method and path with its query; without a key each request is a new one."""
        self._store = store
        self._id = None if key is None else _digest(caller, route.partition("?")[0], key)
        self._route = route

    def __call__(
        self,
        *sent: str,
        make: Callable[[Also[T] | None], T],
        tell: Callable[[T], Response],
    ) -> Response:
        """Makes the change and tells of it, or gives the answer of the first request with this key.

        Args:
            *sent: what was sent, so that another body under the same key is noticed.
            make: makes the change in one transaction, inside which it calls what it is given with the
                transaction's session and the thing as it is afterwards.
            tell: the answer that tells of the thing; may run twice.

        Raises:
            InputRefused: the key came with another request.
        """
        if self._id is None:
            return tell(make(None))
        fingerprint = _digest(self._route, *sent)
        earlier = self._earlier(fingerprint)
        if earlier is not None:
            return earlier
        key = {"_id": self._id, "fingerprint": fingerprint}

        def note(session: ClientSession, made: T) -> None:
            try:
                self._store[COLLECTION].insert_one(key | _kept(tell(made)), session=session)
            except DuplicateKeyError:
                raise _Taken from None

        try:
            return tell(make(note))
        except (_Taken, TruthloopError) as error:
            clash = error
            # A clash may be one with the first request of this key, which was quicker.
            earlier = self._earlier(fingerprint)
        if earlier is not None:
            return earlier
        if isinstance(clash, _Taken):  # a failover has taken that request back
            raise DatabaseUnavailable("Another request with this key was just undone. Try again.") from clash
        raise clash

    def _earlier(self, fingerprint: str) -> Response | None:
        # The answer tells of a change, so it is given again only when the change lasts.
        found = self._store.find_lasting(COLLECTION, self._id, unless=lambda found: found is None)
        if found is None:
            return None
        if found["fingerprint"] != fingerprint:
            raise InputRefused(
                f"This {HEADER} came with another request. Use a new one for each new request.",
                errors={HEADER: "came with another request"},
            )
        return Response(
            content=bytes(found["body"]),
            status_code=found["status"],
            headers=found["headers"] | {REPLAYED: "true"},
        )


class _Taken(Exception):
    """Another request with this key was quicker; its answer is there now."""


def _kept(response: Response) -> dict[str, Any]:
    return {
        "status": response.status_code,
        "headers": {name: response.headers[name] for name in _HEADERS if name in response.headers},
        "body": bytes(response.body),
        "expires": datetime.now(UTC) + KEPT,
    }


def _digest(*parts: str) -> str:
    """A text of fixed length for several, in which none runs into the next."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part.encode(errors="surrogateescape")).digest())
    return whole.hexdigest()


async def _once(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias=HEADER,
            min_length=1,
            max_length=255,
            description="Any text of your own, new for each new request and the same for its repetitions: the "
            "request is done once, and its repetitions within 24 hours get the same answer.",
            examples=["5a1c0d3b-9e11-4c3a-9a52-01981f3c7f7e"],
        ),
    ] = None,
) -> Once:
    workspace: Workspace = request.app.state.workspace
    access: Access = request.app.state.access
    # A stranger's keys are their own: they must neither find nor block another's.
    caller = (
        access.caller if access.is_signed_in(request) else f"stranger {request.client and request.client.host}"
    )
    query = "&".join(f"{name}={value}" for name, value in sorted(request.query_params.multi_items()))
    route = f"{request.method} {request.url.path}?{query}"
    return Once(workspace.store, caller=caller, route=route, key=key)


OnceDep = Annotated[Once, Depends(_once)]
