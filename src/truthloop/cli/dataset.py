"""`truthloop dataset build|list|show|export`."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace
from truthloop.cli.screen import console, count, messages, number_of, percent, tell_of_more, write, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType
    from rich.table import Table

    from truthloop.datasets.documents import DatasetPage, DatasetReport, ExportReport

app = typer.Typer(no_args_is_help=True, help="Build the training set, look at its versions, and export them.")

# As many of a reason as a report on the screen names.
EXAMPLES = 3
DEFAULT_LIMIT = 20

Version = Annotated[
    int | None, typer.Argument(metavar="VERSION", min=1, help="Which version; the newest by default.")
]


class Format(StrEnum):
    """What `export` writes."""

    JSONL = "jsonl"
    PARQUET = "parquet"


@app.command("build")
def build(
    without_incorrect: Annotated[
        bool,
        typer.Option(
            "--without-incorrect", help="Leave out, by name, images whose prediction was audited as incorrect."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be built.")] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Build the next version of the training set into the collection `bbox_dataset`.

    An image has the boxes that people drew, of the task version with the latest annotation; without any, those of
    its newest model version. Whoever reads `bbox_dataset` meanwhile sees the version before. Exit code 0 also
    where images were left out: the report accounts for each.
    """
    with open_workspace(create=False) as workspace, working() as progress:
        report = workspace.dataset.build(without_incorrect=without_incorrect, dry_run=dry_run, progress=progress)
    if as_json:
        write_json(report)
    else:
        console().print(told(report))


