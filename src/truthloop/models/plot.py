"""A prediction drawn on its image."""

import importlib.util
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from truthloop.contours import fractions_of
from truthloop.models.documents import Boxes, ClassMap, Labels, Pixels, Prediction, ScoredBox

# The longer side of a drawn image, in pixels: a smaller one is enlarged for its writing to be read.
MIN_SIDE, MAX_SIDE = 960, 1600
# The narrowest picture that its legend fits into.
MIN_WIDTH = 360
INK, MUTED, GROUND, TRACK = "#1f2430", "#667085", "#ffffff", "#e6e9ef"
# Told apart also by those who don't see red and green (after Okabe and Ito), and bright enough for photographs.
COLOURS = (
    "#e69f00",
    "#56b4e9",
    "#cc79a7",
    "#00b383",
    "#f0e442",
    "#d55e00",
    "#4f8fe0",
    "#b39ddb",
    "#9be37a",
    "#ff8a80",
)
# With more boxes the tags would hide the image: then a tag says only the score, and small boxes have none.
CROWD = 12
MASK_OPACITY = 0.5


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the legend: a colour, its label and a remark in muted ink."""

    colour: str
    label: str
    remark: str


def draw(image: Pixels, prediction: Prediction) -> bytes:
    """Draws what a model says of an image on it, with a legend below.

    Args:
        image: shape (height, width, 3), RGB, upright, of any size.
        prediction: what the model says of it.

    Returns:
        A PNG. The image in it has between 960 and 1,600 pixels on its longer side.
    """
    picture = _scaled(image)
    size = _text_size(picture)
    match prediction:
        case Labels():
            legend = _bars(prediction, _panel_width(picture), size)
        case Boxes():
            _draw_boxes(picture, prediction.boxes, size)
            legend = _legend(_box_entries(prediction.boxes), "No boxes found", _panel_width(picture), size)
        case ClassMap():
            picture = _tinted(picture, prediction)
            legend = _legend(_class_entries(prediction), "Background only", _panel_width(picture), size)
    out = io.BytesIO()
    _stacked(picture, legend).save(out, format="PNG", compress_level=4)
    return out.getvalue()


def _scaled(image: Pixels) -> Image.Image:
    high, wide = image.shape[:2]
    longer = max(high, wide)
    scale = min(max(longer, MIN_SIDE), MAX_SIDE) / longer
    if scale != 1:
        size = max(1, round(wide * scale)), max(1, round(high * scale))
        image = np.asarray(
            cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), np.uint8
        )
    return Image.fromarray(image)


def _text_size(picture: Image.Image) -> int:
    area: int = picture.width * picture.height
    return round(min(max(math.sqrt(area) / 46, 14), 26))


def _panel_width(picture: Image.Image) -> int:
    return max(picture.width, MIN_WIDTH)


def _stacked(picture: Image.Image, panel: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (panel.width, picture.height + panel.height), GROUND)
    whole.paste(picture, ((panel.width - picture.width) // 2, 0))
    whole.paste(panel, (0, picture.height))
    return whole


def _draw_boxes(picture: Image.Image, boxes: Sequence[ScoredBox], size: int) -> None:
    pen = ImageDraw.Draw(picture)
    colours = _colours([box.label for box in boxes])
    is_crowd = len(boxes) > CROWD
    line = max(2, size // (10 if is_crowd else 7))
    frames = [_frame(box, picture) for box in boxes]
    # The surest last, so that they lie on top.
    for box, (left, top, right, bottom) in reversed(list(zip(boxes, frames, strict=True))):
        # A dark rim on both sides keeps the line apart from any ground.
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=INK, width=line + 2)
        pen.rectangle((left, top, right, bottom), outline=colours[box.label], width=line)
    taken: list[tuple[int, int, int, int]] = []
    font = _font(round(size * 0.8) if is_crowd else size)
    for box, frame in zip(boxes, frames, strict=True):
        text = f"{box.score:.2f}" if is_crowd else f"{_shortened(box.label, 32)} {box.score:.2f}"
        place = _tag_place(frame, _extent(font, text), picture, taken, must=not is_crowd)
        if place is None:
            continue
        taken.append(place)
        pen.rectangle(place, fill=colours[box.label], outline=INK)
        middle = place[1] + (place[3] - place[1]) / 2
        pen.text((place[0] + 4, middle), text, fill=INK, font=font, anchor="lm")


def _frame(box: ScoredBox, picture: Image.Image) -> tuple[int, int, int, int]:
    """The box in pixels of the picture, at least three wide and high so that it can be seen."""
    left, right = round(box.left * picture.width), round(box.right * picture.width)
    top, bottom = round(box.top * picture.height), round(box.bottom * picture.height)
    return left, top, max(left + 2, right - 1), max(top + 2, bottom - 1)


def _tag_place(
    frame: tuple[int, int, int, int],
    extent: tuple[int, int],
    picture: Image.Image,
    taken: Sequence[tuple[int, int, int, int]],
    *,
    must: bool,
) -> tuple[int, int, int, int] | None:
    """Where a box's tag goes: above it, else below it, else within; where it hides no other tag, if it can."""
    wide, high = extent[0] + 8, extent[1] + 6
    left, top, right, bottom = frame
    if not must and wide > 2 * (right - left):
        return None
    across = max(0, min(left, picture.width - wide - 1))
    places = [
        (across, edge, across + wide, edge + high)
        for edge in (top - high, bottom, top, bottom - high)
        if edge >= 0 and edge + high < picture.height
    ]
    for place in places:
        if not any(_overlap(place, other) for other in taken):
            return place
    return places[0] if must and places else None


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _box_entries(boxes: Sequence[ScoredBox]) -> list[_Entry]:
    labels = [box.label for box in boxes]
    colours = _colours(labels)
    entries = []
    for label, number in Counter(labels).most_common():
        scores = [box.score for box in boxes if box.label == label]
        span = f"{min(scores):.2f}" if number == 1 else f"{min(scores):.2f} to {max(scores):.2f}"
        entries.append(_Entry(colours[label], label, span if number == 1 else f"{number} ×, {span}"))
    return entries


