"""Ending a long command as it was asked to: by Ctrl-C or SIGTERM, with what it has in hand in order."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

# The exit code of a command that was asked to end before it was done.
INTERRUPTED = 130


def end_stuck(error: str) -> None:
    """Ends the process at once: its main thread is in a model that doesn't answer, where it hears no signal."""
    from truthloop.cli.screen import messages

    screen = messages()
    screen.show_cursor()
    screen.print(f"{error} What was in hand has gone back. Start the same command again.", markup=False)
    sys.stdout.flush()
    os._exit(1)


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
