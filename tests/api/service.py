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

# A service in a process of its own, with the settings of its environment: it listens on the port that it is given,
# 0 for a free one, says its address, and that it has returned.
SERVICE = f"""
import sys
from truthloop import logs
from truthloop.api.app import create_app
from truthloop.api.serve import serve
from truthloop.settings import load_settings
from truthloop.workspace import Workspace

logs.configure("error")
settings = load_settings()
with Workspace.open(settings, create=True) as workspace:
    app = create_app(workspace, token={TOKEN!r}, settings=settings)
    serve(app, host="127.0.0.1", port=int(sys.argv[1]), ready=lambda address: print(address, flush=True))
print("returned", flush=True)
"""


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