def _tinted(picture: Image.Image, prediction: ClassMap) -> Image.Image:
    """The image with each class in its colour and a line around it; background is darkened a little."""
    present = [value for value in np.unique(prediction.classes).tolist() if value]
    colours = _class_colours(prediction)
    pixels = np.asarray(picture, np.float32)
    tinted = pixels * 0.8
    edges = np.zeros(pixels.shape[:2], bool)
    for value in present:
        # Between cells it goes over smoothly; the outlines in the answer are the cells' own.
        mask = (prediction.classes == value).astype(np.float32)
        mask = np.asarray(cv2.resize(mask, picture.size, interpolation=cv2.INTER_LINEAR), np.float32)
        inside = (mask >= 0.5).astype(np.uint8)
        colour = np.array(_rgb(colours[value]), np.float32)
        share = np.where(inside[:, :, None] == 1, MASK_OPACITY, 0).astype(np.float32)
        tinted = np.where(share > 0, pixels * (1 - share) + colour * share, tinted)
        thick = max(2, round(max(picture.size) / 400))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thick + 1, 2 * thick + 1))
        # Its inner rim; at the image's own edge there is none.
        rim = (inside == 1) & (cv2.erode(inside, kernel, borderType=cv2.BORDER_REPLICATE) == 0)
        edges |= rim
    tinted[edges] = 255
    return Image.fromarray(np.clip(np.rint(tinted), 0, 255).astype(np.uint8))


def _class_entries(prediction: ClassMap) -> list[_Entry]:
    colours = _class_colours(prediction)
    values = {label: value for value, label in enumerate(prediction.labels, start=1)}
    return [
        _Entry(colours[values[label]], label, f"{100 * fraction:.1f} %")
        for label, fraction in fractions_of(prediction.classes, prediction.labels)
    ]


