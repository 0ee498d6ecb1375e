"""Reading JSON documents from files of any size, in bounded memory.

A file is an array of documents, or documents one after the other (one a line, or printed over several lines);
gzip or not; with MongoDB's extended JSON or not. All of that is told by the content, never by the name.

There are two ways through the text. The quick one cuts off as many whole documents as there seem to be and
decodes them at once; if that succeeds and nothing went missing, the cut was right. Whatever it can't explain is
read again, document by document, by the exact one, which also knows where a fault is.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from truthloop.errors import FileRefused
from truthloop.ingest.json_text import (
    UNREADABLE,
    Scanner,
    exact_decode,
    from_extended,
    holds_a_document,
    past_space,
    reason_of,
    separator,
    too_long,
)
from truthloop.ingest.window import Window, opened

CHUNK_BYTES = 1024 * 1024
# What is longer is passed over and never decoded, since a document takes ten times its text in memory. MongoDB
# stores 16 MB; as compact JSON that is 12 to 20 MB, with indentation or as canonical extended JSON up to twice as
# much. Only a huge document that is mostly escapes (\u0430 for a letter) could fit into MongoDB and not into this.
MAX_TEXT_BYTES = 32 * 1024 * 1024
# How much of a document that can't be read is kept for the report.
EXCERPT_BYTES = 500

_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}


class Documents(msgspec.Struct, frozen=True):
    """Documents that follow each other in a file."""

    first: int  # the first one's number in the file, from 0
    items: list[Any]
    lines: list[int] | None = None  # each one's first line, from 1; known only where it cost nothing
    position: int = 0  # bytes of the file that are read so far
    text_bytes: int = 0  # how long their text is


class Unreadable(msgspec.Struct, frozen=True):
    """One document that can't be read, while those after it can."""

    index: int
    line: int
    place: str  # within the document, "" for all of it
    reason: str
    excerpt: str
    position: int = 0


def read_documents(
    path: Path, *, chunk_bytes: int = CHUNK_BYTES, max_text_bytes: int = MAX_TEXT_BYTES
) -> Iterator[Documents | Unreadable]:
    """The documents of a file, in order, a chunk at a time.

    Args:
        path: a regular file.
        chunk_bytes: how much is read at once.
        max_text_bytes: a document whose text is longer is skipped, and reported as unreadable.

    Raises:
        FileRefused: the file can't be opened or isn't JSON, or from some place on it can't be followed: cut off,
            a syntax error, not UTF-8. What came before has been given out by then.
    """
    with opened(path, chunk_bytes) as window:
        yield from _Reader(path, window, chunk_bytes, max_text_bytes).read()


class _Misplaced(json.JSONDecodeError):
    """Something stands between two documents that may not stand there, whatever follows."""


