"""Ending a long command as it was asked to: by Ctrl-C or SIGTERM, with what it has in hand in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

# The exit code of a command that was asked to end before it was done.
INTERRUPTED = 130


@contextmanager
def stop_at_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def end(number: int, frame: "FrameType | None") -> None:  # noqa: ARG001
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
