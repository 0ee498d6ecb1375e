"""`truthloop ingest`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace
from truthloop.cli.screen import console, count, messages, number_of, write_json
from truthloop.errors import WorkspaceNotFound

if TYPE_CHECKING:
    from rich.table import Table

    from truthloop.ingest.image_paths import IngestProgress, IngestReport

# Refused files that are shown; the file of rejects has all.
SHOWN = 20


def ingest_images(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Image files, or folders of them.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at everything, store nothing.")] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Take images into the workspace: JPEG, PNG, WebP, BMP and TIFF, told by their content.

    Folders are searched through; hidden files in them are left alone. The same file twice is one image. What is
    refused is written with its reason into a file, the rest is taken, and the exit code is 1. Interrupted, the
    same command takes up what is missing.
    """
    from truthloop.ingest.image_paths import ingest_paths, require_files
    from truthloop.settings import load_settings

    settings = load_settings()
    require_files(paths, without=settings.home)
    try:
        with open_workspace(settings, create=not dry_run) as workspace, progress_bar() as progress:
            report = workspace.ingest(paths, dry_run=dry_run, progress=progress)
    except WorkspaceNotFound:
        with progress_bar() as progress:
            report = ingest_paths(None, None, paths, settings=settings, dry_run=True, progress=progress)
    answer(report, as_json=as_json)


@contextmanager
def progress_bar() -> Iterator["Callable[[IngestProgress], None]"]:
    """A bar on the terminal for the files that are being ingested."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    screen = messages()
    columns = (
        TextColumn("Ingesting"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[files]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=None, files="")

        def show_progress(now: "IngestProgress") -> None:
            refused = f", {count(now.refused)} refused" if now.refused else ""
            files = f"{count(now.done)} of {number_of(now.total, 'file')}{refused}"
            bar.update(task, completed=now.done, total=now.total, files=files)

        yield show_progress


def answer(report: "IngestReport", *, as_json: bool) -> None:
    """Shows the report, and ends with exit code 1 where something is refused."""
    if as_json:
        write_json(report)
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def _show(report: "IngestReport") -> None:
    out = console()
    turned = f" ({count(report.turned)} turned upright)" if report.turned else ""
    out.print(
        f"{number_of(report.read, 'file')}: {count(report.new)} new{turned}, "
        f"{count(report.already_there)} there already, {count(report.refused)} refused"
    )
    if report.refusals:
        out.print()
        out.print(_refused(report))
        if (left := report.refused - min(SHOWN, len(report.refusals))) > 0:
            out.print(f"and {count(left)} more")
    if report.rejects:
        out.print(f"\nAll that was refused, with the reasons: {report.rejects}", markup=False, soft_wrap=True)
    if report.dry_run:
        out.print("\nA dry run: nothing was stored.", style="bold")


def _refused(report: "IngestReport") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("refused", overflow="fold")
    table.add_column("reason", overflow="fold")
    for refusal in report.refusals[:SHOWN]:
        table.add_row(Text(_printable(refusal.file), "red"), Text(_printable(refusal.reason)))
    return table


def _printable(text: str) -> str:
    """A file's name can steer a terminal, too."""
    return "".join(character if character.isprintable() else "?" for character in text)
