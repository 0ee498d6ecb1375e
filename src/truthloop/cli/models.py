"""`truthloop models`. None of its commands needs a workspace."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, keep_apart, naming, png_path, read_file
from truthloop.cli.screen import console, messages, number_of, percent, print_whole, write_file, write_json
from truthloop.errors import InputRefused, TruthloopError

if TYPE_CHECKING:
    from rich.table import Table

    from truthloop.models.answer import PredictionAnswer
    from truthloop.models.documents import CatalogueEntry, Pixels
    from truthloop.models.fetch import Progress
    from truthloop.models.show import FileItem, ModelFacts, ModelItem
    from truthloop.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The models there are: list, try, fetch and add them.")

Name = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name, as `truthloop models list` has it.")]

_STATES = {
    "built_in": ("built in", "green"),
    "there": ("there", "green"),
    "missing": ("to fetch", ""),
    "wrong": ("wrong file", "bold red"),
}


@app.command("list")
def list_all(as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """List the models of the catalogue, and whether their files are there.

    `built in` needs no file. `to fetch` is fetched by `pull` and `try`.
    """
    from truthloop.models.show import list_models
    from truthloop.settings import load_settings

    models = list_models(load_settings())
    if as_json:
        write_json(models)
        return
    table = _table("model", "version", "task", "licence", "state")
    for item in models.items:
        table.add_row(item.name, item.version, item.task, item.licence, _state(item))
    for bad in models.unusable:
        table.add_row(_escaped(bad.name), "", "", "", "[bold red]unusable[/]")
    print_whole(table)
    for bad in models.unusable:
        messages().print(f"{bad.name}: {bad.reason}", style="yellow", markup=False, soft_wrap=True)
    if models.warning is not None:
        messages().print(models.warning, style="yellow", markup=False, soft_wrap=True)


@app.command("show")
def show(model: Name, as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Show all that the catalogue says of a model, and where its files are."""
    from truthloop.models.show import show_model
    from truthloop.settings import load_settings

    facts = show_model(load_settings(), model)
    write_json(facts) if as_json else _show(facts)


@app.command("pull")
def pull(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="The models, by their names.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All models of the catalogue.")] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Fetch the files of models that aren't there yet, and verify them.

    They go to the cache of this user, for all processes. What can't be fetched is named with its reason, the rest
    is fetched, and the exit code is 1.
    """
    from truthloop.models.catalogue import Catalogue
    from truthloop.models.files import read_file
    from truthloop.models.show import show_model
    from truthloop.settings import load_settings

    if bool(models) == everything:
        raise InputRefused("Name the models to pull, or give --all; not both.")
    settings = load_settings()
    catalogue = Catalogue.open(settings)
    entries = (
        catalogue.entries() if everything else [catalogue.entry(name) for name in dict.fromkeys(models or ())]
    )
    failures: dict[str, str] = {}
    for entry in entries:
        try:
            for file in entry.files:
                with fetching(file.name) as progress:
                    read_file(settings, entry, file, fetch=True, progress=progress)
        except TruthloopError as error:
            if len(entries) == 1:
                raise
            failures[entry.name] = str(error)
    items = [show_model(settings, entry.name) for entry in entries]
    if as_json:
        write_json(
            {
                "items": [item.model_dump(mode="json") | {"error": failures.get(item.name)} for item in items],
                "next": None,
            }
        )
    else:
        for item in items:
            if item.name in failures:
                messages().print(f"{item.name}: {failures[item.name]}", style="red", markup=False, soft_wrap=True)
            else:
                where = "built in" if not item.files else f"{_size(item.files)} in {_folders(item.files)}"
                console().print(f"{item.name}: {where}", markup=False, soft_wrap=True)
    if failures:
        raise typer.Exit(1)


@app.command("add")
def add(
    entry: Annotated[Path, typer.Argument(metavar="ENTRY.json", help="The model's catalogue entry, a JSON file.")],
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", metavar="PATH", help="A file of the model, or of its labels. Repeatable."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Add a model of your own: its catalogue entry and its files go to this user's folder of models.

    Which file is which is told by its SHA-256. The model is run once, so that a wrong entry shows at once.
    """
    from truthloop.cli.screen import waiting
    from truthloop.models.add import add_model
    from truthloop.models.catalogue import read_entry
    from truthloop.models.show import show_model
    from truthloop.settings import load_settings

    settings = load_settings()
    read = read_entry(entry)
    with waiting(f"Trying {read.name} ..."):
        place = add_model(settings, read, files or ())
    if as_json:
        write_json(show_model(settings, read.name))
        return
    console().print(f"Added {read.name}: {place}", markup=False, soft_wrap=True)


