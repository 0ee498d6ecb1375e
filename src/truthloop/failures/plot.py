"""One image as a picture: what was predicted beside what was annotated, and both on top of each other."""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from truthloop.failures.documents import (
    EdgesAnswer,
    FailureItem,
    FailuresState,
    ImageFailures,
    UnjudgedPrediction,
    escaped,
)
from truthloop.failures.kinds import Kind
from truthloop.models.documents import Pixels

INK, MUTED, CANVAS, GRID = "#1f2430", "#667085", "#f4f5f8", "#dfe3ea"
# Told apart without their colours, too: what was predicted is dashed, what was annotated isn't.
PREDICTED, ANNOTATED = "#c2501f", "#1d4fa8"
DASHED = (0, (4, 2))
WIDTH_INCHES, DOTS_PER_INCH = 13.0, 130
PANEL_INCHES, CROWD_PANEL_INCHES, LINE_INCHES, ENTRY_INCHES = 2.9, 3.85, 0.2, 0.62
# So many entries find room beside the panels; more stand under them, in columns.
BESIDE, COLUMNS = 4, 4
HEAD_INCHES, LEFT_INCHES, GAP_INCHES = 1.0, 0.4, 0.25
# More in one picture are not to be told apart; the others are in the answer.
MAX_VERSIONS, MAX_ITEMS = 4, 24
# A SHA-256 stands in the title as a whole; of longer ids the middle is left out.
MAX_TITLE = 72
# A number in a panel is so wide and so high.
NUMBER_INCHES = 0.19


@dataclass(frozen=True, slots=True)
class _Numbered:
    """An item, or a predicted box that nothing is compared with."""

    number: int
    predicted: EdgesAnswer | None
    annotated: EdgesAnswer | None
    item: FailureItem | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    """The boxes of one model version, numbered from 1."""

    version: str
    task: str | None  # None where nothing is compared with them
    numbered: list[_Numbered]
    verdict: str = ""


def draw(failures: ImageFailures, pixels: Pixels | None = None, *, synthetic: bool = False) -> bytes:
    """Draws each model version's boxes beside the annotated ones, then both, with pairs joined and deltas written.

    Predictions that nothing is compared with stand alone, with the verdict of their audits.

    The boxes lie on the image, in its shape. Where its pixels aren't there the canvas is plain and square;
    fractions of its width and height stand along the edges.

    Args:
        failures: of one image.
        pixels: the upright image, shape (height, width, 3), RGB; a small copy will do. None where there is none.
        synthetic: whether the workspace holds made-up sample data, which the picture says then.

    Returns:
        A PNG with a white ground, 1,690 pixels wide; its height follows the number of versions and of boxes.
    """
    rows = _rows(failures)
    heights = [_height(row.numbered) for row in rows]
    total = HEAD_INCHES + (sum(heights) if rows else 0.0) + 0.55
    figure = Figure(figsize=(WIDTH_INCHES, total), dpi=DOTS_PER_INCH, facecolor="white")
    _heading(figure, failures, total)
    if synthetic:
        figure.text(
            1 - LEFT_INCHES / WIDTH_INCHES,
            1 - 0.42 / total,
            "SYNTHETIC SAMPLE DATA",
            size=9,
            weight="bold",
            color="#9a3412",
            ha="right",
            va="center",
            bbox={"boxstyle": "round,pad=0.45", "facecolor": "#ffedd5", "edgecolor": "none"},
        )
    top = HEAD_INCHES
    limits = _limits([each for row in rows for each in row.numbered])
    for row, height in zip(rows, heights, strict=True):
        _row(figure, row, top, total, limits, pixels)
        top += height
    _foot(figure, failures, rows, total, is_plain=pixels is None)
    out = io.BytesIO()
    with warnings.catch_warnings():
        # A box stands for a letter that the font lacks, which is seen well enough.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(out, format="png", metadata={"Software": "Truthloop"})
    return out.getvalue()


def _rows(failures: ImageFailures) -> list[_Row]:
    """The boxes of each version, in the order of the answer."""
    rows: dict[str, _Row] = {}
    for item in failures.items:
        row = rows.setdefault(item.model_version, _Row(item.model_version, item.task_version, []))
        row.numbered.append(_Numbered(len(row.numbered) + 1, item.predicted, item.annotated, item))
    alone = [_unjudged(prediction) for prediction in failures.predictions]
    return [*rows.values(), *alone][:MAX_VERSIONS]


def _unjudged(prediction: UnjudgedPrediction) -> _Row:
    verdict = {True: "audited as correct", False: "audited as incorrect", None: "no verdict"}[prediction.verdict]
    numbered = [_Numbered(number, box, None) for number, box in enumerate(prediction.boxes, 1)]
    return _Row(prediction.model_version, None, numbered, verdict)


