"""Outlines drawn on their image."""

import io

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from truthloop.contours import ObjectOutline, Ring
from truthloop.mask_formats import colours_of
from truthloop.models.documents import Pixels
from truthloop.predict.outlines import Outlines

INK, MUTED = "#1f2430", "#667085"
# The longer side of the drawn image in inches, and the strip below it.
SIDE_INCHES, STRIP_INCHES, DOTS_PER_INCH = 9.0, 0.62, 130
# Narrower, the strip's text wouldn't fit.
MIN_WIDTH_INCHES = 5.6
# So many objects get a name in the picture, the largest first, if they cover so much of the image.
MAX_NAMES, MIN_NAMED_AREA = 12, 0.002
# With more vertices, dots would hide the line.
MAX_DOTS = 400


def draw(pixels: Pixels, found: Outlines) -> bytes:
    """Draws each object's outline with its vertices on the image, and says below what was found.

    Args:
        pixels: the upright image, shape (height, width, 3), RGB.
        found: the outlines in it.

    Returns:
        A PNG whose image has 1,170 pixels on its longer side.
    """
    high, wide = pixels.shape[:2]
    scale = SIDE_INCHES / max(high, wide)
    size = (max(wide * scale, 0.05), max(high * scale, 0.05))
    width, height = max(size[0], MIN_WIDTH_INCHES), size[1] + STRIP_INCHES
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
    axes = figure.add_axes(
        ((width - size[0]) / 2 / width, STRIP_INCHES / height, size[0] / width, size[1] / height)
    )
    axes.set_axis_off()
    # Darkened a little, so that colours stand out; `extent` puts (0, 0) at the corner of the first pixel.
    axes.imshow(
        np.rint(pixels * 0.8).astype(np.uint8),
        extent=(0, wide, high, 0),
        interpolation="antialiased",
        aspect="auto",
    )
    axes.set_xlim(0, wide)
    axes.set_ylim(high, 0)
    colours = colours_of(each.label for each in found.objects)
    # The smallest last, so that they lie on top.
    for each in found.objects:
        path = _path(each)
        colour = colours[each.label]
        axes.add_patch(PathPatch(path, facecolor=colour, edgecolor="none", alpha=0.38))
        axes.add_patch(PathPatch(path, fill=False, edgecolor="white", linewidth=3.2, joinstyle="round"))
        axes.add_patch(PathPatch(path, fill=False, edgecolor=colour, linewidth=1.9, joinstyle="round"))
        corners = np.array([vertex for ring in _rings(each) for vertex in ring.pixels])
        if len(corners) <= MAX_DOTS:
            axes.plot(*corners.T, "o", markersize=2.6, markerfacecolor="white", markeredgecolor=colour, mew=0.8)
    named = [each for each in found.objects if each.area >= MIN_NAMED_AREA][:MAX_NAMES]
    for each in named:
        x, y = _middle(each, wide, high)
        text = axes.text(
            x,
            y,
            f"{_shortened(each.label, 24)} {each.score:.2f}",
            ha="center",
            va="center",
            size=10.5,
            weight="bold",
            color="white",
            parse_math=False,
        )
        text.set_path_effects([effects.withStroke(linewidth=3, foreground=INK)])
    _strip(figure, found, width, height)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": "Truthloop"})
    return out.getvalue()


def _rings(found: ObjectOutline) -> list[Ring]:
    return [ring for outline in found.outlines for ring in (outline.outer, *outline.holes)]


def _path(found: ObjectOutline) -> Path:
    """All rings as one path: holes go the other way around, so they stay open."""
    corners: list[tuple[float, float]] = []
    codes: list[int] = []
    for ring in _rings(found):
        corners += [*ring.pixels, ring.pixels[0]]
        codes += [int(Path.MOVETO), *[int(Path.LINETO)] * (len(ring.pixels) - 1), int(Path.CLOSEPOLY)]
    return Path(corners, codes)


def _middle(found: ObjectOutline, wide: int, high: int) -> tuple[float, float]:
    """Where an object's name goes: well inside its largest part, and where the name still fits into the image."""
    import cv2

    largest = max(found.outlines, key=lambda outline: len(outline.outer.pixels))
    corners = np.array(largest.outer.pixels)
    left, top = corners.min(axis=0)
    right, bottom = corners.max(axis=0)
    # The farthest from the outline, on a grid coarse enough to cost nothing.
    cell = max(right - left, bottom - top) / 96
    columns, rows = int((right - left) / cell) + 3, int((bottom - top) / cell) + 3
    mask = np.zeros((rows, columns), np.uint8)
    rings = [
        np.rint((np.array(ring.pixels) - (left, top)) / cell + 1).astype(np.int32)
        for ring in (largest.outer, *largest.holes)
    ]
    cv2.fillPoly(mask, rings, 1)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    x, y = left + (column - 1) * cell, top + (row - 1) * cell
    margin = 0.09 * max(wide, high)
    return float(np.clip(x, min(margin, wide / 2), max(wide - margin, wide / 2))), float(
        np.clip(y, min(margin / 4, high / 2), max(high - margin / 4, high / 2))
    )


def _strip(figure: Figure, found: Outlines, width: float, height: float) -> None:
    colours = colours_of(each.label for each in found.objects)
    across, line = 0.15, (STRIP_INCHES - 0.2) / height
    for part in found.classes:
        name = f"{_shortened(part.label, 20)} {100 * part.fraction:.1f} %"
        length = 0.3 + 0.105 * len(name)
        if across + length > width - 0.1:
            figure.text(across / width, line, "…", size=11, color=MUTED, va="center")
            break
        figure.text(across / width, line, "■", size=12, color=colours.get(part.label, MUTED), va="center")
        figure.text((across + 0.2) / width, line, name, size=10.5, color=INK, va="center", parse_math=False)
        across += length
    if not found.classes:
        figure.text(across / width, line, "No objects found", size=10.5, color=INK, va="center")
    vertices = sum(len(ring.pixels) for each in found.objects for ring in _rings(each))
    told = [
        found.model,
        f"{len(found.objects):,} object{'' if len(found.objects) == 1 else 's'}",
        f"{vertices:,} vertices",
        f"tolerance {found.tolerance:g} px",
    ]
    text = "  ·  ".join(told)
    figure.text(0.15 / width, 0.17 / height, text, size=9, color=MUTED, va="center", parse_math=False)


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
