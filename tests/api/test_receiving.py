"""Images that are being sent: bounded together, and given up where they come too slowly."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from api.service import BEARER, DEADLINE_SECONDS, TOKEN, served
from hostile import encoded
from predict.given import wait_until
from truthloop.api import serve
from truthloop.api.app import create_app
from truthloop.api.receiving import Receiving
from truthloop.errors import TooManyRequests

UPLOAD = "/image/outline/objects"
PART = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
FORM = b"multipart/form-data; boundary=edge"


@contextmanager
def stalled(address: str, size: int, *, token: bool = True) -> Iterator[socket.socket]:
    """A sender who sends so many bytes of an image and then no more; the answer may be read."""
    place = urlsplit(address)
    head = f"POST {UPLOAD} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 1000000\r\n"
    head += f"Authorization: Bearer {TOKEN}\r\n" if token else ""
    with socket.create_connection((place.hostname, place.port), timeout=DEADLINE_SECONDS) as connection:
        connection.sendall(head.encode() + b"Content-Type: " + FORM + b"\r\n\r\n" + PART + bytes(size))
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict, dict]:
    """Status, headers and body of what comes back."""
    response = b""
    while b"\r\n\r\n" not in response or not response.endswith(b"}"):
        piece = connection.recv(65536)
        assert piece, response
        response += piece
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), json.loads(body)


@pytest.fixture
def open_app(workspace, settings):
    return create_app(workspace, token=TOKEN, settings=settings.model_copy(update={"outline_anonymous": True}))


def test_stalled_senders_together_take_no_more_than_there_is_room_for_and_give_it_back(open_app):
    receiving = open_app.state.receiving = Receiving(max_held_bytes=100_000, patience_seconds=3600)
    with served(open_app) as address:
        with ExitStack() as stack:
            senders = [stack.enter_context(stalled(address, 30_000)) for _ in range(3)]
            wait_until(lambda: receiving.held_bytes == 90_000)
            status, headers, problem = answer(stack.enter_context(stalled(address, 30_000)))

            assert (status, headers["connection"], problem["status"]) == (503, "close", 503)
            assert int(headers["retry-after"]) >= 1
            assert receiving.held_bytes == 90_000
            # Who sends little still finds room.
            sent = httpx.post(f"{address}{UPLOAD}", files={"image": encoded("PNG")}, headers=BEARER)
            assert sent.status_code == 202
            assert len(senders) == 3
        wait_until(lambda: receiving.held_bytes == 0)


def test_a_stranger_sends_a_few_at_once_and_who_has_the_token_as_many_as_they_like(open_app):
    receiving = open_app.state.receiving = Receiving(max_per_stranger=2, patience_seconds=3600)
    with served(open_app) as address:
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(stalled(address, 1000, token=False))
            wait_until(lambda: receiving.held_bytes == 2000)
            status, headers, problem = answer(stack.enter_context(stalled(address, 1000, token=False)))

            assert (status, problem["title"]) == (429, "Too many requests")
            assert int(headers["retry-after"]) >= 1
            for _ in range(3):
                stack.enter_context(stalled(address, 1000))
            wait_until(lambda: receiving.held_bytes == 5000)
        wait_until(lambda: receiving.held_bytes == 0)
        assert httpx.post(f"{address}{UPLOAD}", files={"image": encoded("PNG")}).status_code == 202


def test_a_sender_who_stalls_is_given_up_and_what_was_held_is_free(open_app):
    receiving = open_app.state.receiving = Receiving(patience_seconds=0.2)
    with served(open_app) as address, stalled(address, 50_000) as connection:
        status, headers, problem = answer(connection)

        assert (status, headers["connection"], problem["title"]) == (408, "close", "Request Timeout")
        assert receiving.held_bytes == 0


def test_an_image_is_held_until_it_is_answered(app, monkeypatch):
    held = []
    receiving = app.state.receiving

    def ingest(self, data, *, name):
        held.append((receiving.held_bytes, len(data)))
        raise TooManyRequests("enough")

    monkeypatch.setattr(type(app.state.workspace), "ingest_image", ingest)
    with served(app) as address:
        data = encoded("PNG")
        sent = httpx.post(f"{address}/api/v1/images", content=data, headers=BEARER | {"Content-Type": "image/png"})

    assert sent.status_code == 429
    assert held == [(len(data), len(data))]
    assert receiving.held_bytes == 0


def test_uploads_that_are_cut_off_at_the_end_are_told_of_in_one_line(open_app, monkeypatch, caplog):
    monkeypatch.setattr(serve, "GRACE_SECONDS", 1)
    receiving = open_app.state.receiving = Receiving(patience_seconds=3600)
    with ExitStack() as stack, served(open_app) as address:
        for _ in range(3):
            stack.enter_context(stalled(address, 1000))
        wait_until(lambda: receiving.held_bytes == 3000)

    assert [record.getMessage() for record in caplog.records if "task(s)" in record.getMessage()] == [
        "Cancel 3 running task(s), timeout graceful shutdown exceeded"
    ]
    assert [record for record in caplog.records if record.exc_info] == []


def paced(pieces: list[tuple[float, bytes]]) -> Request:
    """A request whose pieces come after so many seconds each."""
    messages = iter(pieces)

    async def receive() -> dict:
        seconds, piece = next(messages)
        await asyncio.sleep(seconds)
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def read(receiving: Receiving, request: Request) -> bytes:
    async def whole() -> bytes:
        return b"".join([chunk async for chunk in receiving.chunks(request)])

    return asyncio.run(whole())


def test_who_keeps_to_the_rate_may_take_longer_than_the_patience():
    receiving = Receiving(patience_seconds=1.0, bytes_per_second=1000)
    steady = [(0.05, bytes(1000))] * 30  # 1.5 seconds, for what may take 30

    assert len(read(receiving, paced([*steady, (0, b"")]))) == 30_000


def test_who_sent_much_at_once_has_no_more_patience_than_others():
    receiving = Receiving(patience_seconds=0.2, bytes_per_second=1000)

    with pytest.raises(HTTPException) as raised:
        read(receiving, paced([(0, bytes(1_000_000)), (DEADLINE_SECONDS, b"")]))
    assert raised.value.status_code == 408


def test_a_byte_now_and_then_is_too_slow():
    receiving = Receiving(patience_seconds=0.5, bytes_per_second=1000)

    with pytest.raises(HTTPException) as raised:
        read(receiving, paced([(0.05, b"x")] * 10_000))
    assert raised.value.status_code == 408


def test_the_strangers_of_one_network_count_as_one():
    receiving = Receiving(max_per_stranger=1)

    with receiving.place("2001:db8::1"):
        with pytest.raises(TooManyRequests), receiving.place("2001:db8::2"):
            pass
        with receiving.place("192.0.2.7"), receiving.place(None), receiving.place(None):
            pass
    with receiving.place("2001:db8::2"):
        pass
