"""`python -m truthloop` is the command `truthloop`."""

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def main() -> None:
    """Runs the command; while its modules are being imported Ctrl-C ends the process without a traceback."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else whoever started it wants it to be ignored
        signal.signal(signal.SIGINT, _end)
    from truthloop.cli.main import main as run

    signal.signal(signal.SIGINT, before)
    run()


def _end(number: int, frame: "FrameType | None") -> None:  # noqa: ARG001
    """Ends at once, with nothing begun that would have to be put in order; as `truthloop.cli.main` says it."""
    os.write(2, b"Interrupted.\n")
    os._exit(130)


if __name__ == "__main__":
    main()
