"""`truthloop failures`."""

import os
import stat
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from truthloop.cli.options import Debug, Json, open_workspace, png_path
from truthloop.cli.screen import console, count, counting, messages, number_of, percent, write, write_json
from truthloop.errors import ImageRefused, InputRefused, NotFound

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from truthloop.failures.documents import (
        EdgesAnswer,
        FailureItem,
        FailureSummary,
        ImageFailures,
        InvalidBox,
        UnjudgedPrediction,
    )
    from truthloop.failures.selection import Selection
    from truthloop.workspace import Workspace

KINDS = ("match", "misplaced", "unrelated", "missed", "spurious", "duplicate")
SIZES = ("small", "medium", "large")
DEFAULT_WORST = 10
# The longer side of the image that a picture is drawn on: three panels of it stand side by side.
PLOT_PIXELS = 700
# Items a person reads fit into it, on a wider terminal, too.
COLUMNS = 80


def show_failures(
    image_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE_ID", help="The images, by their ids.", show_default=False),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All images, without the matches: one item a line, as they are found.")
    ] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Where the model is wrong, over all annotated images.")
    ] = False,
    min_iou: Annotated[
        float,
        typer.Option("--min-iou", metavar="X", help="Don't pair boxes whose IoU is below X (0 to 1)."),
    ] = 0.0,
    model_version: Annotated[
        list[str] | None,
        typer.Option("--model-version", metavar="VERSION", help="Only this model version; can be repeated."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help=f"Only items of this kind: {', '.join(KINDS)}; repeatable."),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            metavar="SIZE",
            help="Only boxes of this size: small (below 1 % of the image's area), medium, large (from 10 %). Of a "
            "pair, the annotated box counts. Repeatable.",
        ),
    ] = None,
    iou_at_least: Annotated[
        float | None, typer.Option("--iou-at-least", metavar="X", help="Only pairs whose IoU is X or more.")
    ] = None,
    iou_below: Annotated[
        float | None, typer.Option("--iou-below", metavar="X", help="Only pairs whose IoU is below X.")
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(
            "--worst",
            metavar="N",
            min=0,
            max=1000,
            help="With --summary: name the N worst images (10 unless told).",
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            "--png",
            metavar="FILE",
            dir_okay=False,
            callback=png_path,
            help="With --summary: also as a figure, a PNG file.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            dir_okay=False,
            callback=png_path,
            help="With one IMAGE_ID: also as a picture, a PNG file; with --summary: the worst image.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show each predicted box against the annotated one it is paired with.

    Every model version's prediction is compared with the annotations that the dataset takes: those of the task
    version that was annotated last. Edges are fractions of the image, a delta is annotated minus predicted.

    With `--json` one array, an answer for each IMAGE_ID; with `--all --json` one answer a line.
    """
    _check_use(image_ids or [], everything=everything, summary=summary, worst=worst, png=png, plot=plot)
    from truthloop.failures.selection import Selection

    selection = Selection.of(
        model_versions=model_version or (),
        kinds=kind or (),
        sizes=size or (),
        iou_at_least=iou_at_least,
        iou_below=iou_below,
    )
    if summary and selection != Selection(model_versions=selection.model_versions):
        raise InputRefused("--summary counts all kinds, sizes and IoUs; only --model-version narrows it.")
    with open_workspace(create=False) as workspace:
        if summary:
            with counting() as progress:
                told = workspace.failure_summary(
                    model_versions=sorted(selection.model_versions),
                    min_iou=min_iou,
                    worst=DEFAULT_WORST if worst is None else worst,
                    progress=progress,
                )
            if png is not None:
                from truthloop.failures.figure import draw as draw_summary

                _write_picture(png, draw_summary(told))
            if plot is not None:
                _plot_worst(workspace, told, plot)
            write_json(told) if as_json else console().print(summary_report(told))
        elif everything:
            _stream(workspace, selection, min_iou, as_json=as_json)
        else:
            answers = workspace.failures(image_ids or [], selection=selection, min_iou=min_iou)
            if plot is not None:
                _plot(workspace, answers[0], plot)
            if as_json:
                _write_array(answers)
            else:
                console().print(report(answers, selection))


def _check_use(
    image_ids: list[str],
    *,
    everything: bool,
    summary: bool,
    worst: int | None,
    png: Path | None,
    plot: Path | None,
) -> None:
    if bool(image_ids) + everything + summary != 1:
        raise InputRefused("Give one or more IMAGE_ID, or --all, or --summary. See `truthloop failures --help`.")
    if (png is not None or worst is not None) and not summary:
        raise InputRefused("--png and --worst go with --summary; the picture of an image is --plot.")
    if plot is not None and len(image_ids) != 1 and not summary:
        raise InputRefused("--plot draws one image: give one IMAGE_ID, or --summary for the worst one.")
    if plot is not None and worst == 0:
        raise InputRefused("--plot draws the first of the worst images, and --worst 0 names none.")


def _plot_worst(workspace: "Workspace", told: "FailureSummary", path: Path) -> None:
    if not told.worst:
        messages().print("No image has a failure, so none is drawn.", style="dim")
        return
    image_id = told.worst[0].image_id
    _plot(workspace, workspace.failures(image_id), path)
    messages().print(f"It shows {image_id}: truthloop failures {image_id}", markup=False)


def _plot(workspace: "Workspace", failures: "ImageFailures", path: Path) -> None:
    from truthloop.failures.plot import draw
    from truthloop.ingest.image_file import decode_small

    try:
        data = workspace.image_file(failures.image_id).data
        pixels = decode_small(data, side=PLOT_PIXELS, max_pixels=workspace.settings.max_image_pixels)
    except (NotFound, ImageRefused):  # an image of documents alone
        pixels = None
    _write_picture(path, draw(failures, pixels))


def _write_picture(path: Path, picture: bytes) -> None:
    from truthloop.errors import FileRefused

    try:
        path.write_bytes(picture)
    except OSError as error:
        raise FileRefused(f"{path} can't be written: {error.strerror}. Name another file.") from error
    messages().print(f"Wrote {path}.", markup=False)


def _write_array(answers: list["ImageFailures"]) -> None:
    import json
    import re

    text = json.dumps([answer.model_dump(mode="json") for answer in answers], ensure_ascii=False, indent=2)
    # The edges of a box on one line, as brief 1 writes them. No text in JSON holds a line's end as it is.
    write(re.sub(r'\{\n *("top": [^{}]*?)\n *\}', lambda box: "{" + re.sub(r"\n *", " ", box[1]) + "}", text))


def _stream(workspace: "Workspace", selection: "Selection", min_iou: float, *, as_json: bool) -> None:
    """One answer a line as JSON, or one item; on a terminal, items in the width of one."""
    images = items = 0
    is_terminal = sys.stdout.isatty()
    with ExitStack() as counter:
        progress = counter.enter_context(counting())
        for answer in workspace.all_failures(selection=selection, min_iou=min_iou, progress=progress):
            if not _is_file(sys.stdout):
                counter.close()  # the lines tell that it goes on, and may stand on the same screen
            images += 1
            items += len(answer.items)
            if as_json:
                sys.stdout.write(answer.model_dump_json() + "\n")
                continue
            rows = _rows(answer, with_invalid=selection.takes_all)
            lines = _compact(answer.image_id, rows) if is_terminal else map("\t".join, rows)
            sys.stdout.writelines(f"{line}\n" for line in lines)
    if not as_json:
        messages().print(f"{number_of(items, 'item')} on {number_of(images, 'image')}.", style="dim")


def _is_file(out: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(out.fileno()).st_mode)
    except OSError:  # nothing of the system's stands behind it
        return False


def _rows(answer: "ImageFailures", *, with_invalid: bool) -> Iterator[tuple[str, ...]]:
    """Its items: image, model version, kind, IoU, predicted and annotated box.

    Then what can't be compared, of the kind `invalid`, with the reason as a seventh field.
    """
    from truthloop.failures.documents import escaped

    image_id = escaped(answer.image_id)
    for item in answer.items:
        iou = "" if item.iou is None else f"{item.iou:.3f}"
        boxes = _edges_text(item.predicted), _edges_text(item.annotated)
        yield image_id, escaped(item.model_version), item.kind, iou, *boxes
    for box in answer.invalid if with_invalid else ():
        edges = _edges_text(box.box)
        boxes = (edges, "") if box.side == "predicted" else ("", edges)
        yield (
            image_id,
            escaped(box.model_version or ""),
            "invalid",
            "",
            *boxes,
            f"{box.side}: {escaped(box.reason)}",
        )


def _compact(image_id: str, rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """An image's rows within 80 columns: its id on a line, the rows under it; what is longer goes on below."""
    from textwrap import wrap

    from truthloop.failures.documents import escaped

    yield from wrap(escaped(image_id), COLUMNS, break_on_hyphens=False) or [""]
    for _, version, kind, iou, predicted, annotated, *reason in rows:
        boxes = f"{predicted or '–':<23}  {annotated or '–'}" if not reason else predicted or annotated
        row = "  ".join((f"{version:<5}", f"{kind:<10}", f"{iou or '–':<5}", boxes, *reason))
        yield from wrap(row, COLUMNS, initial_indent="  ", subsequent_indent="         ", break_on_hyphens=False)


def _edges_text(edges: "EdgesAnswer | None") -> str:
    return "" if edges is None else f"{edges.left:g},{edges.top:g},{edges.right:g},{edges.bottom:g}"


def report(answers: Iterable["ImageFailures"], selection: "Selection") -> "RenderableType":
    """The answers as people read them, at most 80 columns wide."""
    from rich.console import Group
    from rich.text import Text

    from truthloop.failures.documents import escaped

    parts: list[RenderableType] = []
    for answer in answers:
        if parts:
            parts.append(Text())
        parts.append(Text.assemble((escaped(answer.image_id), "bold"), f"  {_heading(answer, selection)}"))
        if answer.items:
            parts += [Text(), _items(answer.items)]
        if answer.predictions:
            parts += [Text(), _unjudged(answer.predictions)]
        if answer.invalid:
            parts += [Text(), *_invalid(answer.invalid)]
    return Group(*parts)


def _heading(answer: "ImageFailures", selection: "Selection") -> str:
    from collections import Counter

    if answer.state == "not_predicted":
        if selection.model_versions:
            return f"not predicted: {_named(selection.model_versions)} hasn't looked at it"
        return "not predicted: no model has looked at it"
    if answer.state == "not_annotated":
        return "not annotated: nothing to compare with"
    if any(box.side == "annotated" for box in answer.invalid):
        return "its annotation can't be used: nothing to compare with"
    if not answer.items:
        return "no such items" if not selection.takes_all else "no boxes to compare"
    kinds = Counter(str(item.kind) for item in answer.items)
    return ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])