class _Reader:
    """The state of one reading."""

    def __init__(self, path: Path, window: Window, chunk_bytes: int, max_text_bytes: int) -> None:
        self._path, self._window = path, window
        self._chunk_bytes, self._max_text_bytes = chunk_bytes, max_text_bytes
        self._index = 0  # of the next document
        self._cut: re.Pattern[bytes] | bytes | None = None
        self._decoder = msgspec.json.Decoder()

    @property
    def _text(self) -> bytes:
        return self._window.text

    @property
    def _ended(self) -> bool:
        return self._window.ended

    def read(self) -> Iterator[Documents | Unreadable]:
        self._window.more()
        self._check_start()
        is_array = self._text.startswith(b"[")
        if is_array:
            self._window.take(1)
            yield from self._array()
        elif self._is_by_line():
            yield from self._lines()
        else:
            yield from self._sequence()

    # -- what the file is

    def _check_start(self) -> None:
        for bom, name in _BOMS.items():
            if self._text.startswith(bom):
                raise FileRefused(f"{self._path} is {name} text. Save it as UTF-8.")
        if self._text.startswith(b"\xef\xbb\xbf"):  # a UTF-8 byte order mark says nothing
            self._window.take(3)
        self._fill()
        if not self._text:
            raise FileRefused(
                f"{self._path} is empty. Export it again; a file without documents is written as []."
            )
        if self._text[:1] not in b"[{" or b"\x00" in self._text[:4]:
            shown = self._text[:8].decode("utf-8", "backslashreplace")
            what = " in UTF-8" if b"\x00" in self._text[:4] else ""
            raise FileRefused(
                f"{self._path} is no JSON{what}: it begins with {shown!r}, where [ or {{ is expected. "
                "Name a file with a JSON array, or with one JSON document a line."
            )

    def _is_by_line(self) -> bool:
        """Whether documents end where lines do, so that a bad line doesn't spoil the next one."""
        while b"\n" not in self._text and not self._ended and len(self._text) <= self._max_text_bytes:
            self._window.more()
        first = self._text.split(b"\n", 1)[0]
        if self._loads(first) is not None:
            return True
        # Not the first line alone. If a document begins here and goes on over several lines, it is a sequence.
        try:
            json.JSONDecoder().raw_decode(self._text.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            # Nothing whole, on this line or further on: an opening brace alone is a document printed over lines.
            return first.strip() not in (b"{", b"")
        return False

    def _loads(self, text: bytes) -> Any:
        try:
            return self._decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    # -- one document a line

    def _lines(self) -> Iterator[Documents | Unreadable]:
        while self._text or not self._ended:
            end = self._text.rfind(b"\n") + 1
            if self._ended:
                end = len(self._text)
            if not end:
                if len(self._text) > self._max_text_bytes:
                    yield self._skip_line()
                else:
                    self._window.more()
                continue
            text = self._text[:end]
            line = self._window.line
            items = self._decode_at_once(text, self._decoder.decode_lines)
            if items is None:
                yield from self._line_by_line(text, line)
            elif items:
                lines = list(range(line, line + len(items))) if text.count(b"\n") <= len(items) else None
                yield self._documents(items, lines, end)
            self._window.take(end)
            self._window.more()
        self._raise_if_failed()

    def _line_by_line(self, text: bytes, line: int) -> Iterator[Documents | Unreadable]:
        items: list[Any] = []
        lines: list[int] = []
        parts = text.split(b"\n")
        for number, part in enumerate(parts, start=line):
            if not part.strip():
                continue
            cut_off = self._ended and number == line + len(parts) - 1
            found, refusal = self._decode_line(part, number, self._index + len(items), cut_off=cut_off)
            items += found
            lines += [number] * len(found)
            if refusal is not None:
                if items:
                    yield self._documents(items, lines, len(text))
                    items, lines = [], []
                yield refusal
                self._index += 1
        if items:
            yield self._documents(items, lines, len(text))

    def _decode_line(
        self, part: bytes, line: int, index: int, *, cut_off: bool
    ) -> tuple[list[Any], Unreadable | None]:
        """The documents of a line, mostly one; or none, and why the line can't be read."""
        try:
            text = part.decode("utf-8")
        except UnicodeDecodeError as error:
            reason = f"not UTF-8: byte 0x{part[error.start]:02x} at column {error.start + 1}"
            return [], self._unreadable(index, line, reason, part)
        items: list[Any] = []
        start = past_space(text, 0)
        while start < len(text):
            try:
                item, end = exact_decode(text, start)
            except UNREADABLE as error:
                return [], self._unreadable(index, line, reason_of(error, cut_off=cut_off), part)
            items.append(item)
            start = past_space(text, end)
        return items, None

    def _skip_line(self) -> Unreadable:
        """Passes over a line that is longer than any document can be, holding none of it."""
        line, index, excerpt = self._window.line, self._index, self._text[:EXCERPT_BYTES]
        length = 0
        while b"\n" not in self._text and not self._ended:
            length += len(self._text)
            self._window.take(len(self._text))
            self._window.more()
        end = self._text.find(b"\n") + 1 or len(self._text)
        self._window.take(end)
        self._index += 1
        return self._unreadable(index, line, too_long(length + end), excerpt)

    # -- an array

    def _array(self) -> Iterator[Documents | Unreadable]:
        while True:
            self._fill()
            if self._text[:1] == b"]":
                break
            # Between two documents there is a comma, which the exact way takes with the document before it.
            end, items = self._cut_array()
            if items is not None:
                yield self._documents(items, None, end)
                self._window.take(end)
            else:
                yield from self._one_by_one(closed_by="]")
                if self._text[:1] == b"]":
                    break
        self._window.take(1)
        self._fill()
        if self._text:
            raise FileRefused(f"{self._path}, {self._where(0)}: there is more after the array's end. Remove it.")
        self._raise_if_failed()

    def _cut_array(self) -> tuple[int, list[Any] | None]:
        """The whole documents at the text's begin by the quick way: where they end, and what they are."""
        if self._cut is None:
            self._cut = separator(self._text)
        if not isinstance(self._cut, re.Pattern):
            return 0, None
        tail = max(0, len(self._text) - 64 * 1024)
        places = [found.end("end") for found in self._cut.finditer(self._text, tail)] or [
            found.end("end") for found in self._cut.finditer(self._text)
        ]
        # From the back, and not many: a list in a document may hold the same bytes, and each try is a decoding.
        for end in reversed(places[-3:]):
            items = self._decode_at_once(b"[" + self._text[:end] + b"]", self._decoder.decode)
            if items is not None:
                return self._text.index(b",", end) + 1, items
        self._cut = None  # the documents look different by now: learn again from the next ones
        return 0, None

    # -- documents one after the other, over several lines

    def _sequence(self) -> Iterator[Documents | Unreadable]:
        while True:
            self._fill()
            if not self._text:
                break
            end = self._text.rfind(b"\n{") + 1
            items = self._decode_at_once(self._text[:end], self._decoder.decode_lines) if end else None
            if items:
                yield self._documents(items, None, end)
                self._window.take(end)
            else:
                yield from self._one_by_one(closed_by="")
        self._raise_if_failed()

    # -- the exact way

    def _one_by_one(self, *, closed_by: str) -> Iterator[Documents | Unreadable]:
        """The documents that are whole in the text, one at a time; at least one, or one that is passed over."""
        items: list[Any] = []
        text, end = self._decoded(), 0
        fault: Exception | None = None
        while end < len(text) and not (closed_by and text[end] == closed_by):
            begin = end
            try:
                item, end = exact_decode(text, begin)
            except UNREADABLE as error:
                fault, end = error, begin
                break
            after = past_space(text, end)
            if closed_by:
                if after == len(text) and not self._ended:
                    end = begin  # what follows it isn't read yet: a number might go on
                    break
                if after < len(text) and text[after] == ",":
                    following = past_space(text, after + 1)
                    if following < len(text) and text[following] == closed_by:
                        fault = _Misplaced("a comma before the array's end", text, after)
                        items.append(item)
                        end = after
                        break
                    after = following
                elif after == len(text) or text[after] != closed_by:
                    fault = _Misplaced("Expecting ',' delimiter", text, after)
                    items.append(item)
                    end = after
                    break
            items.append(item)
            end = after
        if items:
            yield self._documents(items, None, len(text))
        self._window.take(len(text[:end].encode()))
        if fault is not None:
            yield from self._faulty(fault, text[end:], closed_by)
        elif not items:
            yield from self._longer(closed_by)

    def _faulty(self, fault: Exception, rest: str, closed_by: str) -> Iterator[Unreadable]:
        """What to do with the document at the text's begin, which the exact way couldn't read."""
        if isinstance(fault, json.JSONDecodeError):
            # Cut off by the chunk's end, or wrong? A fault well before the end is one for certain.
            at = fault.pos - (len(fault.doc) - len(rest))
            in_string = fault.msg.startswith("Unterminated string")
            is_certain = isinstance(fault, _Misplaced) or at < len(rest) - 16
            if not self._ended and (in_string or not is_certain):
                yield from self._longer(closed_by)
                return
            self._raise_if_failed()
            if in_string or at >= len(rest.rstrip()):
                raise self._cut_off()
            raise self._syntax_error(fault, len(rest[:at].encode()))
        # It is whole, yet unusable: a name that stands twice, nesting without end, a wrong $oid.
        yield self._pass_over(reason_of(fault, cut_off=False), closed_by)

    def _longer(self, closed_by: str) -> Iterator[Unreadable]:
        """Reads on, since the document at the text's begin isn't whole."""
        if len(self._text) > self._max_text_bytes:
            yield self._pass_over(None, closed_by)
            return
        if self._ended:
            self._raise_if_failed()
            raise self._cut_off()
        # Twice as much each time, or a long document would be tried once for every chunk of it.
        self._window.more(max(self._chunk_bytes, min(len(self._text), self._max_text_bytes - len(self._text))))

    def _pass_over(self, reason: str | None, closed_by: str) -> Unreadable:
        """Skips the document at the text's begin without keeping it."""
        index, line, excerpt = self._index, self._window.line, self._text[:EXCERPT_BYTES]
        scanner, length = Scanner(), 0
        while (end := scanner.end(self._text)) is None:
            length += len(self._text)
            self._window.take(len(self._text))
            if self._ended:
                self._raise_if_failed()
                raise self._cut_off()
            self._window.more()
        length += end
        self._window.take(end)
        self._fill()
        if closed_by and self._text[:1] == b",":
            self._window.take(1)
        elif closed_by and self._text[:1] != closed_by.encode():
            self._raise_if_failed()
            raise (
                self._cut_off()
                if not self._text
                else self._syntax_error(json.JSONDecodeError("Expecting ',' delimiter", "", 0), 0)
            )
        self._index += 1
        return self._unreadable(index, line, reason or too_long(length), excerpt)

    # -- the text

    def _fill(self) -> None:
        """Sees to it that there is text without space before it, unless the file is at its end."""
        self._window.fill()
        if not self._text:
            self._raise_if_failed()

    def _decoded(self) -> str:
        """The text as far as it is whole characters of UTF-8."""
        try:
            return self._text.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.start >= len(self._text) - 3 and not self._ended:
                return self._text[: error.start].decode("utf-8")
            if error.start:
                whole = self._text[: error.start].decode("utf-8")
                # What lies before the fault is given out first.
                if holds_a_document(whole):
                    return whole
            raise FileRefused(
                f"{self._path}, {self._where(error.start)}: byte 0x{self._text[error.start]:02x} is not UTF-8. "
                f"{self._loaded()} Save the file as UTF-8."
            ) from None

    def _decode_at_once(self, text: bytes, decode: Any) -> list[Any] | None:
        """All documents of a text; None if it isn't whole, or holds what only the exact way finds."""
        try:
            items: list[Any] = decode(text)
            # A field that stands twice in an object is lost in decoding, and with it its colon. (A colon
            # written as \u003a would hide that.)
            if b"\\u003" in text or msgspec.json.encode(items).count(b":") != text.count(b":"):
                return None
            if b'"$' in text or b"\\u0024" in text:
                items = [from_extended(item) for item in items]
        except (msgspec.MsgspecError, *UNREADABLE):
            return None
        return items

    def _documents(self, items: list[Any], lines: list[int] | None, text_bytes: int) -> Documents:
        first = self._index
        self._index += len(items)
        return Documents(first, items, lines, self._window.position, text_bytes)

    def _unreadable(self, index: int, line: int, reason: str, text: bytes) -> Unreadable:
        excerpt = text[:EXCERPT_BYTES].decode("utf-8", "backslashreplace")
        return Unreadable(index, line, "", reason, excerpt, self._window.position)

    # -- what went wrong

    def _where(self, at: int) -> str:
        """A place in the text for people: document, line, column."""
        return f"document [{self._index}], {self._window.place(at)}"

    def _loaded(self) -> str:
        return f"The {self._index:,} documents before it are read." if self._index else ""

    def _syntax_error(self, fault: json.JSONDecodeError, at: int) -> FileRefused:
        what = fault.msg[0].lower() + fault.msg[1:]
        return FileRefused(
            f"{self._path}, {self._where(at)}: not JSON ({what}). {self._loaded()} "
            "Correct that place, then load the file again."
        )

    def _cut_off(self) -> FileRefused:
        return FileRefused(
            f"{self._path}, {self._where(len(self._text))}: the file ends in the middle. {self._loaded()} "
            "Copy or export it again, then load it again."
        )

    def _raise_if_failed(self) -> None:
        if self._window.failed:
            raise FileRefused(f"{self._path}, {self._where(0)}: {self._window.failed}. {self._loaded()}".strip())
