"""The few commands that the embedded server's supervisor needs, over its Unix socket.

Not PyMongo: importing it costs 0.2 s and 20 MB for as long as the supervisor lives, which would be longer than
the start of the server itself. `bson`, PyMongo's codec, is imported when a command is sent.
"""

import socket
import struct
from pathlib import Path
from typing import Any

REPLICA_SET = "truthloop"

_HEADER = struct.Struct("<iiii")  # length, request id, response to, opcode
_OP_MSG = 2013
_ANSWER_BYTES = 48_000_000  # MongoDB's own limit of a message

# {hello: 1, $db: "admin"}, spelt out: the question that each user asks first should cost no import.
_HELLO = b"\x10hello\x00\x01\x00\x00\x00\x02$db\x00\x06\x00\x00\x00admin\x00\x00"
_HELLO = struct.pack("<i", len(_HELLO) + 4) + _HELLO
_IS_PRIMARY = b"\x08isWritablePrimary\x00\x01"

_NOT_YET_INITIALIZED = 94


def is_writable_primary(path: Path, *, timeout_seconds: float) -> bool | None:
    """Whether the server behind the socket takes writes; none if nobody answers."""
    try:
        return _IS_PRIMARY in _ask(path, _HELLO, timeout_seconds)
    except OSError:
        return None


def make_primary(path: Path, *, timeout_seconds: float = 30) -> None:
    """Makes the server the one member of its replica set, if it isn't yet.

    The member's host is the path of the socket, since nothing else is listened on. When the data have moved,
    the old path stands there, and a server that doesn't find itself in the set can't be asked to vote: hence
    the forced reconfiguration.

    Raises:
        OSError: the server doesn't answer, or refuses.
    """
    answer = _command(path, {"replSetGetConfig": 1}, timeout_seconds)
    host = str(path)
    if answer.get("code") == _NOT_YET_INITIALIZED:
        config = {"_id": REPLICA_SET, "members": [{"_id": 0, "host": host}]}
        answer = _command(path, {"replSetInitiate": config}, timeout_seconds)
    elif answer.get("ok") == 1.0 and answer["config"]["members"][0]["host"] != host:
        config = answer["config"]
        config["members"] = [{**config["members"][0], "host": host}]
        config["version"] += 1
        answer = _command(path, {"replSetReconfig": config, "force": True}, timeout_seconds)
    if answer.get("ok") != 1.0:
        raise OSError(f"MongoDB refuses to form its replica set: {answer.get('errmsg', answer)}")


def _command(path: Path, command: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
    import bson

    return bson.decode(_ask(path, bson.encode({**command, "$db": "admin"}), timeout_seconds))


def _ask(path: Path, document: bytes, timeout_seconds: float) -> bytes:
    """Sends one document and gives the one that comes back."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(str(path))
        body = b"\0\0\0\0" + b"\0" + document  # flags, then one section of kind 0
        connection.sendall(_HEADER.pack(_HEADER.size + len(body), 1, 0, _OP_MSG) + body)
        length, _, _, opcode = _HEADER.unpack(_read(connection, _HEADER.size))
        if opcode != _OP_MSG or not _HEADER.size < length <= _ANSWER_BYTES:
            raise OSError(f"what answers at {path} is no MongoDB")
        return _read(connection, length - _HEADER.size)[5:]


def _read(connection: socket.socket, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        piece = connection.recv(length - len(found))
        if not piece:
            raise ConnectionResetError("MongoDB closed the connection")
        found += piece
    return bytes(found)
