"""`truthloop outline`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, file_path, keep_apart, naming, png_path, read_file
from truthloop.cli.screen import console, count, messages, number_of, percent, write_file, write_json
from truthloop.errors import InputRefused

if TYPE_CHECKING:
    from rich.table import Table

    from truthloop.contours import ObjectOutline
    from truthloop.predict.outlines import OutlinedImage, Outlines

# Objects that the table shows; `--json` has all.
SHOWN = 20


def outline_image(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="A segmentation model; `truthloop models list`.")
    ] = "deeplab_v3",
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            metavar="PIXELS",
            min=0,
            max=1000,
            help="How far an outline may be from the exact one, in pixels of the image; 0 for the exact one. "
            "Default: one cell of the model's grid; finer than that are only its stairs.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", callback=png_path, help="Draw them on the image, as PNG."),
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option("--svg", metavar="FILE", callback=file_path, help="Write them as an SVG drawing."),
    ] = None,
    coco: Annotated[
        Path | None,
        typer.Option("--coco", metavar="FILE", callback=file_path, help="Write a COCO file, with polygons."),
    ] = None,
    rle: Annotated[bool, typer.Option("--rle", help="With --coco: masks as RLE, which keeps holes.")] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Outline the objects in an image, in this process: neither a workspace nor the service is needed.

    Objects are the connected parts of a class, so those of one class that touch are one. With `--json` all
    vertices, in pixels of the upright image and in fractions of it.
    """
    if rle and coco is None:
        raise InputRefused("--rle says how the masks in a COCO file are written: give --coco FILE as well.")
    keep_apart(image, plot=plot, svg=svg, coco=coco)
    from truthloop.ingest.image_file import too_many_bytes
    from truthloop.predict.outlines import outline
    from truthloop.settings import load_settings

    settings = load_settings()
    data = read_file(image, max_bytes=settings.max_image_bytes)
    with naming(image):
        if len(data) > settings.max_image_bytes:
            raise too_many_bytes(settings.max_image_bytes)
        with _fetching(model) as progress:
            found = outline(settings, data, model=model, tolerance=tolerance, progress=progress)
    _write_files(found, image.name, plot=plot, svg=svg, coco=coco, rle=rle)
    if as_json:
        write_json(found.outlines)
    else:
        _show(found.outlines, image.name)


@contextmanager
def _fetching(model: str) -> Iterator[Callable[[int, int | None], None]]:
    """Says, on a terminal, that the model runs, and how much of it has been fetched where it has to be."""
    with messages().status(f"Running {model} ...") as shown:

        def progress(done: int, total: int | None) -> None:
            of_all = f" of {total / 1e6:.1f}" if total else ""
            shown.update(f"Fetching {model} ... {done / 1e6:.1f}{of_all} MB")

        yield progress


def _write_files(
    found: "OutlinedImage", name: str, *, plot: Path | None, svg: Path | None, coco: Path | None, rle: bool
) -> None:
    outlines = found.outlines
    if plot is not None:
        from truthloop.predict.outline_picture import draw

        write_file(plot, draw(found.pixels, outlines))
    if svg is not None:
        from truthloop.mask_formats import svg_of

        write_file(svg, svg_of(outlines.objects, width=outlines.width, height=outlines.height).encode())
    if coco is not None:
        from truthloop.mask_formats import coco_of

        document = coco_of(
            outlines.objects,
            found.labels,
            file_name=name,
            width=outlines.width,
            height=outlines.height,
            rle=rle,
            description=f"Truthloop, {outlines.model} {outlines.model_version}, outlines simplified by "
            f"{outlines.tolerance:g} px",
        )
        write_file(coco, json.dumps(document, ensure_ascii=False).encode())
        holes = sum(map(_holes, outlines.objects))
        if holes and not rle:
            messages().print(
                f"COCO's polygons have no holes: {number_of(holes, 'hole')} of the objects count as theirs there. "
                "With --rle they stay open.",
                markup=False,
            )


def _show(found: "Outlines", name: str) -> None:
    out = console()
    out.print(
        f"{name}   {count(found.width)} x {count(found.height)}   {found.model} {found.model_version}   "
        f"tolerance {found.tolerance:g} px",
        markup=False,
    )
    out.print()
    if not found.objects:
        out.print("No objects found.")
        return
    out.print(_table(found))
    more = len(found.objects) - SHOWN
    if more > 0:
        out.print(f"... and {number_of(more, 'smaller object')}; --json has all.")
    out.print()
    of_image = ", ".join(f"{part.label} {percent(part.fraction)}" for part in found.classes)
    out.print(f"Of the image: {of_image}", markup=False)


def _table(found: "Outlines") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("object", overflow="ellipsis", max_width=16)
    for name in ("score", "area", "left", "top", "right", "bottom", "vertices", "holes", "IoU"):
        table.add_column(name, justify="right")
    for each in found.objects[:SHOWN]:
        box = each.box
        edges = (
            box.left * found.width,
            box.top * found.height,
            box.right * found.width,
            box.bottom * found.height,
        )
        vertices = sum(len(ring.pixels) for outline in each.outlines for ring in (outline.outer, *outline.holes))
        table.add_row(
            Text(each.label),
            f"{each.score:.2f}",
            percent(each.area),
            *(f"{edge:.0f}" for edge in edges),
            count(vertices),
            count(_holes(each)) if _holes(each) else "–",
            f"{each.iou:.3f}",
        )
    table.caption = "Edges in pixels. IoU: what is kept of the object with so few vertices."
    table.caption_justify = "left"
    return table


def _holes(found: "ObjectOutline") -> int:
    return sum(len(outline.holes) for outline in found.outlines)
