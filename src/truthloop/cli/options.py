"""The options and the opening of the workspace that the commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from truthloop.settings import Settings
    from truthloop.workspace import Workspace

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
# `main` itself looks for it among the arguments, since an error may come before they are parsed.
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def png_path(path: Path | None) -> Path | None:
    """The callback of an option that names a PNG file: refuses a name that says something else."""
    if path is not None and path.suffix.lower() not in ("", ".png"):
        raise typer.BadParameter(f"{path} isn't a PNG file by its name. Name one that ends in .png.")
    return path


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
