"""Who comes in, and what is refused before anything is read."""

import socket

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from api.service import BEARER, TOKEN, served
from truthloop.api.app import create_app
from truthloop.api.guard import MAX_BODY_BYTES, Guard, hostname, is_allowed_host

CLOSED = ["/api/v1/status", "/api/v1/images", "/api/v1/events", "/api/v1/events/stream"]
OPEN = ["/healthz", "/readyz", "/docs", "/docs/errors", "/openapi.json", "/docs/static/swagger-ui.css"]


@pytest.mark.parametrize("path", CLOSED)
def test_without_a_token_nobody_reads_data(stranger, path):
    answer = stranger.get(path)

    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize(
    "header", [f"Bearer {TOKEN}x", "Bearer", TOKEN, f"Basic {TOKEN}", "Bearer é".encode("latin-1")]
)
def test_a_wrong_token_is_refused(stranger, path, header):
    assert stranger.get(path, headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_health_and_documentation_need_no_token(stranger, path):
    assert stranger.get(path).status_code == 200


def test_the_link_becomes_a_cookie_and_the_token_leaves_the_address(stranger):
    answer = stranger.get("/", params={"token": TOKEN})

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    assert stranger.get("/").status_code == 200
    assert stranger.get("/api/v1/events").status_code == 200


def test_what_the_cookie_holds_is_no_bearer_token(stranger):
    cookie = stranger.get("/", params={"token": TOKEN}).headers["set-cookie"]
    value = cookie.partition("=")[2].partition(";")[0]
    stranger.cookies.clear()

    assert stranger.get("/api/v1/events", headers={"Authorization": f"Bearer {value}"}).status_code == 401


@pytest.mark.parametrize("query", ["", "?token=wrong", "?token="])
def test_without_the_token_the_page_says_how_to_get_the_link(stranger, query):
    answer = stranger.get("/" + query)

    assert answer.status_code == 401
    assert "truthloop up" in answer.text
    assert "set-cookie" not in answer.headers


def test_the_cookie_of_one_workspace_does_not_push_out_that_of_another(workspace, settings, address):
    other = create_app(workspace, token=TOKEN[::-1], settings=settings)
    with served(other) as other_address, httpx.Client(timeout=60) as browser:
        browser.get(f"{address}/?token={TOKEN}")
        browser.get(f"{other_address}/?token={TOKEN[::-1]}")

        assert browser.get(f"{address}/api/v1/events").status_code == 200
        assert browser.get(f"{other_address}/api/v1/events").status_code == 200


def test_behind_https_the_cookie_travels_by_https_alone(workspace, settings):
    public = settings.model_copy(update={"public_url": "https://truthloop.example"})
    with served(create_app(workspace, token=TOKEN, settings=public)) as address:
        answer = httpx.get(f"{address}/?token={TOKEN}", headers={"Host": "truthloop.example"})

    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "10.0.0.1"])
def test_a_foreign_host_is_refused_with_a_problem(client, host):
    answer = client.get("/healthz", headers={"Host": host})

    assert answer.status_code == 421
    assert answer.json()["type"] == "about:blank"
    assert "TRUTHLOOP_PUBLIC_URL" in answer.json()["detail"]


def test_the_public_address_and_the_listening_host_are_known_names(workspace, settings):
    public = settings.model_copy(update={"public_url": "https://Data.Example:8443", "host": "10.1.2.3"})
    with served(create_app(workspace, token=TOKEN, settings=public)) as address:
        answers = [
            httpx.get(f"{address}/healthz", headers={"Host": host}).status_code
            for host in ("data.example:8443", "10.1.2.3", "localhost:1", "[::1]:80", "127.0.0.1")
        ]

    assert answers == [200] * 5


@given(st.text())
def test_no_host_header_breaks_the_check(header):
    assert is_allowed_host(header, ()) in (True, False)
    assert hostname(header) is None or not hostname(header).endswith(".")


def test_a_request_with_two_hosts_is_refused(address):
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n")

        assert connection.recv(100).split()[1] in (b"400", b"421")


def test_headers_without_an_end_are_refused(address):
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000)

        assert connection.recv(100).split()[1] == b"400"


def test_every_answer_carries_the_security_headers(client):
    for path in ("/", "/api/v1/events", "/nowhere", "/docs", "/pages/status.js"):
        headers = client.get(path).headers

        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "script-src 'self';" in headers["content-security-policy"]
        assert "server" not in headers


@pytest.mark.parametrize(
    "path", ["/pages/../app.py", "/pages/%2e%2e/app.py", "/docs/static/../core.py", "/pages/"]
)
def test_only_the_pages_files_are_served(client, path):
    assert client.get(path).status_code == 404


# Writes: there are none yet, so the layer stands around an application that takes them


@pytest.fixture
def writable() -> FastAPI:
    app = FastAPI()

    @app.post("/things")
    async def post_thing(body: dict[str, int]) -> dict[str, int]:
        return body

    app.add_middleware(Guard, hosts={"data.example"}, max_image_bytes=MAX_BODY_BYTES)
    return app


async def post(app: FastAPI, **request) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://data.example") as client:
        return await client.post("/things", **request)


def run(coroutine):
    import asyncio

    return asyncio.run(coroutine)


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://data.example"}, {"Origin": "https://data.example"}])
def test_programs_and_our_own_page_may_write(writable, headers):
    assert run(post(writable, json={"a": 1}, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://data.example:81"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_page_of_another_site_may_not_write(writable, headers):
    answer = run(post(writable, json={"a": 1}, headers=headers))

    assert (answer.status_code, answer.json()["type"]) == (403, "/docs/errors#not-allowed")


def test_a_body_that_is_too_large_by_its_own_account_is_refused_unread(writable):
    answer = run(post(writable, content=b"", headers={"Content-Length": str(MAX_BODY_BYTES + 1)}))

    assert answer.status_code == 413
    assert f"{MAX_BODY_BYTES:,}" in answer.json()["detail"]


def test_a_body_without_a_length_is_counted_while_it_is_read(writable):
    read = 0

    async def endless():
        nonlocal read
        while True:
            read += 1
            yield b" " * 65_536

    answer = run(post(writable, content=endless(), headers={"Content-Type": "application/json"}))

    assert answer.status_code == 413
    assert read <= MAX_BODY_BYTES // 65_536 + 2


def test_a_body_within_the_limit_is_taken(writable):
    assert run(post(writable, json={"a" * 1000: 1})).json() == {"a" * 1000: 1}


def test_the_cookie_alone_signs_in(client):
    assert BEARER["Authorization"] in client.headers.values()
    client.get("/", params={"token": TOKEN})
    del client.headers["Authorization"]

    assert client.get("/api/v1/events").status_code == 200
