"""`truthloop load`."""

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

    from truthloop.ingest.reports import Counts, FileReport, LoadProgress, LoadReport


def _collections(incomplete: str) -> list[str]:
    from truthloop.ingest.documents import COLLECTIONS

    return [name for name in COLLECTIONS if name.startswith(incomplete)]


def _known(collection: str | None) -> str | None:
    if collection is not None and collection not in _collections(""):
        raise typer.BadParameter(f"{collection!r} is none of {', '.join(_collections(''))}.")
    return collection


def load_documents(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files, or folders of files.")],
    into: Annotated[
        str | None,
        typer.Option(
            "--into",
            metavar="COLLECTION",
            autocompletion=_collections,
            callback=_known,
            help="The collection they belong to. Default: what each file's name says.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, store nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Store nothing if anything is refused.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Where a key is there with another content, take the new one.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Load documents from JSON files into the four collections.

    Arrays, JSON Lines and MongoDB's extended JSON, gzipped or not. The same document twice is stored once. What
    is refused is written with its place and reason into a file, the rest is loaded, and the exit code is 1.
    """
    from truthloop.ingest.files import find_files
    from truthloop.ingest.load import load

    find_files(paths, into)  # what can't be loaded at all is said before a workspace is made for it
    try:
        with open_workspace(create=not dry_run) as workspace, progress_bar() as progress:
            report = workspace.load(
                paths, into=into, dry_run=dry_run, strict=strict, replace=replace, progress=progress
            )
    except WorkspaceNotFound:
        with progress_bar() as progress:
            report = load(None, paths, into=into, dry_run=True, progress=progress)
    answer(report, as_json=as_json)


@contextmanager
def progress_bar() -> Iterator["Callable[[LoadProgress], None]"]:
    """A bar on the terminal for the file that is being loaded."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    screen = messages()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[documents]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("Reading ...", total=None, documents="")

        def show_progress(now: "LoadProgress") -> None:
            doing = "checking " if now.checking else ""
            bar.update(
                task,
                description=f"{doing}{Path(now.file).name} ({now.file_number} of {now.files})",
                completed=now.bytes_read,
                total=now.bytes_total or None,
                documents=number_of(now.read, "document"),
            )

        yield show_progress


def answer(report: "LoadReport", *, as_json: bool) -> None:
    """Shows the report, and ends with exit code 1 where something isn't stored."""
    if as_json:
        write_json(report)
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def _show(report: "LoadReport") -> None:
    out = console()
    out.print(_counts(report))
    _show_marks(report)
    if report.notes:
        out.print(f"All of these, with their places: {report.notes}", markup=False, soft_wrap=True)
    for item in report.items:
        if item.error:
            out.print(f"\n{item.error}", style="red", markup=False)
    for item in report.items:
        if item.refusals:
            out.print(f"\nRefused of {_label(item)}:", style="bold", markup=False)
            for refusal in item.refusals:
                out.print(f"  {refusal}", markup=False, soft_wrap=True)
            if (left := item.refused + item.conflicts - len(item.refusals)) > 0:
                out.print(f"  and {count(left)} more")
    if report.rejects:
        out.print(
            f"\nAll that was refused, with places and reasons: {report.rejects}", markup=False, soft_wrap=True
        )
    if report.stopped:
        out.print("\nNothing was stored, since something is refused and --strict was given.", style="bold")
    elif report.dry_run:
        out.print("\nA dry run: nothing was stored.", style="bold")


# Columns that are shown only where they have something to say.
_SELDOM = ("replaced", "conflicts")


def _counts(report: "LoadReport") -> "Table":
    from rich.table import Table
    from rich.text import Text

    totals = report.totals
    names = [
        name
        for name in ("read", "new", "already_there", *_SELDOM, "refused")
        if name not in _SELDOM or getattr(totals, name)
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("file", overflow="fold")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")

    def row(label: str, counts: "Counts") -> None:
        numbers = {name: getattr(counts, name) for name in names}
        bad = {"refused", "conflicts"}
        table.add_row(
            label,
            *(Text(count(number), "red" if name in bad and number else "") for name, number in numbers.items()),
        )

    for item in report.items:
        row(_label(item), item)
    if len(report.items) > 1:
        table.add_section()
        row("all", totals)
    return table


def _label(item: "FileReport") -> str:
    """The file's name, and its collection where the name doesn't say it."""
    name = Path(item.file).name
    return name if item.collection in name else f"{name} → {item.collection}"


def _show_marks(report: "LoadReport") -> None:
    """What is stored as it came and worth a look, with a few of each named."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for item in report.items:
        for named, what in (
            (item.nulls, "of no face (null box)"),
            (item.swapped, "with swapped corners or no area"),
            (item.outside, "with a box beyond the image's edge"),
            (item.unknown_images, "of images that are not in metadata"),
        ):
            if named.count:
                examples = ", ".join(named.examples[:2])
                more = ", ..." if named.count > 2 else ""
                table.add_row(count(named.count), f"{_label(item)}: {what}\n{examples}{more}")
    if table.row_count:
        console().print("\nStored as they came, and worth a look:", style="bold")
        console().print(table)