def _is_crowd(numbered: Sequence[_Numbered]) -> bool:
    """Whether so much is to be said of the boxes that it stands under the panels, and these may be larger."""
    return len(numbered) > BESIDE


def _height(numbered: Sequence[_Numbered]) -> float:
    """Of a row: titles, panels with their scale, and under a crowd its legend."""
    if not _is_crowd(numbered):
        return 0.35 + PANEL_INCHES + 0.6
    return 0.35 + CROWD_PANEL_INCHES + 0.4 + _deep(numbered) * ENTRY_INCHES + 0.45


def _deep(numbered: Sequence[_Numbered]) -> int:
    """How many entries stand under each other in the legend of a crowd."""
    return -(-min(len(numbered), MAX_ITEMS) // COLUMNS)


def _limits(numbered: Sequence[_Numbered]) -> tuple[float, float]:
    """The canvas's ends: the image, and so much more that boxes reaching over its edge are seen."""
    sides = [
        value
        for each in numbered
        for edges in (each.predicted, each.annotated)
        if edges is not None
        for value in (edges.left, edges.top, edges.right, edges.bottom)
    ]
    # Somebody's boxes may be in pixels; then the image would be a dot.
    low, high = max(min([0.0, *sides]), -0.5), min(max([1.0, *sides]), 1.5)
    return low - 0.02, high + 0.02


def _heading(figure: Figure, failures: ImageFailures, total: float) -> None:
    title = _without_middle(escaped(failures.image_id), MAX_TITLE)
    figure.text(
        LEFT_INCHES / WIDTH_INCHES,
        1 - 0.42 / total,
        title,
        size=16 * 60 / max(60, len(title)),
        weight="bold",
        color=INK,
        va="center",
        parse_math=False,
    )
    match failures.state:
        case FailuresState.NOT_PREDICTED:
            text = "Not predicted: there is no prediction to compare."
        case FailuresState.NOT_ANNOTATED:
            text = "Not annotated: no person has drawn boxes, so there is nothing to compare the predictions with."
        case _ if failures.predictions:
            text = "Its annotation can't be used, so there is nothing to compare the predictions with."
        case _ if not failures.items:
            text = "No boxes to compare."
        case _:
            text = "Predicted against annotated  ·  numbers join pairs  ·  a delta is annotated minus predicted"
    figure.text(LEFT_INCHES / WIDTH_INCHES, 1 - 0.76 / total, text, size=10, color=MUTED, va="center")


def _row(
    figure: Figure,
    row: _Row,
    top: float,
    total: float,
    limits: tuple[float, float],
    pixels: Pixels | None,
) -> None:
    numbered = row.numbered
    panels = [(f"Predicted by model {_shortened(escaped(row.version), 14)}", True, False)]
    if row.task is not None:
        panels += [(f"Annotated, task {_shortened(escaped(row.task), 14)}", False, True), ("Both", True, True)]
    side = CROWD_PANEL_INCHES if _is_crowd(numbered) else PANEL_INCHES
    for place, (title, with_predicted, with_annotated) in enumerate(panels):
        left = LEFT_INCHES + 0.15 + place * (side + GAP_INCHES)
        axes = figure.add_axes(
            (left / WIDTH_INCHES, 1 - (top + 0.35 + side) / total, side / WIDTH_INCHES, side / total)
        )
        _canvas(axes, title, limits, pixels, with_scale=place == 0)
        # What a number takes of the panel, whose shape is the image's.
        height, width = (1, 1) if pixels is None else pixels.shape[:2]
        longer = max(height, width)
        number = NUMBER_INCHES / side * longer / width, NUMBER_INCHES / side * longer / height
        _boxes(axes, numbered, number, with_predicted=with_predicted, with_annotated=with_annotated)
    if row.task is None:
        _write(figure, LEFT_INCHES + 0.15 + side + GAP_INCHES, top + 0.1, total, _unjudged_text(row), colour=MUTED)
    _legend(figure, numbered, len(panels), top, total)


def _unjudged_text(row: _Row) -> str:
    number = len(row.numbered)
    return f"{number or 'no'} {'box' if number == 1 else 'boxes'}, {row.verdict}"


def _canvas(
    axes: Axes, title: str, limits: tuple[float, float], pixels: Pixels | None, *, with_scale: bool
) -> None:
    if pixels is not None:
        axes.imshow(pixels, extent=(0, 1, 1, 0), aspect="auto", zorder=0)
        axes.set_aspect(pixels.shape[0] / pixels.shape[1], adjustable="box", anchor="NW")
    axes.set_title(title, size=10.5, weight="bold", color=INK, loc="left", pad=7, parse_math=False)
    axes.set_xlim(*limits)
    axes.set_ylim(limits[1], limits[0])  # y grows downwards
    axes.set_facecolor("white")
    if pixels is None:
        axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=CANVAS, edgecolor=MUTED, linewidth=0.8, zorder=0))
        for value in (0.25, 0.5, 0.75):
            axes.plot([value, value], [0, 1], color=GRID, linewidth=0.8, zorder=0.5)
            axes.plot([0, 1], [value, value], color=GRID, linewidth=0.8, zorder=0.5)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if with_scale else [""] * 3)
    axes.tick_params(length=0, labelsize=8, colors=MUTED)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _boxes(
    axes: Axes,
    numbered: Sequence[_Numbered],
    number: tuple[float, float],
    *,
    with_predicted: bool,
    with_annotated: bool,
) -> None:
    both = with_predicted and with_annotated
    anchors: list[tuple[int, EdgesAnswer, str]] = []
    for each in numbered:
        predicted, annotated = each.predicted, each.annotated
        if with_annotated and annotated is not None:
            axes.add_patch(_rectangle(annotated, ANNOTATED, dashed=False))
        if with_predicted and predicted is not None:
            axes.add_patch(_rectangle(predicted, PREDICTED, dashed=True))
        if both and predicted is not None and annotated is not None:
            one, other = _middle(predicted), _middle(annotated)
            line = {"color": INK, "linewidth": 1.1, "linestyle": ":", "marker": ".", "markersize": 4, "zorder": 4}
            axes.plot([one[0], other[0]], [one[1], other[1]], **line)  # type: ignore[arg-type]
        shown = annotated if with_annotated and annotated is not None else predicted if with_predicted else None
        if shown is not None:
            anchors.append((each.number, shown, ANNOTATED if shown is annotated else PREDICTED))
        is_unrelated = each.item is not None and each.item.kind is Kind.UNRELATED
        if both and is_unrelated and predicted is not None:  # they lie apart
            anchors.append((each.number, predicted, PREDICTED))
    low, high = axes.get_xlim()
    taken: list[tuple[float, float]] = []
    for name, edges, colour in anchors:
        x, y = next(_places(edges, taken, low, high, number))
        taken.append((x, y))
        axes.text(
            x,
            y,
            str(name),
            size=8.5,
            weight="bold",
            color="white",
            ha="center",
            va="center",
            zorder=6,
            bbox={"boxstyle": "round,pad=0.22", "facecolor": colour, "edgecolor": "white", "linewidth": 0.8},
        )


