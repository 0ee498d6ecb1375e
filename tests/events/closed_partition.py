"""A partition that isn't open yet, as a producer meets it after a topic was made or a new leader was chosen.

A proxy before the broker answers one produce request itself, with NOT_LEADER_OR_FOLLOWER, and not before the
producer has sent the next one, if it does so at all.
"""

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from kafka import Kafka

PRODUCE, NOT_LEADER_OR_FOLLOWER = 0, 6
# How long it waits for a second request behind the first. A producer that sends one at a time sends none.
HOLD_SECONDS = 1.0


class Door(socketserver.ThreadingTCPServer):
    """Where clients find the broker; refuses the next produce request after each `close`."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, kafka: Kafka) -> None:
        super().__init__(_address(kafka.proxied), _Connection)
        self.broker = _address(kafka.behind)
        self.refused = 0
        self._closed = threading.Lock()

    def close(self) -> None:
        self._closed.acquire()

    def refuses(self) -> bool:
        if not self._closed.locked():
            return False
        self._closed.release()
        self.refused += 1
        return True


class _Connection(socketserver.StreamRequestHandler):
    server: Door
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self._next_request, self._may_answer = threading.Event(), threading.Event()
        self._may_answer.set()
        with socket.create_connection(self.server.broker) as broker, suppress(OSError):
            threading.Thread(target=self._answer, args=(broker.makefile("rb"),), daemon=True).start()
            while request := _read(self.rfile):
                is_produce = struct.unpack(">h", request[:2])[0] == PRODUCE
                if is_produce and self.server.refuses():
                    self._may_answer.clear()
                    threading.Thread(target=self._refuse, args=(request,), daemon=True).start()
                    continue
                broker.sendall(struct.pack(">i", len(request)) + request)
                if is_produce:
                    self._next_request.set()

    def _answer(self, answers: BinaryIO) -> None:
        with answers, suppress(OSError, ValueError):
            while answer := _read(answers):
                self._may_answer.wait()
                self.wfile.write(struct.pack(">i", len(answer)) + answer)

    def _refuse(self, request: bytes) -> None:
        self._next_request.wait(HOLD_SECONDS)
        with suppress(OSError, ValueError):
            refusal = _refusal(request)
            self.wfile.write(struct.pack(">i", len(refusal)) + refusal)
        self._may_answer.set()


@contextmanager
def door(kafka: Kafka) -> Iterator[Door]:
    """The proxy, at `kafka.proxied`."""
    with Door(kafka) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield proxy
        proxy.shutdown()


def _refusal(request: bytes) -> bytes:
    """The answer to a produce request of one partition. Source: kafka.apache.org/protocol, Produce 9 to 11."""
    _, version, correlation, client = struct.unpack_from(">hhih", request)
    assert version in (9, 10, 11)
    at = 10 + max(client, 0)
    assert request[at : at + 2] == b"\x00\x00", "no tags and no transactional id"
    at += 2 + 2 + 4  # acks, timeout
    assert request[at] == 2, "one topic"
    name_ends = at + 1 + request[at + 1]
    name = request[at + 1 : name_ends]
    assert request[name_ends] == 2, "one partition"
    partition = request[name_ends + 1 : name_ends + 5]
    no_place = struct.pack(">hqqq", NOT_LEADER_OR_FOLLOWER, -1, -1, -1)
    no_errors, untagged, not_throttled = b"\x01\x00", b"\x00", struct.pack(">i", 0)
    answer = b"\x02" + name + b"\x02" + partition + no_place + no_errors + untagged + untagged
    return struct.pack(">i", correlation) + untagged + answer + not_throttled + untagged


def _read(stream: BinaryIO) -> bytes:
    """One request or answer; nothing at the end."""
    size = stream.read(4)
    return stream.read(struct.unpack(">i", size)[0]) if len(size) == 4 else b""


def _address(servers: str) -> tuple[str, int]:
    host, port = servers.split(":")
    return host, int(port)
