"""`truthloop failures`."""

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from truthloop.cli.failures_report import KINDS, report, summary_report
from truthloop.cli.options import Debug, Json, keep_apart, open_workspace, png_path
from truthloop.cli.screen import console, counting, messages, number_of, write, write_file, write_json
from truthloop.errors import ImageRefused, InputRefused, NotFound

if TYPE_CHECKING:
    from truthloop.failures.documents import EdgesAnswer, FailureSummary, ImageFailures
    from truthloop.failures.selection import Selection
    from truthloop.workspace import Workspace

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
            callback=png_path,
            help="With --summary: also as a figure, a PNG file.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
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
    keep_apart(None, png=png, plot=plot)
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

                write_file(png, draw_summary(told))
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
    write_file(path, draw(failures, pixels, synthetic=workspace.is_synthetic))


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
