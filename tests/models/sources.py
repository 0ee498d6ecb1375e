"""Where model files come from in tests: a server of files, and a folder of wheels."""

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from truthloop.models.documents import ModelFile


@dataclass
class Server:
    """A server of files: what it answers by path, and what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    # Says that so many bytes come, and breaks off before.
    cut_off: bool = False
    # Held back until somebody sets it.
    may_answer: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """A server of these files, by path."""
    told = Server(files=files)
    told.may_answer.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append(self.path)
            told.may_answer.wait(60)
            if self.path not in told.files:
                self.send_error(404)
                return
            data = told.files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data) * (2 if told.cut_off else 1)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        told.may_answer.set()
        server.shutdown()
        server.server_close()
        thread.join()


def file_of(data: bytes, name: str = "model.bin", **source: str) -> ModelFile:
    """A catalogue's file with this content."""
    return ModelFile(name=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data) or None, **source)


def make_wheel(folder: Path, members: dict[str, bytes]) -> str:
    """A wheel of a package that doesn't exist anywhere else; returns its requirement."""
    info = "truthloop_test_weights-1.2.3.dist-info"
    whole = {
        **members,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: truthloop-test-weights\nVersion: 1.2.3\n"
        b"Requires-Dist: truthloop-no-such-package\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*whole, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "truthloop_test_weights-1.2.3-py3-none-any.whl", "w") as wheel:
        for name, data in {**whole, f"{info}/RECORD": record.encode()}.items():
            wheel.writestr(name, data)
    return "truthloop-test-weights==1.2.3"
