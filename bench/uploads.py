"""How many images a second POST /api/v1/images takes, against a bare ASGI application that reads the same bytes.

    python bench/uploads.py [--rounds 5] [--seconds 3] [--connections 8]

Both are served by uvicorn with the same options, each in a process of its own; the client is a third. The bare one
reads the body and answers, and that is all. Ours checks that the image can be decoded, stores it with its document
and its event, and answers when MongoDB has all of that. The payload is a JPEG of about 100 KB; each one differs
by a number in its comment, so that each is a new image. Prints requests a second, medians over the rounds, and
their ratio to the bare application's.
"""

import argparse
import asyncio
import io
import itertools
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TOKEN = "benchmark-token-of-32-characters"
PAYLOAD_BYTES = 100_000

BARE = """
import socket
import uvicorn

async def app(scope, receive, send):
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
uvicorn.Server(config).run(sockets=[listener])
"""

OURS = f"""
import threading
from truthloop import logs
from truthloop.api.app import create_app
from truthloop.api.serve import serve
from truthloop.settings import load_settings
from truthloop.workspace import Workspace

logs.configure("warning")
settings = load_settings()
with Workspace.open(settings, create=True) as workspace:
    app = create_app(workspace, token={TOKEN!r}, settings=settings)
    serve(app, host="127.0.0.1", port=0, ready=lambda address: print(address.rpartition(":")[2], flush=True))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each measurement takes")
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="truthloop-bench-") as folder:
        home = Path(folder) / ".truthloop"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUTHLOOP_")}
        environment["TRUTHLOOP_HOME"] = str(home)
        services = [
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
            for code in (BARE, OURS)
        ]
        try:
            bare, ours = (int(service.stdout.readline()) for service in services)
            return measure(bare, ours, options)
        finally:
            for service in services:
                service.terminate()
                service.wait(30)
            from truthloop.store import embedded

            embedded.stop(home)


def measure(bare: int, ours: int, options: argparse.Namespace) -> int:
    payload = photograph()
    numbers = itertools.count()

    def new() -> bytes:
        return numbered(payload, next(numbers))

    ways: dict[str, tuple[int, Callable[[], bytes]]] = {
        "bare ASGI on uvicorn": (bare, lambda: request(bare, new())),
        "a new image, as the body": (ours, lambda: request(ours, new())),
        "a new image, in a form": (ours, lambda: request(ours, new(), form=True)),
        "an image that is there": (ours, lambda: request(ours, payload)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for port, make in ways.values():
        asyncio.run(rate(port, make, 0.5, options.connections))  # everything is loaded
    for _ in range(options.rounds):
        for name, (port, make) in ways.items():
            rates[name].append(asyncio.run(rate(port, make, options.seconds, options.connections)))
    base = statistics.median(rates["bare ASGI on uvicorn"])
    print(f"{len(payload):,} bytes a request, {options.connections} connections, {options.rounds} rounds")
    print(f"{'':28}{'least':>10}{'median':>10}{'most':>10}{'ratio':>8}   requests/s")
    for name, each in rates.items():
        median = statistics.median(each)
        print(f"{name:28}{min(each):10.0f}{median:10.0f}{max(each):10.0f}{median / base:8.3f}")
    result = {
        f"ratio_{key}": round(statistics.median(rates[name]) / base, 3)
        for key, name in zip(("new", "form", "there"), list(ways)[1:], strict=True)
    }
    print(json.dumps(result))
    return 0


def photograph() -> bytes:
    """A JPEG of about PAYLOAD_BYTES: a smooth picture with some noise, as cameras make it."""
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[0:720, 0:1280]
    smooth = np.stack([rows / 4, columns / 6, (rows + columns) / 8], axis=-1) % 256
    noise = np.random.default_rng(0).normal(0, 9, smooth.shape)
    picture = Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))
    sizes: Iterator[bytes] = (_encoded(picture, quality) for quality in range(95, 5, -5))
    return next(data for data in sizes if len(data) <= PAYLOAD_BYTES * 1.1)


def _encoded(picture: object, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)  # type: ignore[attr-defined]
    return out.getvalue()


def numbered(payload: bytes, number: int) -> bytes:
    """The same picture in a file of its own: with a number in its comment."""
    return payload[:2] + b"\xff\xfe\x00\x0a" + struct.pack(">Q", number) + payload[2:]


def request(port: int, body: bytes, *, form: bool = False) -> bytes:
    kind = "image/jpeg"
    if form:
        kind = "multipart/form-data; boundary=edge"
        body = (
            b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
            b"Content-Type: image/jpeg\r\n\r\n" + body + b"\r\n--edge--\r\n"
        )
    head = (
        f"POST /api/v1/images HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def rate(port: int, make: Callable[[], bytes], seconds: float, connections: int) -> float:
    """Requests a second over so many connections, each sending its next when it has its answer."""
    end = time.monotonic() + seconds
    done = 0

    async def post() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            writer.write(make())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] in (b"200", b"201"), head
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            done += 1
        writer.close()
        await writer.wait_closed()

    began = time.monotonic()
    await asyncio.gather(*(post() for _ in range(connections)))
    return done / (time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
