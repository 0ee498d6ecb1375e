"""A way to the service on which requests and answers get lost, or are answered by somebody else."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

# What happens to requests in turn; most go through.
FATES = ("through", "answer lost", "through", "request lost", "through", "503", "429", "through", "through")


@contextmanager
def flaky(address: str) -> Iterator[str]:
    """A server that passes requests on to the address, most of them."""
    fates = itertools.cycle(FATES)
    lock = threading.Lock()

    def fate_of(method: str, path: str) -> str:
        # The client greets a service that it believes to be there.
        with lock:
            return "through" if path.endswith("/models") else next(fates)

    with _proxy(address, fate_of) as proxy:
        yield proxy


@contextmanager
def refusing(address: str, method: str, ending: str, status: int) -> Iterator[str]:
    """A server that answers requests of a method to paths with an ending by itself, and passes on the others."""

    def fate_of(asked: str, path: str) -> str:
        return str(status) if asked == method and path.endswith(ending) else "through"

    with _proxy(address, fate_of) as proxy:
        yield proxy


@contextmanager
def _proxy(address: str, fate_of: Callable[[str, str], str]) -> Iterator[str]:
    forward = httpx.Client(base_url=address, timeout=60, verify=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fate = fate_of(self.command, self.path)
            if fate.isdecimal():
                self.send_response(int(fate))
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fate == "request lost":
                self.close_connection = True
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            answer = forward.request(self.command, self.path, content=body, headers=headers)
            if fate == "answer lost":
                self.close_connection = True
                return
            self.send_response_only(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with forward, serving(Handler) as its_address:
        yield its_address


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of this process; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
