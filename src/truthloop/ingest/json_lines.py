"""A file of JSON Lines that a load leaves in the workspace's folder, made with its first line."""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from truthloop.errors import DiskFull, FileRefused


class JsonLines:
    """Writes lines, from whichever thread; without a line there is no file. Use it as a context manager.

    Args:
        folder: where the file goes; None for no file.
        name: of the file.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._folder, self._name = folder, name
        self._file: TextIO | None = None
        self._lock = threading.Lock()
        self.path: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with self._errors():
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()

    def write(self, lines: Iterable[str]) -> None:
        """Appends lines, each ended. Where no file is wanted, they aren't even made.

        Raises:
            FileRefused, DiskFull: the file can't be made or written.
        """
        if self._folder is None:
            return
        with self._lock, self._errors():
            for line in lines:
                self._opened(self._folder).write(line)

    def _opened(self, folder: Path) -> TextIO:
        if self._file is None:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = folder / self._name
            # Documents of a customer: for the user's eyes alone.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        return self._file

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            text = f"The report {self._name} can't be written in {self._folder}: {error.strerror}."
            if error.errno == 28:  # ENOSPC
                raise DiskFull(f"{text} Free some space, then load again.") from error
            raise FileRefused(f"{text} Make the folder writable, then load again.") from error


NOWHERE = JsonLines(None, "")
