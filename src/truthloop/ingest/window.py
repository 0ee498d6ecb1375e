"""A file's text as it is read: the part that was read and not yet given out, and where in the file that lies."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from truthloop.errors import FileRefused

_SPACE = b" \t\r\n"


class Window:
    """The text of a file that is at hand; `more` adds to its end, `take` lets go of its begin."""

    def __init__(self, stream: BinaryIO, raw: BinaryIO, chunk_bytes: int) -> None:
        self._stream, self._raw, self._chunk_bytes = stream, raw, chunk_bytes
        self.text = b""
        self.ended = False  # there is nothing after the text
        self.failed: str | None = None  # why nothing more can be read, to be told after what was
        self.offset = 0  # of the text's begin in the file
        self.line = 1  # of the text's begin, from 1
        self._line_begin = 0  # in the file

    @property
    def position(self) -> int:
        """Bytes of the file that are read; compressed, where it is."""
        return self._raw.tell()

    def fill(self) -> None:
        """Skips space and sees to it that there is a chunk of text, unless the file is at its end."""
        self.skip_space()
        while len(self.text) < self._chunk_bytes and not self.ended:
            self.more()
            self.skip_space()

    def more(self, size: int | None = None) -> None:
        """Reads a chunk, or so many bytes."""
        if self.ended:
            return
        try:
            read = self._stream.read(size or self._chunk_bytes)
        except EOFError:
            self.failed = "the compressed data is cut off. Copy the file again"
            read = b""
        except (gzip.BadGzipFile, zlib.error) as error:
            self.failed = f"the compressed data is damaged ({error}). Copy the file again"
            read = b""
        except OSError as error:
            self.failed = f"it can't be read: {error.strerror or error}. Check the disk"
            read = b""
        if read:
            self.text += read
        else:
            self.ended = True

    def take(self, length: int) -> None:
        """Lets go of the text's begin."""
        newlines = self.text.count(b"\n", 0, length)
        if newlines:
            self.line += newlines
            self._line_begin = self.offset + self.text.rindex(b"\n", 0, length) + 1
        self.offset += length
        self.text = self.text[length:]

    def skip_space(self) -> None:
        """Lets go of the space at the text's begin."""
        self.take(len(self.text) - len(self.text.lstrip(_SPACE)))

    def place(self, at: int) -> str:
        """Where a byte of the text lies in the file, for people."""
        line = self.line + self.text.count(b"\n", 0, at)
        newline = self.text.rfind(b"\n", 0, at)
        column = at - newline if newline >= 0 else self.offset + at - self._line_begin + 1
        return f"line {line}, column {column}, byte {self.offset + at}"


@contextmanager
def opened(path: Path, chunk_bytes: int) -> Iterator[Window]:
    """The text of a file, decompressed where it is gzipped, which its content tells.

    Raises:
        FileRefused: the file can't be opened or read.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise FileRefused(f"{path} can't be opened: {error.strerror}. Make it readable.") from None
    with raw:
        try:
            magic = raw.read(2)
            raw.seek(0)
        except OSError as error:
            raise FileRefused(f"{path} can't be read: {error.strerror}. Name a regular file.") from None
        if magic == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
                yield Window(cast(BinaryIO, stream), raw, chunk_bytes)
        else:
            yield Window(raw, raw, chunk_bytes)
