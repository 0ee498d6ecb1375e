"""Objects' outlines in other programs' formats: COCO's polygons and RLE, and SVG. Pure, no I/O.

All of them show the outlines as given: simplified ones stay simplified, and only unsimplified ones cover exactly
the model's cells.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from truthloop.contours import ObjectOutline, Outline, Ring
from truthloop.polygons import RingArray, toggles

# Hues far apart, and brighter than most of what photographs show.
COLOURS = (
    "#ff5c38",
    "#2f9bff",
    "#2fc25b",
    "#f04fd8",
    "#ffc400",
    "#00c8c8",
    "#9b6cff",
    "#ff4f87",
    "#b4d400",
)
# So large is text in an SVG, as a part of the image's longer side.
_TEXT_PART = 0.028


def colours_of(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each class of a picture: mostly the same from picture to picture, and no two alike in one.

    >>> sorted(colours_of(["cat", "dog"])), len(set(colours_of("abcdefgh").values()))
    (['cat', 'dog'], 8)
    """
    chosen: dict[str, str] = {}
    for label in sorted(set(labels)):
        free = [colour for colour in COLOURS if colour not in chosen.values()] or COLOURS
        chosen[label] = free[int.from_bytes(hashlib.sha256(label.encode()).digest()[:2], "big") % len(free)]
    return chosen


def coco_polygons(found: ObjectOutline) -> list[list[float]]:
    """COCO's polygons of an object: `[x, y, x, y, ...]` in pixels, one for each outer ring.

    The format has no holes: what lies in one counts as the object's. `rle_of` keeps them.
    """
    return [[value for vertex in outline.outer.pixels for value in vertex] for outline in found.outlines]


def counts_of(found: ObjectOutline, *, width: int, height: int) -> list[int]:
    """COCO's run lengths of an object: pixels outside, inside, outside, ..., down the columns from the left.

    A pixel is inside where its centre is.

    Args:
        found: the object.
        width: the image's, in pixels.
        height: the same.

    Returns:
        Their sum is width * height; the first is 0 where the first pixel is inside.
    """
    ends = toggles(_rings(found.outlines), rows=height, columns=width)
    counts: list[int] = np.diff(np.concatenate([[0], ends, [width * height]])).tolist()
    # What ends with the last pixel has nothing after it.
    return counts[:-1] if counts[-1] == 0 else counts


def rle_of(found: ObjectOutline, *, width: int, height: int, compressed: bool = True) -> dict[str, Any]:
    """COCO's RLE of an object, holes included: `{"size": [height, width], "counts": ...}`.

    Args:
        found: the object.
        width: the image's, in pixels.
        height: the same.
        compressed: counts as COCO's text; else as a list of numbers.
    """
    counts = counts_of(found, width=width, height=height)
    return {"size": [height, width], "counts": compressed_counts(counts) if compressed else counts}


def compressed_counts(counts: Sequence[int]) -> str:
    """COCO's text for run lengths: differences to the run before the last, five bits a character.

    Source: `rleToString` in the COCO API's maskApi.c.

    >>> compressed_counts([6, 1, 40, 4, 5, 4, 5, 4, 21])
    '61X13mN000`0'
    """
    text = bytearray()
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text.append((bits | 0x20 if more else bits) + 48)
    return text.decode("ascii")


def coco_of(
    objects: Sequence[ObjectOutline],
    labels: Sequence[str],
    *,
    file_name: str,
    width: int,
    height: int,
    rle: bool,
    description: str,
) -> dict[str, Any]:
    """A COCO file of one image's objects.

    Args:
        objects: what was found.
        labels: all classes of the model, in their order: each is a category, so ids are the same in all its files.
        file_name: the image's.
        width: the image's, in pixels.
        height: the same.
        rle: masks as RLE, holes included; else as polygons, which have none.
        description: how the file was made.
    """
    categories = {label: number for number, label in enumerate(dict.fromkeys(labels), start=1)}
    annotations = []
    for number, found in enumerate(objects, start=1):
        left, top, right, bottom = _extent(found)
        segmentation: Any = rle_of(found, width=width, height=height) if rle else coco_polygons(found)
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": categories[found.label],
                "segmentation": segmentation,
                "area": round(_area(found, with_holes=rle), 2),
                "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                "iscrowd": 0,
                "score": found.score,
            }
        )
    return {
        "info": {"description": description},
        "licenses": [],
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in categories.items()],
    }


def svg_of(objects: Sequence[ObjectOutline], *, width: int, height: int) -> str:
    """The objects as an SVG drawing of the image's size, in pixels: it can be laid over the image.

    One path an object, with holes by the even-odd rule, and its label and score as text. Nothing else is in it: no
    script, no style sheet, no address.
    """
    text = max(8.0, _TEXT_PART * max(width, height))
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>']
    colours = colours_of(found.label for found in objects)
    for found in objects:
        path = " ".join(_path(ring) for outline in found.outlines for ring in (outline.outer, *outline.holes))
        name = escape(_printable(f"{found.label} {found.score:.0%}"))
        colour = colours[found.label]
        lines.append(
            f'  <path fill-rule="evenodd" fill="{colour}" fill-opacity="0.35" stroke="{colour}" '
            f'stroke-width="{text / 9:.2f}" stroke-linejoin="round" d="{path}"><title>{name}</title></path>'
        )
    for found in objects:
        x, y = found.box.left * width, found.box.top * height
        lines.append(
            f'  <text x="{x + 0.3 * text:.2f}" y="{max(y, 0) + 1.1 * text:.2f}" font-family="sans-serif" '
            f'font-size="{text:.2f}" fill="#fff" stroke="#1f2430" stroke-width="{text / 6:.2f}" '
            f'paint-order="stroke">{escape(_printable(f"{found.label} {found.score:.0%}"))}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _path(ring: Ring) -> str:
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in ring.pixels) + "Z"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _printable(text: str) -> str:
    """A label without the characters that no XML file may have."""
    return "".join(character for character in text if character.isprintable())


def _rings(outlines: Sequence[Outline]) -> Iterator[RingArray]:
    for outline in outlines:
        for ring in (outline.outer, *outline.holes):
            yield np.array(ring.pixels)


def _extent(found: ObjectOutline) -> tuple[float, float, float, float]:
    corners = np.concatenate(list(_rings(found.outlines)))
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return left, top, right, bottom


def _area(found: ObjectOutline, *, with_holes: bool) -> float:
    """In pixels of the image; the holes belong to it where the format has none."""
    outlines = [outline if with_holes else outline.model_copy(update={"holes": []}) for outline in found.outlines]
    area = 0.0
    for ring in _rings(outlines):
        x, y = ring.T
        # Holes go the other way around, so theirs is negative.
        area += float((x * (np.roll(y, 1) - np.roll(y, -1))).sum()) / 2
    return area
