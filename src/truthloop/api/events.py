"""The event log over HTTP: page by page, or live as Server-Sent Events."""

import asyncio
import random
from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Header, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from truthloop.api.problems import documented
from truthloop.api.waiting import WorkspaceDep
from truthloop.errors import CursorRefused, DatabaseUnavailable, InputRefused, TruthloopError
from truthloop.events.cloudevent import to_cloudevent_json
from truthloop.events.documents import Event
from truthloop.events.passed_on import ID_PATTERN, checked_cursor
from truthloop.events.stream import MAX_PAGE, Batches, EventHub
from truthloop.logs import get_logger

DEFAULT_LIMIT = 100
HEARTBEAT_SECONDS = 15.0
# How long a client waits before it comes back; spread, so that a restart isn't met by all at once.
RETRY_MS = (1000, 4000)
# How long the end of a stream may take for a client that doesn't read.
FAREWELL_SECONDS = 5.0

router = APIRouter(tags=["events"])
log = get_logger(__name__)

EXAMPLE: dict[str, Any] = {
    "specversion": "1.0",
    "id": "019c1388-2e1a-7b52-9c6b-8d6f0d3f5a11",
    "type": "dev.truthloop.documents.loaded",
    "source": "/ingest",
    "subject": "019c1388-2c00-7d10-8f3e-5b1d2a9c7e42",
    "time": "2026-01-31T09:30:00.250000Z",
    "datacontenttype": "application/json",
    "partitionkey": "019c1388-2c00-7d10-8f3e-5b1d2a9c7e42",
    "sequence": "0000000001",
    "data": {"collection": "metadata", "file": "metadata.json", "read": 2443, "new": 2443, "refused": 0},
}


class CloudEventView(BaseModel):
    """One event in the JSON form of CloudEvents 1.0."""

    model_config = ConfigDict(frozen=True)

    specversion: Literal["1.0"] = Field(description="The version of CloudEvents.")
    id: str = Field(description="A UUIDv7; repeats of an event have the same.")
    type: str = Field(description="`dev.truthloop.<entity>.<past participle>`.")
    source: str = Field(description="The path of the stage that made the change.")
    subject: str = Field(description="The id of the entity that changed.")
    time: AwareDatetime = Field(description="When it changed.")
    datacontenttype: Literal["application/json"] = Field(description="What `data` is.")
    partitionkey: str = Field(description="Equals the subject.")
    sequence: str = Field(
        pattern="^[0-9]{10,}$", description="Orders the events of one subject, as text and as a number."
    )
    data: dict[str, Any] = Field(description="Ids, states and counts.")

    @classmethod
    def of(cls, event: Event) -> Self:
        """The event as it is sent."""
        return cls.model_validate_json(to_cloudevent_json(event))


class CloudEventPage(BaseModel):
    """A page of the log, in the order of the events' ids."""

    model_config = ConfigDict(frozen=True)

    items: list[CloudEventView]
    next: str | None = Field(description="Give this as `after` for the next page; null on the last.")


# The form of a cursor is checked by the log itself; the OpenAPI document only tells it.
_FORM: dict[str, Any] = {"pattern": ID_PATTERN}


@router.get(
    "/events",
    summary="What happened",
    responses={
        200: {"content": {"application/json": {"example": {"items": [EXAMPLE], "next": EXAMPLE["id"]}}}},
        **documented(InputRefused, CursorRefused, DatabaseUnavailable),
    },
)
def get_events(
    workspace: WorkspaceDep,
    limit: Annotated[
        int, Query(ge=1, le=MAX_PAGE, description="How many at most.", examples=[DEFAULT_LIMIT])
    ] = DEFAULT_LIMIT,
    after: Annotated[
        str | None,
        Query(
            description="The `next` of the page before, or the id of the last event seen.",
            examples=[EXAMPLE["id"]],
            json_schema_extra=_FORM,
        ),
    ] = None,
) -> CloudEventPage:
    """Pages through the log from its beginning. To follow it without a gap, use the stream."""
    page = workspace.events(after=after, limit=limit)
    return CloudEventPage(items=[CloudEventView.of(event) for event in page.items], next=page.next)


@router.get(
    "/events/stream",
    summary="What happens",
    response_class=Response,
    responses={
        200: {
            "description": "A stream without an end. `data` is a CloudEvents 1.0 document.",
            "content": {
                "text/event-stream": {
                    "schema": {"type": "string"},
                    "example": f"retry: 2000\n\nid: {EXAMPLE['id']}\nevent: {EXAMPLE['type']}\ndata: {{...}}\n\n",
                }
            },
        },
        **documented(CursorRefused, DatabaseUnavailable),
    },
)
async def get_event_stream(
    workspace: WorkspaceDep,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="The id of the last event seen; browsers send it by themselves.",
            examples=[EXAMPLE["id"]],
            json_schema_extra=_FORM,
        ),
    ] = None,
    last_event_id_in_query: Annotated[
        str | None,
        Query(
            alias="last_event_id",
            description="The same, for clients that can't set headers.",
            examples=[EXAMPLE["id"]],
            json_schema_extra=_FORM,
        ),
    ] = None,
) -> Response:
    """Server-Sent Events from now on, or since the event in `Last-Event-ID` (or `last_event_id`).

    After a resumption those of the last two minutes before that event come once more; none is left out. A client
    that reads too slowly is cut off, and resumes the same way.
    """
    after = last_event_id or last_event_id_in_query
    return EventStreamResponse(workspace.hub, None if after is None else checked_cursor(after))


class EventStreamResponse(Response):
    """A response that lasts until the client goes, the hub closes, or the client is too slow."""

    media_type = "text/event-stream"

    def __init__(self, hub: EventHub, after: str | None) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._hub = hub
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's form
        """Sends events until one of the three ends it."""
        async with self._hub.listen(self._after) as batches:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            # The first bytes tell the client that it listens from here on.
            await _send(send, f"retry: {random.randint(*RETRY_MS)}\n\n".encode())
            tasks = [
                asyncio.ensure_future(work)
                for work in (_pump(batches, send), _gone(receive), batches.cut_off.wait())
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pump(batches: Batches, send: Send) -> None:
    """Sends batches, and a comment when there was none for a while, so that a dead connection is noticed."""
    try:
        while True:
            events = await batches.within(HEARTBEAT_SECONDS)
            await _send(
                send, b": still here\n\n" if events is None else b"".join(frame(event) for event in events)
            )
    except StopAsyncIteration:
        return
    except TruthloopError as error:
        # The response has begun; the client comes back and is told then.
        log.warning("event_stream_ended", error=str(error))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


@lru_cache(maxsize=4096)
def frame(event: Event) -> bytes:
    """The event as a Server-Sent Event; made once for all listeners."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id.encode(), event.type.encode(), to_cloudevent_json(event))
