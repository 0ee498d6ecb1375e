"""The options that the commands share, and the opening of the workspace and of the files that they name."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.errors import FileRefused, ImageRefused, InputRefused

if TYPE_CHECKING:
    from truthloop.settings import Settings
    from truthloop.workspace import Workspace

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
# `main` itself looks for it among the arguments, since an error may come before they are parsed.
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

# For commands that run for good, where something else starts and watches them: a container's engine, systemd.
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for MongoDB, and for the workspace, where they aren't there yet.")
]
# Of the lists of jobs and of batches.
DEFAULT_LIMIT = 20
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="At most so many.")]
After = Annotated[str | None, typer.Option("--after", metavar="ID", help="Only those that come after this one.")]
Heartbeat = Annotated[
    Path | None,
    typer.Option(
        "--heartbeat",
        metavar="FILE",
        help="Touch this file every few seconds for as long as it runs and reaches MongoDB, for a health check.",
    ),
]
# One look for MongoDB, and the time between two.
LOOK_SECONDS, PAUSE_SECONDS = 2.0, 1.0


def file_path(path: Path | None) -> Path | None:
    """The callback of an option that names a file to be written, before the work for it is done.

    Raises:
        FileRefused: it is a folder.
    """
    if path is not None and path.is_dir():
        raise FileRefused(f"{path} is a folder. Name a file.")
    return path


def png_path(path: Path | None) -> Path | None:
    """As `file_path`, for a PNG file: refuses a name that says something else, too."""
    if path is not None and path.suffix.lower() not in ("", ".png"):
        raise typer.BadParameter(f"{path} isn't a PNG file by its name. Name one that ends in .png.")
    return file_path(path)


def keep_apart(image: Path | None, **outputs: Path | None) -> None:
    """Refuses to write over the image that is read, or two outputs into one file, before any work is done.

    Args:
        image: the file that is read, if any.
        outputs: the files to be written, by their options' names without the dashes; None for those not given.

    Raises:
        InputRefused: naming the option.
    """
    before = {"": image}
    for option, path in outputs.items():
        for other, taken in before.items():
            if path is not None and taken is not None and _is_one_file(path, taken):
                what = f"the same file as --{other}" if other else "the image that is read"
                raise InputRefused(
                    f"--{option} {path} is {what}, which would be lost. Name another file.",
                    errors={f"--{option}": f"is {what}"},
                )
        before[option] = path


def _is_one_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, by whatever names; /dev/null takes all there is to write."""
    with suppress(OSError):
        if a.exists() and b.exists():
            return a.samefile(b) and a.is_file()
    return os.path.realpath(a) == os.path.realpath(b)


@contextmanager
def naming(image: "Path | str | None") -> Iterator[None]:
    """Puts the name of the image file before the reason for which it is refused; None where it is no file."""
    try:
        yield
    except ImageRefused as error:
        if image is None:
            raise
        raise ImageRefused(f"{image}: {error}", errors=error.errors) from error


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """What is in a file that the user named; of a larger one a byte too many, which tells that it is.

    Raises:
        FileRefused: it isn't there, or can't be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise FileRefused(f"{path} can't be read: {error.strerror}. Name a file that can be.") from error


def open_workspace(settings: "Settings | None" = None, *, create: bool) -> "Workspace":
    """Opens the workspace of this process, saying so while it takes long.

    Args:
        settings: this process's, where they are read already.
        create: whether it is made where there is none: only by `up`, `load`, `ingest` and `sample`.

    Raises:
        WorkspaceNotFound: there is none, and `create` is false.
        SettingRefused, DatabaseUnavailable, DatabaseRefused, EmbeddedServerFailed, DiskFull: as their texts say.
    """
    # Here and not above: PyMongo alone would double the time of `truthloop --help`.
    from truthloop.cli.screen import waiting
    from truthloop.settings import load_settings
    from truthloop.workspace import Workspace

    settings = settings or load_settings()
    what = "Connecting to MongoDB ..." if settings.mongodb_uri else "Starting MongoDB ..."
    with waiting(what):
        return Workspace.open(settings, create=create)


def wait_for_workspace(settings: "Settings", stop: threading.Event, *, create: bool) -> None:
    """Returns when the workspace can be opened, or `stop` is set.

    Args:
        settings: of this process.
        stop: ends the waiting, within two seconds.
        create: whether it is enough that MongoDB answers, since the workspace is made then.

    Raises:
        SettingRefused, DatabaseRefused: waiting doesn't help.
    """
    from truthloop.cli.screen import messages
    from truthloop.errors import DatabaseUnavailable
    from truthloop.store.connection import is_made

    told = ""
    while not stop.is_set():
        try:
            if is_made(settings, seconds=LOOK_SECONDS) or create:
                return
            waits_for = "the workspace, which `truthloop up` makes"
        except DatabaseUnavailable:
            waits_for = "MongoDB"
        if waits_for != told:
            messages().print(f"Waiting for {waits_for} ...")
            told = waits_for
        stop.wait(PAUSE_SECONDS)


def until_stopped(
    settings: "Settings",
    work: "Callable[[Workspace, threading.Event, Callable[[], None]], None]",
    *,
    wait: bool,
    heartbeat: Path | None,
) -> None:
    """Runs what works on the workspace until Ctrl-C or SIGTERM, with the logs of a service.

    Args:
        settings: of this process.
        work: gets the workspace, what is set when it is to end, and what to call while it gets on.
        wait: whether to wait for MongoDB and for the workspace first.
        heartbeat: the file of `--heartbeat`.

    Raises:
        FileRefused: the file can't be made.
        WorkspaceNotFound, SettingRefused, DatabaseUnavailable, DatabaseRefused: as `open_workspace`.
    """
    from truthloop.cli.stopping import stop_at_signals
    from truthloop.logs import configure

    with stop_at_signals() as stop:
        alive = _beat(heartbeat)
        if wait:
            wait_for_workspace(settings, stop, create=False)
        if not stop.is_set():
            with open_workspace(settings, create=False) as workspace:
                configure(settings.log_level)
                work(workspace, stop, alive)


def _beat(file: Path | None) -> Callable[[], None]:
    """What touches the file of `--heartbeat`; without one it does nothing.

    Raises:
        FileRefused: the file can't be made.
    """
    if file is None:
        return lambda: None
    try:
        file.touch()
        file.unlink()  # also one that an earlier process left, which says nothing of this one
    except OSError as error:
        raise FileRefused(f"{file} can't be written: {error.strerror}. Name another for --heartbeat.") from error

    def touch() -> None:
        with suppress(OSError):  # then the health check says so
            file.touch()

    return touch