def _named(model_versions: Collection[str]) -> str:
    """Versions that were asked for, in a sentence."""
    from truthloop.failures.documents import escaped
    from truthloop.versions import version_key

    return "model " + " or ".join(map(escaped, sorted(model_versions, key=version_key, reverse=True)))


def _unjudged(predictions: list["UnjudgedPrediction"]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model", overflow="fold", min_width=5)
    table.add_column("audited as", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("left", "top", "right", "bottom"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in predictions:
        lead = each.model_version, {True: "correct", False: "incorrect", None: "–"}[each.verdict]
        for box in each.boxes:
            table.add_row(*lead, "predicted", *_numbers(box))
            lead = "", ""
        if not each.boxes:
            table.add_row(*lead, "no box", *_numbers(None))
    return table


def _items(items: list["FailureItem"]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model", overflow="fold", min_width=5)
    table.add_column("kind", no_wrap=True)
    table.add_column("IoU", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("left", "top", "right", "bottom"):
        table.add_column(name, justify="right", no_wrap=True)
    for item in items:
        lead = (
            item.model_version,
            Text(item.kind, _STYLES[item.kind]),
            "–" if item.iou is None else f"{item.iou:.3f}",
        )
        table.add_row(*lead, "predicted", *_numbers(item.predicted))
        table.add_row("", "", "", f"annotated {item.task_version}", *_numbers(item.annotated))
        if item.delta is not None:
            table.add_row("", "", "", "delta", *_numbers(item.delta, signed=True), style="bold")
    return table


_STYLES = {
    "match": "green",
    "misplaced": "yellow",
    "unrelated": "red",
    "missed": "red",
    "spurious": "red",
    "duplicate": "yellow",
}


def _numbers(edges: "EdgesAnswer | None", *, signed: bool = False) -> tuple[str, ...]:
    if edges is None:
        return ("–",) * 4
    return tuple(_number(value, signed=signed) for value in (edges.left, edges.top, edges.right, edges.bottom))


def _number(value: float, *, signed: bool) -> str:
    """Three places, or four where there are more; as JSON there are six.

    >>> _number(0.44, signed=False), _number(-0.26152, signed=True)
    ('0.440', '-0.2615')
    """
    value = round(value, 4) + 0.0  # +0.0, so that nothing is -0.000
    text = f"{value:+.4f}" if signed else f"{value:.4f}"
    return text.removesuffix("0")


def _invalid(boxes: list["InvalidBox"]) -> Iterator["RenderableType"]:
    from rich.text import Text

    for box in boxes:
        where = f"{box.side} {box.model_version or box.task_version or ''}".rstrip()
        place = "" if box.index is None else f", box {box.index}"
        edges = "" if box.box is None else f" ({_named_edges(box.box)})"
        yield Text(f"not compared: {where}{place}: {box.reason}{edges}", "yellow")


def _named_edges(edges: "EdgesAnswer") -> str:
    return f"left {edges.left:g}, top {edges.top:g}, right {edges.right:g}, bottom {edges.bottom:g}"


def summary_report(told: "FailureSummary") -> "RenderableType":
    """The summary as people read it, at most 80 columns wide."""
    from rich.console import Group
    from rich.text import Text

    from truthloop.failures.documents import escaped

    by_these = f" by {_named(told.asked)}" if told.asked else ""
    parts: list[RenderableType] = [
        Text.assemble((f"{number_of(told.compared, 'image')} compared", "bold"), f" of {count(told.images)}"),
        Text(
            f"Left out: {count(told.not_annotated)} not annotated, "
            f"{count(told.not_predicted)} not predicted{by_these},\n"
            f"{count(told.refused.count)} with annotations or predictions that can't be used"
            f"{':' if told.refused.count else '.'}"
        ),
        *(Text(f"  {escaped(image_id)}") for image_id in told.refused.examples),
    ]
    if told.refused.count > len(told.refused.examples):
        parts.append(Text("  ... (truthloop failures --all lists them)"))
    if told.synthetic:
        parts.append(Text("SYNTHETIC SAMPLE DATA: made up by `truthloop sample`, not measured.", "bold yellow"))
    if told.min_iou:
        parts.append(Text(f"Boxes with an IoU below {told.min_iou:g} weren't paired."))
    if not told.model_versions:
        return Group(*parts, Text(), Text("There is nothing to compare."))
    parts += [Text(), _kinds(told), Text(), _sizes(told), Text(), _overlap(told), Text(), _shifts(told)]
    if told.worst:
        parts += [Text(), _worst(told)]
    parts += [
        Text(),
        Text(
            "People annotate mostly where a prediction was found wrong: these are the\n"
            "failures on such images, and not the model's figures on all.",
            "dim",
        ),
    ]
    return Group(*parts)


def _plain(*columns: str, left: int = 1) -> "Table":
    """A table without lines, whose first `left` columns are text."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(columns):
        if place < left:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def _kinds(told: "FailureSummary") -> "Table":
    table = _plain("model version", "images", "match", "misplaced", "missed", "spurious", "duplicate")
    for version in told.model_versions:
        counts = version.counts
        numbers = (counts.match, counts.misplaced, counts.missed, counts.spurious, counts.duplicate)
        table.add_row(version.model_version, count(version.images), *map(count, numbers))
        shares = [
            *(_share(number, counts.annotated) for number in numbers[:3]),
            *(_share(number, counts.predicted) for number in numbers[3:]),
        ]
        table.add_row("", "", *shares, style="dim")
    table.caption = "Shares are of annotated boxes; of spurious and duplicate, of predicted ones."
    table.caption_justify = "left"
    return table


def _share(number: int, of: int) -> str:
    return percent(number / of if of else None)


def _sizes(told: "FailureSummary") -> "Table":
    table = _plain("model version", "size of box", "match", "misplaced", "missed", "spurious", "duplicate", left=2)
    for version in told.model_versions:
        name = version.model_version
        for size in version.sizes:
            counts = size.counts
            numbers = (counts.match, counts.misplaced, counts.missed, counts.spurious, counts.duplicate)
            table.add_row(name, size.size, *map(count, numbers))
            name = ""
    return table


def _overlap(told: "FailureSummary") -> "Table":
    table = _plain("model version", "IoU of pairs, 0 to 1", "5 %", "25 %", "median", "75 %", "95 %", left=2)
    for version in told.model_versions:
        quantiles = version.iou.quantiles
        if quantiles is not None:
            values = (quantiles.p5, quantiles.p25, quantiles.median, quantiles.p75, quantiles.p95)
            table.add_row(
                version.model_version,
                sparkline(version.iou.histogram.counts),
                *(f"{value:.3f}" for value in values),
            )
    return table


def sparkline(counts: list[int]) -> str:
    """A histogram in a line; anything above nothing shows.

    >>> sparkline([0, 1, 50, 100])
    ' ▁▄█'
    """
    most = max(counts, default=0)
    return "".join(" ▁▂▃▄▅▆▇█"[max(1, round(8 * number / most)) if number else 0] for number in counts)


def _shifts(told: "FailureSummary") -> "Table":
    from rich.text import Text

    table = _plain("model version", "edge", "median delta", "95 % interval", "people draw it", left=2)
    table.columns[-1].justify = "left"
    for version in told.model_versions:
        name = version.model_version
        for edge in version.edges:
            if edge.quantiles is None:
                continue
            interval = "–" if edge.low is None or edge.high is None else f"{edge.low:+.4f} to {edge.high:+.4f}"
            table.add_row(
                name,
                edge.edge,
                f"{edge.quantiles.median:+.4f}",
                interval,
                Text(moved(edge.edge, edge.quantiles.median), "bold yellow") if edge.is_shifted else "",
            )
            name = ""
    table.caption = "Of pairs that match or are misplaced; fractions of the image."
    table.caption_justify = "left"
    return table


def moved(edge: str, delta: float) -> str:
    """Where people draw an edge, against the model.

    >>> moved("top", -0.012), moved("right", 0.0004)
    ('1.20 % further up', '0.04 % further right')
    """
    lower, higher = ("left", "right") if edge in ("left", "right") else ("up", "down")
    return f"{abs(100 * delta):.2f} % further {higher if delta > 0 else lower}"


def _worst(told: "FailureSummary") -> "Table":
    table = _plain("worst images", "model", "wrong", "right", left=2)
    for image in told.worst:
        table.add_row(image.image_id, image.model_version, count(image.failures), count(image.counts.match))
    return table