@app.command("list")
def list_datasets(
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=1000, help="At most so many.")
    ] = DEFAULT_LIMIT,
    after: Annotated[
        int | None, typer.Option("--after", metavar="VERSION", help="Only versions older than this.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """List the versions of the training set, the newest first."""
    with open_workspace(create=False) as workspace:
        page = workspace.dataset.list(limit=limit, after=after)
    if as_json:
        write_json(page)
    elif not page.items:
        console().print(
            "There is no dataset yet. `truthloop dataset build` makes one."
            if after is None
            else f"There is no version older than {after}."
        )
    else:
        console().print(_table(page))
        if page.next is not None:
            tell_of_more("dataset list", page.next, limit=limit, default_limit=DEFAULT_LIMIT)


@app.command("show")
def show(
    version: Version = None,
    left_out: Annotated[
        bool, typer.Option("--left-out", help="Name all images that are not in it, one a line, with the reason.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Tell where the boxes of a version come from, who was left out and why, and how much a person has seen."""
    with open_workspace(create=False) as workspace:
        if left_out:
            for image in workspace.dataset.left_out(version):
                if as_json:
                    write_json(image, one_line=True)
                else:
                    write("\t".join((image.image_id, image.reason, image.detail or "")))
            return
        report = workspace.dataset.show(version)
    if as_json:
        write_json(report)
    else:
        console().print(told(report))


@app.command("export")
def export(
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="The folder to make; one that is there is refused.")
    ],
    version: Version = None,
    format: Annotated[  # noqa: A002 - the option's name
        Format, typer.Option("--format", metavar="FORMAT", help=f"One of {', '.join(Format)}.")
    ] = Format.JSONL,
    split: Annotated[
        str, typer.Option("--split", metavar="TRAIN/VAL/TEST", help="The percents of the parts.")
    ] = "80/10/10",
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Write a version as files for training: one each for train, val and test, read back and compared.

    An image keeps its part from version to version.
    """
    with open_workspace(create=False) as workspace, working() as progress:
        report = workspace.dataset.export(version, out=out, format=format.value, split=split, progress=progress)
    if as_json:
        write_json(report)
    else:
        console().print(_exported(report))


@contextmanager
def working() -> "Iterator[Callable[[str, int], None]]":
    """Says, on a terminal, what is being done and how far it is."""
    with messages().status("Reading ...") as shown:
        yield lambda what, images: shown.update(f"{what} ... {number_of(images, 'image') if images else ''}")


def told(report: "DatasetReport") -> "RenderableType":
    """A report in plain words, at most 80 columns wide but for the names in it."""
    from rich.console import Group
    from rich.text import Text

    head = Text(
        f"Dataset version {report.version}" if report.version is not None else "Dry run: nothing was built", "bold"
    )
    head.append(f"   as of {report.as_of:%Y-%m-%d %H:%M:%S} UTC", "not bold")
    parts: list[RenderableType] = [head]
    if report.synthetic:
        parts.append(Text("SYNTHETIC SAMPLE DATA: made up by `truthloop sample`, not measured.", "bold yellow"))
    if report.without_incorrect:
        parts.append(Text("Without the images whose prediction was audited as incorrect."))
    parts += [Text(), _numbers(report), Text(), Text("Where the boxes come from", "bold"), _sources(report)]
    if report.left_out.count:
        parts += [Text(), Text("Left out", "bold"), _left_out(report)]
    parts += list(_remarks(report))
    return Group(*parts)


def _grid() -> "Table":
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _numbers(report: "DatasetReport") -> "Table":
    table = _grid()
    table.add_row(count(report.images), "images are known")
    table.add_row(count(report.entries), f"are in the dataset, with {count(report.boxes)} boxes")
    table.add_row(count(report.left_out.count), "are not")
    table.add_row(
        percent(report.seen_fraction), f"of the dataset a person has seen ({number_of(report.seen, 'image')})"
    )
    return table


def _sources(report: "DatasetReport") -> "Table":
    table = _grid()
    human, model = report.human, report.model
    table.add_row(count(human.images), f"images: drawn by a person ({count(human.empty)} of them without a face)")
    table.add_row(
        count(model.images), f"images: predicted by a model ({count(model.empty)} of them empty), of which"
    )
    table.add_row("", f"{count(model.correct)} were audited as correct")
    table.add_row("", f"{count(model.incorrect)} were audited as incorrect, and nobody has drawn them yet")
    table.add_row("", f"{count(model.unaudited)} were audited by nobody")
    for source in report.sources:
        what = "annotation task" if source.kind == "human" else "model"
        table.add_row(count(source.images), f"images: {what} {source.version}", style="dim")
    return table


_WORDS = {
    "unseen": "unseen: neither a prediction nor an annotation is stored",
    "audited incorrect": "the prediction was audited as incorrect, and nobody has drawn them yet",
    "swapped or empty box": "refused: a box is swapped or empty as it is stored",
    "not finite": "refused: a box has a coordinate that is not finite",
    "box outside the image": "refused: no part of a box lies in the image",
    "unreadable document": "refused: a document can't be read",
    "conflicting predictions": "refused: two predictions of one model version differ",
}


def _left_out(report: "DatasetReport") -> "Table":
    table = _grid()
    for group in report.left_out.reasons:
        table.add_row(count(group.count), _WORDS[group.reason])
        if group.reason == "unseen":
            continue
        for image in group.examples[:EXAMPLES]:
            table.add_row("", f"{image.image_id}{f': {image.detail}' if image.detail else ''}", style="dim")
    if report.version is not None:
        table.add_row("", f"truthloop dataset show {report.version} --left-out", style="dim")
    return table


def _remarks(report: "DatasetReport") -> "Iterator[RenderableType]":
    from rich.text import Text

    if report.clipped.boxes:
        yield Text()
        yield Text(
            f"{number_of(report.clipped.boxes, 'box')} in {number_of(report.clipped.images, 'image')} "
            "reached over the edge and lost what lay beyond it."
        )
    if report.not_in_metadata.count:
        named = ", ".join(report.not_in_metadata.examples[:EXAMPLES])
        yield Text()
        yield Text(
            f"Missing in metadata and so left aside: {count(report.not_in_metadata.count)} of the image ids in "
            f"use, such as {named}.",
            "yellow",
        )
    if report.unfinished_loads:
        yield Text()
        yield Text(
            f"At that moment {number_of(report.unfinished_loads, 'load')} had not come to the end: more documents "
            "may be there by now, or `truthloop doctor` names what was cut short.",
            "yellow",
        )
    if not report.images:
        yield Text()
        yield Text("There are no images yet: `truthloop load PATH` loads documents.")


def _table(page: "DatasetPage") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("version", "images", "entries", "human", "model", "seen"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("built", no_wrap=True)
    table.add_column("")
    for item in page.items:
        remarks = ["current"] if item.current else []
        remarks += ["without incorrect"] if item.without_incorrect else []
        table.add_row(
            str(item.version),
            *(count(number) for number in (item.images, item.entries, item.human, item.model)),
            percent(item.seen_fraction),
            f"{item.built_at:%Y-%m-%d %H:%M:%S} UTC",
            ", ".join(remarks),
        )
    return table


def _exported(report: "ExportReport") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    table = _grid()
    for part in report.parts:
        table.add_row(count(part.images), f"images, {count(part.boxes)} boxes: {part.file}")
    parts: list[RenderableType] = [
        Text(f"Version {report.version} is in {report.folder}, read back and compared.", "bold"),
        table,
    ]
    if report.synthetic:
        parts.insert(1, Text("SYNTHETIC SAMPLE DATA: made up by `truthloop sample`, not measured.", "bold yellow"))
    return Group(*parts)
