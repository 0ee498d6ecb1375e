"""Reading an image from a body: whatever comes, it is read within its bounds or refused by us."""

import asyncio
import itertools
from types import SimpleNamespace

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from truthloop.api.multipart import Upload, received
from truthloop.api.receiving import Receiving
from truthloop.errors import InputRefused

MAX_BYTES = 1000
PART = b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


def request(content_type: bytes, pieces: list[bytes], *, ends: bool = True) -> Request:
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b""} if ends else {"type": "http.disconnect"})

    async def receive() -> dict:
        return messages.pop(0)

    app = SimpleNamespace(state=SimpleNamespace(receiving=Receiving()))
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type)], "app": app}
    return Request(scope, receive)


def read(content_type: bytes, *pieces: bytes, ends: bool = True, max_bytes: int = MAX_BYTES) -> Upload:
    asked = request(content_type, list(pieces), ends=ends)

    async def whole() -> Upload:
        async with received(asked, max_bytes=max_bytes) as upload:
            assert asked.app.state.receiving.held_bytes == len(upload.data)
            return upload

    try:
        return asyncio.run(whole())
    finally:
        assert asked.app.state.receiving.held_bytes == 0


fragments = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"--edge\r\n",
            b"\r\n--edge\r\n",
            b"\r\n--edge--\r\n",
            PART,
            b"\r\n\r\n",
            b"--",
            b"\r",
            b"\n",
            b": ",
            b"x" * 2000,
        ]
    ),
)
content_types = st.one_of(
    st.binary(max_size=100),
    st.sampled_from(
        [b"multipart/form-data; boundary=edge", b"image/png", b'multipart/form-data; boundary="', b""]
    ),
)


@given(content_type=content_types, pieces=st.lists(fragments, max_size=20), ends=st.booleans())
def test_whatever_comes_is_read_or_refused_by_us(content_type, pieces, ends):
    try:
        upload = read(content_type, *pieces, ends=ends)
    except HTTPException as error:
        assert error.status_code in (400, 413, 415)
    except InputRefused as error:
        assert str(error)
    else:
        assert len(upload.data) <= MAX_BYTES


@given(data=st.binary(max_size=MAX_BYTES), cuts=st.lists(st.integers(0, 1200), max_size=10))
def test_a_form_s_file_comes_out_as_it_went_in_however_it_is_cut(data, cuts):
    if b"\r\n--edge" in data:
        return
    body = b"--edge\r\n" + PART + data + b"\r\n--edge--\r\n"
    ends = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[begin:end] for begin, end in itertools.pairwise(ends)]

    assert read(b"multipart/form-data; boundary=edge", *pieces).data == data


def test_the_other_fields_of_a_form_come_along():
    field = b'--edge\r\nContent-Disposition: form-data; name="tolerance"\r\n\r\n0.5\r\n'
    body = field + b"--edge\r\n" + PART + b"data\r\n--edge--\r\n"

    assert read(b"multipart/form-data; boundary=edge", body) == Upload(b"data", "a", {"tolerance": "0.5"})


def test_a_field_that_is_there_twice_is_refused_by_name():
    field = b'--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n'
    body = field * 2 + b"--edge\r\n" + PART + b"data\r\n--edge--\r\n"

    with pytest.raises(InputRefused, match="the field model twice") as raised:
        read(b"multipart/form-data; boundary=edge", body)
    assert raised.value.errors == {"model": "there twice"}


def test_the_image_alone_is_its_bytes():
    assert read(b"image/png", b"ab", b"c", max_bytes=3).data == b"abc"


@pytest.mark.parametrize("content_type", [b"image/png", b"multipart/form-data; boundary=edge"])
def test_one_byte_too_many_is_413_and_ends_the_connection(content_type):
    before = b"--edge\r\n" + PART if b"form" in content_type else b""

    with pytest.raises(HTTPException) as raised:
        read(content_type, before, b"x" * MAX_BYTES, b"x")
    assert (raised.value.status_code, raised.value.headers) == (413, {"Connection": "close"})


def test_a_client_that_went_away_is_no_fault_of_ours():
    with pytest.raises(HTTPException) as raised:
        read(b"image/png", b"x", ends=False)
    assert raised.value.status_code == 400