def _class_colours(prediction: ClassMap) -> dict[int, str]:
    present = [value for value in np.unique(prediction.classes).tolist() if value]
    return {value: COLOURS[index % len(COLOURS)] for index, value in enumerate(present)}


def _colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label, in the order of their coming."""
    return {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(dict.fromkeys(labels))}


def _bars(prediction: Labels, width: int, size: int) -> Image.Image:
    """The labels with a bar for each score."""
    if not prediction.labels:
        return _legend([], "No label found", width, size)
    font, pad = _font(size), size
    row = round(size * 2.3)
    panel = Image.new("RGB", (width, pad + row * len(prediction.labels)), GROUND)
    pen = ImageDraw.Draw(panel)
    number = _extent(font, "0.000")[0]
    for index, label in enumerate(prediction.labels):
        top = pad // 2 + index * row
        text = _fitting(font, label.label, width - 3 * pad - number)
        pen.text((pad, top + row * 0.36), text, fill=INK, font=font, anchor="lm")
        pen.text((width - pad, top + row * 0.36), f"{label.score:.3f}", fill=INK, font=font, anchor="rm")
        bar = top + round(row * 0.72)
        thick = max(4, size // 3)
        pen.rectangle((pad, bar, width - pad, bar + thick), fill=TRACK)
        end = pad + round((width - 2 * pad) * label.score)
        if end > pad:
            pen.rectangle((pad, bar, end, bar + thick), fill=COLOURS[6])
    return panel


def _legend(entries: Sequence[_Entry], empty: str, width: int, size: int) -> Image.Image:
    """The entries one after the other, in as many lines as they need."""
    font, pad = _font(size), size
    row = round(size * 1.8)
    if not entries:
        panel = Image.new("RGB", (width, row + pad), GROUND)
        ImageDraw.Draw(panel).text((pad, (row + pad) / 2), empty, fill=MUTED, font=font, anchor="lm")
        return panel
    lines = list(_flowed(entries, font, width - 2 * pad, size))
    panel = Image.new("RGB", (width, row * len(lines) + pad), GROUND)
    pen = ImageDraw.Draw(panel)
    for number, line in enumerate(lines):
        middle = pad / 2 + row * (number + 0.5)
        for across, entry in line:
            left = pad + across
            half = round(size * 0.4)
            pen.rectangle((left, middle - half, left + 2 * half, middle + half), fill=entry.colour, outline=INK)
            left += 2 * half + size // 2
            room = width - pad - left
            label = _fitting(font, entry.label, room)
            pen.text((left, middle), label, fill=INK, font=font, anchor="lm")
            left += _extent(font, label)[0] + size // 2
            remark = _fitting(font, entry.remark, width - pad - left)
            pen.text((left, middle), remark, fill=MUTED, font=font, anchor="lm")
    return panel


def _flowed(
    entries: Sequence[_Entry], font: ImageFont.FreeTypeFont, width: int, size: int
) -> Iterator[list[tuple[int, _Entry]]]:
    """Lines of entries, each with its distance from the left."""
    line: list[tuple[int, _Entry]] = []
    across = 0
    for entry in entries:
        wide = 2 * round(size * 0.4) + size + _extent(font, entry.label)[0] + _extent(font, entry.remark)[0]
        if line and across + wide > width:
            yield line
            line, across = [], 0
        line.append((across, entry))
        across += wide + 2 * size
    if line:
        yield line


def _fitting(font: ImageFont.FreeTypeFont, text: str, width: int) -> str:
    """The text, cut off where it is too long."""
    if _extent(font, text)[0] <= width:
        return text
    while text and _extent(font, text + "…")[0] > width:
        text = text[:-1]
    return text + "…" if text else ""


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _extent(font: ImageFont.FreeTypeFont, text: str) -> tuple[int, int]:
    """Width and height of a line of text, the same height for all texts."""
    ascent, descent = font.getmetrics()
    return round(font.getlength(text)), ascent + descent


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that Matplotlib carries; it is not imported for it, which would take long."""
    found = importlib.util.find_spec("matplotlib")
    assert found is not None  # a dependency of ours
    assert found.origin is not None
    path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size)
