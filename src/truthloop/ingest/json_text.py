"""Pieces of JSON text: where a document ends, what it says, and why it can't be read. Pure."""

import json
import re
from typing import Any

from bson import json_util
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError


class _DuplicateName(Exception):
    """An object names a field twice: which of the two was meant can't be known."""


# What makes a value unreadable. The last three are what bson.json_util raises for a wrong {"$oid": ...}.
UNREADABLE = (ValueError, RecursionError, _DuplicateName, BSONError, TypeError, ArithmeticError)


def separator(text: bytes) -> re.Pattern[bytes] | bytes:
    """How one document ends and the next begins in this array, learned from its first two; b"" if it can't be.

    It goes up to the next document's first field, so that the boxes within a document don't look the same.
    """
    scanner = Scanner()
    first = scanner.end(text)
    if first is None:
        return b""
    between = re.compile(rb"\s*,\s*\{\s*\"(?:[^\"\\]|\\.)*\"").match(text, first)
    if between is None or text[first - 1 : first] != b"}":
        return b""
    return re.compile(rb"(?P<end>\})" + re.escape(between.group()))


class Scanner:
    """Finds where a value ends by its brackets and quotes alone, over as many chunks as it takes."""

    _TOKEN = re.compile(rb'["\\{}\[\]]')
    _IN_STRING = re.compile(rb'["\\]')

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def end(self, chunk: bytes) -> int | None:
        """Where in this chunk the value ends; None if it goes on."""
        at = 0
        if self._escaped:
            at, self._escaped = 1, False
        while at < len(chunk):
            found = (self._IN_STRING if self._in_string else self._TOKEN).search(chunk, at)
            if found is None:
                return None
            token, at = found.group(), found.end()
            if token == b"\\":
                self._escaped = at == len(chunk)
                at += 1
            elif token == b'"':
                self._in_string = not self._in_string
                if not self._in_string and not self._depth:
                    return at
            elif token in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return at
        return None


def exact_decode(text: str, start: int) -> tuple[Any, int]:
    """One value by the standard library, and where it ends. NaN and infinities pass: they are refused by place.

    Raises:
        UNREADABLE: it can't be read, or not be understood.
    """
    item, end = _EXACT_DECODER.raw_decode(text, start)
    return from_extended(item), end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _DuplicateName(twice)
    return document


def _integer(digits: str) -> int:
    # int() refuses thousands of digits; 30 are already more than any number that can be stored.
    return int(digits[:30]) if len(digits) > 30 else int(digits)


_EXACT_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer)
_JSON_OPTIONS = json_util.JSONOptions(tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO)


def from_extended(value: Any) -> Any:
    """The value with MongoDB's extended JSON ({"$oid": ...} and its like) turned into what it stands for."""
    if isinstance(value, dict):
        inner = {name: from_extended(child) for name, child in value.items()}
        if any(name.startswith("$") for name in inner):
            return json_util.object_hook(inner, _JSON_OPTIONS)
        return inner
    if isinstance(value, list):
        return [from_extended(child) for child in value]
    return value


def past_space(text: str, start: int) -> int:
    """Where the next thing that isn't space stands; the text's length if there is none."""
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start


def holds_a_document(text: str) -> bool:
    """Whether a text begins with a whole value."""
    try:
        _EXACT_DECODER.raw_decode(text)
    except (ValueError, RecursionError, _DuplicateName):
        return False
    return True


def reason_of(error: Exception, *, cut_off: bool) -> str:
    """Why one document can't be read, for the report."""
    if isinstance(error, _DuplicateName):
        return f"the field {str(error)[:60]!r} stands twice in one object"
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, json.JSONDecodeError):
        what = error.msg[0].lower() + error.msg[1:]
        return f"{'cut off' if cut_off else 'not JSON'}: {what} at column {error.pos + 1}"
    return f"not valid extended JSON: {error}"[:300]


def too_long(length: int) -> str:
    """The reason for a document of so many bytes."""
    return f"{length / 1e6:,.0f} MB of text; MongoDB stores at most 16 MB in a document"
