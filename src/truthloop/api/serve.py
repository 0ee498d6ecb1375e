"""Running the application with uvicorn."""

import asyncio
import errno
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from truthloop.errors import AlreadyRunning, SettingRefused
from truthloop.settings import Settings
from truthloop.workspace import Workspace

# How long requests in flight may take to end after the signal.
GRACE_SECONDS = 10
# The greatest request line with all headers that is read.
MAX_HEAD_BYTES = 32 * 1024


def serve(app: FastAPI, *, host: str, port: int, ready: Callable[[str], None] | None = None) -> None:
    """Runs the application in the calling thread until SIGTERM or SIGINT, then returns.

    At the signal, open event streams end, requests in flight are finished, and no new ones are taken.

    Args:
        app: from `create_app`.
        host: a name or address of this machine.
        port: 0 takes any that is free.
        ready: called with the service's address (`http://127.0.0.1:8080`) once it answers.

    Raises:
        SettingRefused: `host` isn't an address of this machine, or goes beyond loopback without
            TRUTHLOOP_TOKEN, or `port` needs more rights.
        AlreadyRunning: the port is taken.
    """
    settings: Settings = app.state.settings
    check_reach(host, has_own_token=settings.token is not None)
    listener = listen(host, port)
    server_of(app, ready=ready).run(sockets=[listener])


def server_of(app: FastAPI, *, ready: Callable[[str], None] | None = None) -> uvicorn.Server:
    """The server that `serve` runs; its `should_exit` stops it from another thread."""
    workspace: Workspace = app.state.workspace
    logging.getLogger("uvicorn.error").addFilter(_without_cut_off)
    config = uvicorn.Config(
        app,
        http="h11",  # httptools sets no limit to the size of headers
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # anyone can send them
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return _Server(config, end_streams=workspace.hub.close, ready=ready)


def check_reach(host: str, *, has_own_token: bool) -> None:
    """Refuses to be reached from other machines with a token that nobody chose.

    Raises:
        SettingRefused: `host` is more than loopback and the operator gave no token.
    """
    if not has_own_token and not is_loopback(host):
        raise SettingRefused(
            f"TRUTHLOOP_HOST is {host!r}, which other machines can reach: that takes a token of your own. Set "
            "TRUTHLOOP_TOKEN (32 characters or more), or leave TRUTHLOOP_HOST out to listen on 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own, seen from itself alone.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address.

    Raises:
        SettingRefused, AlreadyRunning: as `serve`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise SettingRefused(f"TRUTHLOOP_HOST is {host!r}, which is no address ({error.strerror}).") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AlreadyRunning(
                f"Port {port} is taken by another program; choose another with --port or TRUTHLOOP_PORT."
            ) from None
        if error.errno == errno.EACCES:
            raise SettingRefused(
                f"TRUTHLOOP_PORT is {port}, which only root may use; choose one from 1024 on."
            ) from None
        raise SettingRefused(
            f"TRUTHLOOP_HOST is {host!r}, which isn't an address of this machine ({error.strerror})."
        ) from None
    return listener


def _without_cut_off(record: logging.LogRecord) -> bool:
    """Leaves out the trace of each request that is cut off at the end: uvicorn says how many they are."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


class _Server(uvicorn.Server):
    """uvicorn, ending the streams that would never end by themselves, and returning after a signal."""

    def __init__(
        self, config: uvicorn.Config, *, end_streams: Callable[[], None], ready: Callable[[str], None] | None
    ) -> None:
        super().__init__(config)
        self._end_streams = end_streams
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._ready is not None and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._end_streams)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without sending itself the signal once more at the end: the caller has to clean up."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
