"""Uploads that nobody sends by accident, made by code, and a client that sends them whatever the server does.

`KINDS` are whole bodies; `ENDLESS` and `GIGABYTE` are more than anyone can hold. `send` sends each of them, as the
body itself or as the field `image` of a form; every one must be answered by a problem document of 4xx.
"""

import io
import json
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

DEADLINE_SECONDS = 120.0
_PIECE = b"\xff\xd8\xff\xe0" + b"\x00" * 65_532


@dataclass(frozen=True)
class Hostile:
    """One kind; `body` is None where it has no end or is too large to make."""

    name: str
    make: Callable[[], bytes] | None = None
    length: int | None = None  # what the request says, where it says it and doesn't hold it

    @property
    def body(self) -> bytes:
        assert self.make is not None, f"{self.name} can't be held in memory"
        return self.make()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def problem(self) -> dict:
        """The problem document; fails if it is none."""
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.headers, self.body)
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        assert problem["title"]
        assert problem["detail"]
        return problem


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """Something that compresses like a photograph."""
    rows, columns = np.mgrid[0:height, 0:width]
    rgb = np.stack([rows * 255 // height, columns * 255 // width, (rows * columns) % 256], axis=-1)
    return Image.fromarray(rgb.astype(np.uint8))


def encoded(format: str, image: Image.Image | None = None, **options) -> bytes:  # noqa: A002 - Pillow's name
    """An image file that nothing is wrong with."""
    out = io.BytesIO()
    (image or picture()).save(out, format, **options)
    return out.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    """A PNG of grey pixels that says so of its size, whatever its pixels are."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            *chunks,
            png_chunk(b"IDAT", pixels or zlib.compress(b"\x00" * (width + 1) * height)),
            png_chunk(b"IEND", b""),
        )
    )


def tiff_of(*directories: bytes) -> bytes:
    """A TIFF of these directories, each without its number of entries and its link to the next."""
    pieces, at = [b"II*\x00", struct.pack("<I", 8)], 8
    for number, entries in enumerate(directories):
        following = at + 2 + len(entries) + 4 if number + 1 < len(directories) else 0
        pieces += [struct.pack("<H", len(entries) // 12), entries, struct.pack("<I", following)]
        at += 2 + len(entries) + 4
    return b"".join(pieces)


def tiff_entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value)


def one_pixel() -> bytes:
    """The entries of a grey TIFF of one pixel, which is its first byte."""
    numbers = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 0), (277, 1), (278, 1), (279, 1))
    return b"".join(tiff_entry(tag, 4, 1, value) for tag, value in numbers)


def _riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(content)) + content + b"\x00" * (len(content) % 2) for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_animation(frames: int = 5000) -> bytes:
    still = encoded("WEBP", picture(16, 16), lossless=True)
    pixels = still[12:]  # one chunk, VP8L
    size = (15).to_bytes(3, "little") * 2
    frame = b"\x00" * 6 + size + (40).to_bytes(3, "little") + b"\x00" + pixels
    canvas = b"\x02\x00\x00\x00" + size
    return _riff((b"VP8X", canvas), (b"ANIM", b"\x00" * 6), *((b"ANMF", frame) for _ in range(frames)))


def jpeg_says(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    data = encoded("JPEG")
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def many_scans() -> bytes:
    """A progressive JPEG whose last scan is there a thousand times: each is work over the whole picture."""
    data = encoded("JPEG", picture(512, 512), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 1000 + b"\xff\xd9"


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("payload.txt", "x" * 1000)
    return out.getvalue()


def _apng() -> bytes:
    frames = [picture(8, 8), picture(8, 8).transpose(Image.Transpose.ROTATE_90)]
    return encoded("PNG", frames[0], save_all=True, append_images=frames[1:])


def _text_bomb() -> bytes:
    text = png_chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(b"\x00" * 8_000_000, 9))
    return png_of(8, 8, *[text] * 500)


def _bmp_says(width: int, height: int) -> bytes:
    data = encoded("BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


SVG = b"""<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">
<script>fetch("/api/v1/status")</script></svg>"""
HTML = b"<!DOCTYPE html><html><script>alert(document.cookie)</script></html>"

KINDS = (
    Hostile("empty", lambda: b""),
    Hostile("one byte", lambda: b"\xff"),
    Hostile("a text", lambda: b"not an image at all " * 100),
    Hostile("zeros", lambda: b"\x00" * 1_000_000),
    Hostile("an SVG with scripts", lambda: SVG),
    Hostile("an HTML page", lambda: HTML),
    Hostile("a GIF", lambda: encoded("GIF")),
    Hostile("a PDF", lambda: encoded("PDF")),
    Hostile("a ZIP archive", _zip),
    Hostile("a JPEG cut off", lambda: encoded("JPEG", picture(256, 256))[:-500]),
    Hostile("a JPEG of its first bytes alone", lambda: encoded("JPEG")[:20]),
    Hostile("a PNG cut off", lambda: encoded("PNG", picture(256, 256))[:-500]),
    Hostile("a PNG with a changed byte", lambda: encoded("PNG").replace(b"IDATx", b"IDATy")),
    Hostile("a WebP cut off", lambda: encoded("WEBP", picture(256, 256))[:-100]),
    Hostile("a BMP cut off", lambda: encoded("BMP")[:-100]),
    Hostile("noise with a JPEG's begin", lambda: b"\xff\xd8\xff" + np.random.default_rng(0).bytes(100_000)),
    Hostile("a JPEG with a ZIP after it", lambda: encoded("JPEG") + _zip()),
    Hostile("a PNG with a page after it", lambda: encoded("PNG") + HTML),
    Hostile("a GIF that is JavaScript, too", lambda: b"GIF89a=1;alert(1)//" + encoded("JPEG")),
    Hostile("a PNG of 4 GB in 4 MB", lambda: png_of(65_000, 65_000, pixels=zlib.compress(b"\x00" * 10**8, 9))),
    Hostile("a JPEG of 65,535 x 65,535", lambda: jpeg_says(65_535, 65_535)),
    Hostile("a JPEG of no pixels", lambda: jpeg_says(0, 0)),
    Hostile("a JPEG of a thousand scans", many_scans),
    Hostile("a BMP of 2,000,000,000 x 2,000,000,000", lambda: _bmp_says(2 * 10**9, 2 * 10**9)),
    Hostile("a PNG whose texts unfold to 4 GB", _text_bomb),
    Hostile("a PNG that is an animation", _apng),
    Hostile("a WebP of 5,000 frames", webp_animation),
    Hostile("a TIFF of 100,000 pages", lambda: tiff_of(*[one_pixel()] * 100_000)),
    Hostile("a TIFF whose pages go round", lambda: tiff_of(one_pixel())[:-4] + struct.pack("<I", 8)),
    Hostile(
        "a TIFF that claims more than it has", lambda: tiff_of(one_pixel() + tiff_entry(700, 1, 2**31, 8) * 900)
    ),
    Hostile(
        "a TIFF of one pixel in a tile of 4 GB",
        lambda: tiff_of(one_pixel() + tiff_entry(322, 4, 1, 65_536) + tiff_entry(323, 4, 1, 65_536)),
    ),
    Hostile("more bytes than are taken", lambda: b"\xff\xd8\xff" + b"\x00" * (32 * 1024 * 1024)),
)
ENDLESS = Hostile("a body without end")
GIGABYTE = Hostile("a body of 1 GB", length=1024**3)
ALL = (*KINDS, ENDLESS, GIGABYTE)


def send(
    address: str,
    path: str,
    kind: Hostile,
    *,
    headers: Mapping[str, str],
    form: bool = False,
    fields: Mapping[str, str] | None = None,
    content_type: str = "image/jpeg",
) -> Answer:
    """Posts one of them on a connection of its own, until the server answers.

    Args:
        address: the service's, `http://127.0.0.1:8080`.
        path: the endpoint.
        kind: what to send.
        headers: further ones, such as the token's.
        form: whether it is sent as the field `image` of a form.
        fields: other fields of the form, before it.
        content_type: what the body says it is.
    """
    parts = urlsplit(address)
    before = after = b""
    if form:
        before = b"".join(
            f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in (fields or {}).items()
        ) + (
            b'--edge\r\nContent-Disposition: form-data; name="image"; filename="cat.jpg"\r\n'
            b"Content-Type: " + content_type.encode() + b"\r\n\r\n"
        )
        after = b"\r\n--edge--\r\n"
        content_type = "multipart/form-data; boundary=edge"
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {content_type}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if kind.make is not None:
        body = before + kind.body + after
        pieces: Iterator[bytes] = iter([f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body])
    elif kind.length is not None:
        length = kind.length + len(before) + len(after)
        pieces = _pieces(f"{head}Content-Length: {length}\r\n\r\n".encode() + before, chunked=False)
    else:
        first = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
        pieces = _pieces(first + (_chunk(before) if before else b""), chunked=True)
    with socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE_SECONDS) as connection:
        return _exchange(connection, pieces)


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _pieces(first: bytes, *, chunked: bool) -> Iterator[bytes]:
    yield first
    piece = _chunk(_PIECE) if chunked else _PIECE
    while True:
        yield piece


def _exchange(connection: socket.socket, pieces: Iterator[bytes]) -> Answer:
    """Sends for as long as it is taken, and reads the answer as soon as there is one."""
    import selectors

    received = b""
    rest = memoryview(next(pieces))
    connection.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        sending = True
        while True:
            ready = selector.select(DEADLINE_SECONDS)
            assert ready, "the server neither reads nor answers"
            (_, events) = ready[0]
            if events & selectors.EVENT_READ:
                try:
                    data = connection.recv(65_536)
                except ConnectionResetError:  # what it hadn't read yet; the answer came before
                    data = b""
                received += data
                if (answer := _whole(received)) is not None:
                    return answer
                assert data, f"the connection ended without an answer: {received!r}"
            if events & selectors.EVENT_WRITE and sending:
                try:
                    rest = rest[connection.send(rest) :]
                except (BrokenPipeError, ConnectionResetError):
                    rest = memoryview(b"")
                    pieces = iter(())
                if not rest:
                    rest = memoryview(next(pieces, b""))
                if not rest:
                    sending = False
                    selector.modify(connection, selectors.EVENT_READ)


def _whole(received: bytes) -> Answer | None:
    """The answer, once all of it is there."""
    head, ended, body = received.partition(b"\r\n\r\n")
    if not ended:
        return None
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if len(body) < int(headers.get("content-length", "0")):
        return None
    return Answer(int(status.split()[1]), headers, body)