@app.command("try")
def try_model(
    model: Name,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file: JPEG, PNG, WebP, BMP or TIFF.")],
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", callback=png_path, help="Also draw it, as a PNG file."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Run a model on an image, and show what it says; nothing is stored.

    Edges and classes are fractions of the upright image. With `--json` the answer is `labels`, or `boxes`, or
    `classes` with `objects`, as the model's task is.
    """
    keep_apart(image, plot=plot)
    from truthloop.models.catalogue import Catalogue
    from truthloop.settings import load_settings

    settings = load_settings()
    entry = Catalogue.open(settings).entry(model)
    pixels = read_image(image, settings)
    answer, picture = _predict(settings, entry, pixels, wants_picture=plot is not None)
    if plot is not None and picture is not None:
        write_file(plot, picture)
    write_json(answer) if as_json else console().print(_answer_table(answer))


def read_image(path: Path, settings: "Settings") -> "Pixels":
    """The upright pixels of an image file.

    Raises:
        FileRefused: it can't be read.
        ImageRefused: it is no image that is taken; the text names it.
    """
    from truthloop.ingest.image_file import check, decode

    data = read_file(path, max_bytes=settings.max_image_bytes)
    with naming(path):
        checked = check(data, max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
        return decode(checked.upright, max_pixels=settings.max_image_pixels)


@contextmanager
def fetching(what: str) -> Iterator["Progress"]:
    """A bar on the terminal for a file that is being fetched; none where it is here already."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    screen = messages()
    columns = (TextColumn(f"Fetching {what}"), BarColumn(bar_width=20), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=None, visible=False)

        def show_progress(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield show_progress


def _predict(
    settings: "Settings", entry: "CatalogueEntry", pixels: "Pixels", *, wants_picture: bool
) -> "tuple[PredictionAnswer, bytes | None]":
    from truthloop.cli.screen import waiting
    from truthloop.models.answer import answer_of
    from truthloop.models.load import load_model

    with fetching(entry.name) as progress:
        loaded = load_model(settings, entry, fetch=True, progress=progress)
    with waiting(f"Running {entry.name} ..."):
        prediction = loaded.predict(pixels)
        picture = None
        if wants_picture:
            from truthloop.models.plot import draw

            picture = draw(pixels, prediction)
        return answer_of(prediction, width=pixels.shape[1], height=pixels.shape[0]), picture


def _table(*columns: str, numbers: int = 0) -> "Table":
    """A table without lines, whose last `numbers` columns are to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(columns):
        if place < len(columns) - numbers:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def _state(item: "ModelItem") -> str:
    text, style = _STATES[item.state]
    return f"[{style}]{text}[/{style}]" if style else text


def _show(facts: "ModelFacts") -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "model": f"{facts.name} {facts.version}" + (", your own" if facts.own else ""),
        "task": facts.task,
        "runtime": facts.runtime,
        "licence": facts.licence,
        "source": facts.source,
        "labels": ", ".join(facts.labels),
        "input": ", ".join(f"{name} {_plain(value)}" for name, value in facts.input.items()),
        "output": ", ".join(f"{name} {_plain(value)}" for name, value in facts.output.items()),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    table.add_row("state", _state(facts))
    for file in facts.files:
        table.add_row("", "")
        table.add_row("file", escape(file.name))
        table.add_row("", f"SHA-256 {file.sha256}")
        origin = file.url or (f"{file.member} of the package {file.wheel}" if file.wheel else "")
        if origin:
            table.add_row("", escape(f"from {origin}"))
        if file.path is None:
            table.add_row(
                "", escape(f"Not there. `truthloop models pull {facts.name}`, or put it into {facts.folder}")
            )
        elif file.state == "wrong":
            table.add_row("", escape(f"{file.path} has another SHA-256 and isn't used."), style="red")
        else:
            table.add_row("", escape(f"there: {file.path}"))
    console().print(table)


def _plain(value: object) -> str:
    match value:
        case list() | tuple():
            return " ".join(_plain(part) for part in value)
        case dict():
            return "/".join(_plain(part) for part in value.values())
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _size(files: "list[FileItem]") -> str:
    return f"{number_of(len(files), 'file')}, {sum(file.bytes or 0 for file in files) / 1e6:.1f} MB,"


def _folders(files: "list[FileItem]") -> str:
    return " and ".join(dict.fromkeys(str(Path(file.path).parent) for file in files if file.path is not None))


def _answer_table(answer: "PredictionAnswer") -> "Table | str":
    """The answer as people read it, at most 80 columns wide."""
    from truthloop.models.answer import Segments
    from truthloop.models.documents import Boxes, Labels

    match answer:
        case Labels(labels=labels):
            if not labels:
                return "No label."
            table = _table("label", "score", numbers=1)
            for label in labels:
                table.add_row(_escaped(label.label), f"{label.score:.3f}")
        case Boxes(boxes=boxes):
            if not boxes:
                return "No boxes."
            table = _table("label", "score", "left", "top", "right", "bottom", numbers=5)
            for box in boxes:
                edges = (f"{edge:.3f}" for edge in (box.left, box.top, box.right, box.bottom))
                table.add_row(_escaped(box.label), f"{box.score:.3f}", *edges)
        case Segments(classes=classes, objects=objects):
            if not classes:
                return "Background only."
            table = _table("class", "of the image", "objects", numbers=2)
            for part in classes:
                number = sum(each.label == part.label for each in objects)
                table.add_row(_escaped(part.label), percent(part.fraction), str(number))
    return table


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