def _rectangle(edges: EdgesAnswer, colour: str, *, dashed: bool) -> Rectangle:
    return Rectangle(
        (edges.left, edges.top),
        edges.right - edges.left,
        edges.bottom - edges.top,
        fill=False,
        edgecolor=colour,
        linewidth=1.8,
        linestyle=DASHED if dashed else "-",
        zorder=3 if dashed else 2,
    )


def _middle(edges: EdgesAnswer) -> tuple[float, float]:
    return (edges.left + edges.right) / 2, (edges.top + edges.bottom) / 2


def _places(
    edges: EdgesAnswer,
    taken: Sequence[tuple[float, float]],
    low: float,
    high: float,
    number: tuple[float, float],
) -> Iterator[tuple[float, float]]:
    """Where the number of a box may stand, the best place first: at a corner, outside, where no other one is.

    `low` and `high` are the panel's ends, `number` the parts of the panel's width and height that a number takes.
    """
    wide, tall = (part * (high - low) for part in number)
    corners = [
        (edges.left + wide / 2, edges.top - tall / 2),
        (edges.right - wide / 2, edges.top - tall / 2),
        (edges.left + wide / 2, edges.bottom + tall / 2),
        (edges.right - wide / 2, edges.bottom + tall / 2),
        (edges.left + wide / 2, edges.top + tall / 2),
        (edges.right - wide / 2, edges.bottom - tall / 2),
    ]
    for step, (x, y) in product(range(12), corners):
        at = x + step * wide, y
        inside = all(
            low + side / 2 <= value <= high - side / 2 for value, side in zip(at, (wide, tall), strict=True)
        )
        if inside and all(abs(at[0] - x0) >= wide or abs(at[1] - y0) >= tall for x0, y0 in taken):
            yield at
    # A crowd, or a box far outside: on the canvas in any case.
    x, y = corners[0]
    yield min(max(x, low + wide / 2), high - wide / 2), min(max(y, low + tall / 2), high - tall / 2)


