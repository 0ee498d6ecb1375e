"""A served application, and a client of its event stream."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from fastapi import FastAPI

from truthloop.api.serve import listen, server_of

TOKEN = "a-token-of-at-least-thirty-two-characters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
DEADLINE_SECONDS = 60.0


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Runs the application on a free port in a thread; gives its address."""
    addresses: queue.Queue[str] = queue.Queue()
    server = server_of(app, ready=addresses.put)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listen("127.0.0.1", 0)]}, daemon=True)
    thread.start()
    try:
        yield addresses.get(timeout=DEADLINE_SECONDS)
    finally:
        server.should_exit = True
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive(), "the server did not stop"


@dataclass(frozen=True)
class Sent:
    """One Server-Sent Event."""

    id: str
    event: str
    data: dict


def events_of(response: httpx.Response) -> Iterator[Sent | str]:
    """What a stream sends: events, and its other lines as they are."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line == "" and "data" in fields:
            yield Sent(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}
        elif line.startswith(("id: ", "event: ", "data: ")):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif line:
            yield line


@contextmanager
def stream(address: str, **request) -> Iterator[Iterator[Sent | str]]:
    """An open event stream; it listens when this is entered."""
    request.setdefault("headers", {})
    request["headers"] = BEARER | request["headers"]
    with httpx.stream("GET", f"{address}/api/v1/events/stream", timeout=DEADLINE_SECONDS, **request) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        sent = events_of(response)
        first = next(sent)
        assert isinstance(first, str)
        assert first.startswith("retry: ")
        yield sent