def _legend(figure: Figure, numbered: Sequence[_Numbered], panels: int, top: float, total: float) -> None:
    """What each number is, and how far its edges were moved: beside the panels, or under them for a crowd."""
    shown = numbered[:MAX_ITEMS]
    if _is_crowd(numbered):
        top += 0.35 + CROWD_PANEL_INCHES + 0.4
        for place, each in enumerate(shown):
            column, row = divmod(place, _deep(numbered))
            _entry(figure, each, LEFT_INCHES + 0.15 + column * 3.05, top + row * ENTRY_INCHES, total)
        top += _deep(numbered) * ENTRY_INCHES
        if len(numbered) > MAX_ITEMS:
            text = f"and {len(numbered) - MAX_ITEMS} more, which `truthloop failures` lists"
            _write(figure, LEFT_INCHES + 0.15, top, total, text, colour=MUTED)
        return
    left = LEFT_INCHES + 0.15 + panels * (PANEL_INCHES + GAP_INCHES) + (0.05 if panels > 1 else 0.0)
    for place, each in enumerate(shown):
        _entry(figure, each, left, top + 0.37 + place * ENTRY_INCHES, total)


def _entry(figure: Figure, each: _Numbered, left: float, top: float, total: float) -> None:
    item, second, third = each.item, top + LINE_INCHES, top + 1.85 * LINE_INCHES
    _write(figure, left, top, total, str(each.number), bold=True)
    if item is None:
        assert each.predicted is not None  # it is a prediction's
        _write(figure, left + 0.28, top, total, f"left {each.predicted.left:g}", colour=MUTED)
        _write(figure, left + 1.4, top, total, f"top {each.predicted.top:g}", colour=MUTED)
        _write(figure, left + 0.28, second, total, f"right {each.predicted.right:g}", colour=MUTED)
        _write(figure, left + 1.4, second, total, f"bottom {each.predicted.bottom:g}", colour=MUTED)
        return
    _write(figure, left + 0.28, top, total, str(item.kind), bold=True)
    if item.delta is None:
        _write(figure, left + 0.28, second, total, _ALONE[item.kind], colour=MUTED)
        return
    _write(figure, left + 1.4, top, total, f"IoU {item.iou:.3f}")
    _write(figure, left + 0.28, second, total, f"left {_signed(item.delta.left)}", colour=MUTED)
    _write(figure, left + 1.4, second, total, f"top {_signed(item.delta.top)}", colour=MUTED)
    _write(figure, left + 0.28, third, total, f"right {_signed(item.delta.right)}", colour=MUTED)
    _write(figure, left + 1.4, third, total, f"bottom {_signed(item.delta.bottom)}", colour=MUTED)


def _write(
    figure: Figure, left: float, top: float, total: float, text: str, *, bold: bool = False, colour: str = INK
) -> None:
    """Text at so many inches from the left and the top of a figure that is `total` inches high."""
    figure.text(
        left / WIDTH_INCHES,
        1 - top / total,
        text,
        size=10,
        weight="bold" if bold else "normal",
        color=colour,
        va="top",
        parse_math=False,
    )


_ALONE = {
    Kind.MISSED: "annotated, not predicted",
    Kind.SPURIOUS: "predicted, not annotated",
    Kind.DUPLICATE: "predicted twice",
}


def _signed(value: float) -> str:
    """As the terminal's table has it: three places, or four where there are more."""
    return f"{round(value, 4) + 0.0:+.4f}".removesuffix("0").replace("-", "\N{MINUS SIGN}")


def _foot(figure: Figure, failures: ImageFailures, rows: Sequence[_Row], total: float, *, is_plain: bool) -> None:
    y = 1 - (total - 0.3) / total
    x = LEFT_INCHES / WIDTH_INCHES
    if rows:
        samples = [("predicted", PREDICTED, True, 1.25)]
        if failures.items:
            samples.append(("annotated", ANNOTATED, False, 1.3))
        for text, colour, dashed, width in samples:
            line = Rectangle(
                (x, y - 0.04 / total),
                0.35 / WIDTH_INCHES,
                0.13 / total,
                transform=figure.transFigure,
                fill=False,
                edgecolor=colour,
                linewidth=1.8,
                linestyle=DASHED if dashed else "-",
            )
            figure.add_artist(line)
            figure.text(x + 0.45 / WIDTH_INCHES, y + 0.025 / total, text, size=9, color=INK, va="center")
            x += width / WIDTH_INCHES
        x += 0.1 / WIDTH_INCHES
    notes = (
        ["The grey square is the image, from 0 to 1 both ways; its pixels aren't here."]
        if rows and is_plain
        else []
    )
    versions = {item.model_version for item in failures.items}
    versions |= {prediction.model_version for prediction in failures.predictions}
    left_out = len(versions) - MAX_VERSIONS
    if left_out > 0:
        notes.append(f"{left_out} older model versions aren't shown.")
    if failures.invalid:
        number = len(failures.invalid)
        notes.append(f"{number} {'box' if number == 1 else 'boxes'} without an area or unreadable: not compared.")
    figure.text(x, y + 0.025 / total, "  ".join(notes), size=9, color=MUTED, va="center")


def _without_middle(text: str, length: int) -> str:
    """The text, or its two ends: of ids that are alike in one of them the other tells them apart."""
    end = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - end]}…{text[-end:]}"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
