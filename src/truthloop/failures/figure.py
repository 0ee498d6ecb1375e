"""The summary as a picture for a report."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from truthloop.failures.documents import FailureSummary, KindCounts, VersionFailures, escaped

INK, MUTED, TRACK, GRID = "#1f2430", "#667085", "#eceef2", "#d5d9e0"
# Dark, light, middle, so that neighbours differ in grey, too; they stand in the legend's order, with numbers.
MATCH, MISPLACED, MISSED, SPURIOUS, DUPLICATE = "#0f6b52", "#f0cf74", "#de7355", "#a488dc", "#e0d7f3"
VERSIONS = ("#1d4fa8", "#d9643a", "#1f9d76", "#7a4fc4")
MARKERS = ("o", "s", "D", "^")
LINES = ("-", "--", "-.", ":")
# More versions than this make a picture that no one reads; the newest are shown.
MAX_VERSIONS = len(VERSIONS)
WIDTH_INCHES, DOTS_PER_INCH = 9.0, 160
# Both columns: how far from the left they begin, and how wide they are, in inches; and their rows' names.
LEFT, RIGHT, NAMES = (1.75, 2.95), (5.35, 2.95), -(1.75 - 0.315) / 2.95
# A share that is narrower than this has no room for its number.
NARROW = 0.055


def draw(summary: FailureSummary) -> bytes:
    """Draws what became of the boxes, by version and size, the IoU of pairs, and how far people moved each edge.

    Returns:
        A PNG with a white ground, 1,440 pixels wide; its height follows the number of versions.
    """
    versions = summary.model_versions[:MAX_VERSIONS]
    rows = max(len(versions), 1)
    bars = 0.55 + 0.62 * rows
    sizes = 0.3 + 0.95 * rows
    below = 2.7
    top = 1.45 if summary.synthetic else 1.15
    height = top + bars + 0.35 + sizes + 0.45 + below + 1.0
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, facecolor="white")

    def axes(left: float, width: float, top: float, tall: float) -> Axes:
        """At so many inches from the left and from the top."""
        return figure.add_axes(
            (left / WIDTH_INCHES, 1 - (top + tall) / height, width / WIDTH_INCHES, tall / height)
        )

    _heading(figure, summary, height)
    if versions:
        _boxes(axes(*LEFT, top + 0.45, bars - 0.55), axes(*RIGHT, top + 0.45, bars - 0.55), versions)
        top += bars + 0.35
        _sizes(axes(*LEFT, top + 0.2, sizes - 0.3), axes(*RIGHT, top + 0.2, sizes - 0.3), versions)
        top += sizes + 0.45
        _overlap(axes(*LEFT, top + 0.4, below - 0.85), versions)
        _shifts(axes(RIGHT[0] + 0.35, RIGHT[1] - 0.35, top + 0.4, below - 0.85), versions)
    _foot(figure, summary, height)
    out = io.BytesIO()
    with warnings.catch_warnings():
        # A box stands for a letter that the font lacks, which is seen well enough.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(out, format="png", metadata={"Software": "Truthloop"})
    return out.getvalue()


def _heading(figure: Figure, summary: FailureSummary, height: float) -> None:
    compared = f"{summary.compared:,} images, predicted against annotated"
    figure.text(0.035, 1 - 0.4 / height, compared, size=17, weight="bold", color=INK, va="center")
    by_these = "" if not summary.asked else f" by {_asked(summary.asked)}"
    left_out = (
        f"Of {summary.images:,} images  ·  {summary.not_annotated:,} not annotated  ·  "
        f"{summary.not_predicted:,} not predicted{by_these}"
    )
    if summary.refused.count:
        left_out += f"  ·  {summary.refused.count:,} that can't be used"
    figure.text(0.035, 1 - 0.72 / height, left_out, size=9, color=MUTED, va="center", parse_math=False)
    if summary.synthetic:
        figure.text(
            0.045,
            1 - 1.08 / height,
            "SYNTHETIC SAMPLE DATA",
            size=9,
            weight="bold",
            color="#9a3412",
            va="center",
            bbox={"boxstyle": "round,pad=0.45", "facecolor": "#ffedd5", "edgecolor": "none"},
        )
    if not summary.model_versions:
        figure.text(0.035, 1 - 1.3 / height, "There is nothing to compare.", size=11, color=INK, va="center")


def _asked(versions: Sequence[str]) -> str:
    named = ", ".join(map(_short, versions[:3]))
    return f"model {named}" if len(versions) <= 3 else f"model {named} or {len(versions) - 3} others"


def _annotated(counts: KindCounts) -> list[tuple[int, str]]:
    return [(counts.match, MATCH), (counts.misplaced, MISPLACED), (counts.missed, MISSED)]


def _predicted(counts: KindCounts) -> list[tuple[int, str]]:
    return [
        (counts.match, MATCH),
        (counts.misplaced, MISPLACED),
        (counts.spurious, SPURIOUS),
        (counts.duplicate, DUPLICATE),
    ]


_NAMES = {
    MATCH: "match",
    MISPLACED: "misplaced",
    MISSED: "missed",
    SPURIOUS: "spurious",
    DUPLICATE: "duplicate",
}


def _boxes(left: Axes, right: Axes, versions: Sequence[VersionFailures]) -> None:
    _bars(left, [_annotated(version.counts) for version in versions], "Annotated boxes: were they found?")
    _bars(right, [_predicted(version.counts) for version in versions], "Predicted boxes: are they right?")
    for y, version in enumerate(versions):
        _version(left, y, version)


def _version(axes: Axes, y: float, version: VersionFailures) -> None:
    axes.text(NAMES, y - 0.12, _short(version.model_version), size=10, weight="bold", color=INK, va="center")
    axes.text(NAMES, y + 0.25, f"{version.images:,} images", size=8, color=MUTED, va="center")


def _sizes(left: Axes, right: Axes, versions: Sequence[VersionFailures]) -> None:
    rows = [size for version in versions for size in version.sizes]
    places = [y + 0.35 * (y // 3) for y in range(len(rows))]
    _bars(left, [_annotated(row.counts) for row in rows], "The same by size of the box", places)
    _bars(right, [_predicted(row.counts) for row in rows], "", places)
    for y, row in zip(places, rows, strict=True):
        left.text(-0.03, y, row.size, size=8.5, color=INK, va="center", ha="right")
    for place, version in zip(places[::3], versions, strict=True):
        left.text(NAMES, place, _short(version.model_version), size=9.5, weight="bold", color=INK, va="center")


def _bars(
    axes: Axes, rows: Sequence[Sequence[tuple[int, str]]], title: str, places: Sequence[float] | None = None
) -> None:
    """Shares as one bar a row, with a legend in the order of the parts."""
    ys = range(len(rows)) if places is None else places
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(max(ys) + 0.5, -0.5)
    for y, parts in zip(ys, rows, strict=True):
        total = sum(number for number, _ in parts)
        axes.barh(y, 1, height=0.62, color=TRACK)
        left = 0.0
        for number, colour in parts:
            width = number / total if total else 0.0
            axes.barh(y, width, left=left, height=0.62, color=colour, edgecolor="white", linewidth=0.8)
            if width > NARROW:
                axes.text(
                    left + width / 2,
                    y,
                    f"{number:,}",
                    size=8.5,
                    color="white" if colour == MATCH else INK,
                    ha="center",
                    va="center",
                )
            left += width
        axes.text(1.02, y, f"{total:,}", size=8.5, color=MUTED, va="center", clip_on=False)
    has_legend = bool(title) and places is None
    over = 24 if has_legend else 9
    axes.annotate(title, (0, 1), (0, over), "axes fraction", "offset points", size=10.5, weight="bold", color=INK)
    if has_legend:
        x = 0.0
        for place, (number, colour) in enumerate(rows[0]):
            if not number and not any(row[place][0] for row in rows):
                continue  # no bar has it
            axes.annotate("■", (0, 1), (x, 6), "axes fraction", "offset points", size=9, color=colour)
            name = _NAMES[colour]
            axes.annotate(name, (0, 1), (x + 11, 6), "axes fraction", "offset points", size=8.5, color=INK)
            x += 19 + 5.3 * len(name)


def _overlap(axes: Axes, versions: Sequence[VersionFailures]) -> None:
    """The share of pairs by IoU, as a line a version."""
    axes.set_title("IoU of pairs", size=10.5, weight="bold", color=INK, loc="left", pad=20)
    for version, colour, line in zip(versions, VERSIONS, LINES, strict=False):
        counts = np.array(version.iou.histogram.counts, dtype=float)
        if not counts.sum():
            continue
        axes.stairs(
            100 * counts / counts.sum(),
            version.iou.histogram.edges,
            color=colour,
            linestyle=line,
            linewidth=1.6,
            label=_short(version.model_version),
        )
    axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    beside = ("data", "axes fraction")
    axes.annotate("match from 0.5", (0.5, 1), (4, -7), beside, "offset points", size=8, color=MUTED)
    axes.set_ylabel("% of pairs", size=8.5, color=MUTED)
    _legend(axes, bbox_to_anchor=(0.31, 0.98), handlelength=2.6)
    _plain(axes)


def _shifts(axes: Axes, versions: Sequence[VersionFailures]) -> None:
    """How far people moved each edge: the median with its interval, a marker a version."""
    axes.set_title("How far people moved each edge", size=10.5, weight="bold", color=INK, loc="left", pad=20)
    shown = len(versions)
    reach = 0.1
    for place, (version, colour, marker) in enumerate(zip(versions, VERSIONS, MARKERS, strict=False)):
        for y, edge in enumerate(version.edges):
            if edge.quantiles is None:
                continue
            median, low, high = edge.quantiles.median, edge.low, edge.high
            at = y + (place - (shown - 1) / 2) * 0.22
            if low is not None and high is not None:
                axes.plot([100 * low, 100 * high], [at, at], color=colour, linewidth=1.8, solid_capstyle="butt")
                reach = max(reach, abs(100 * low), abs(100 * high))
            axes.plot(
                100 * median,
                at,
                marker=marker,
                markersize=6,
                color=colour,
                # Filled where the shift is systematic, so that it shows without reading the scale.
                markerfacecolor=colour if edge.is_shifted else "white",
                linestyle="none",
                label=_short(version.model_version) if y == 0 else None,
            )
            reach = max(reach, abs(100 * median))
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_xlim(-1.15 * reach, 1.15 * reach)
    axes.set_ylim(3.6, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(range(4), ["left", "top", "right", "bottom"])
    axes.set_xlabel("← left, up     % of the image     right, down →", size=8.5, color=MUTED)
    _plain(axes)
    axes.tick_params(axis="y", colors=INK, labelsize=9)
    _legend(axes, bbox_to_anchor=(0.5, -0.22), ncols=2, handletextpad=0.2, columnspacing=1.2)
    axes.annotate(
        "Median and 95 % interval; filled where it leaves out 0",
        (0, 1),
        (0, 8),
        "axes fraction",
        "offset points",
        size=8,
        color=MUTED,
    )


def _legend(axes: Axes, **style: Any) -> None:
    """Names the versions that were drawn, or says that there was nothing to draw."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8.5, frameon=False, loc="upper center", **style)
    else:
        axes.text(0.5, 0.5, "no pairs", size=9, color=MUTED, ha="center", transform=axes.transAxes)


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, labelsize=8.5, colors=MUTED)
    axes.grid(axis="x", color=TRACK, linewidth=0.8)
    axes.set_axisbelow(True)


def _foot(figure: Figure, summary: FailureSummary, height: float) -> None:
    notes = [
        "People annotate mostly where a prediction was found wrong: not the model's figures on all images.",
        "An unrelated pair (IoU below 0.1) counts as one missed and one spurious box. Small: below 1 % of the "
        "image's area; large: from 10 %.",
    ]
    if summary.min_iou:
        notes[1] += f" Boxes with an IoU below {summary.min_iou:g} weren't paired."
    left_out = len(summary.model_versions) - MAX_VERSIONS
    if left_out > 0:
        notes[0] += f" {left_out} older model versions aren't shown."
    for line, note in enumerate(notes):
        figure.text(0.035, (0.4 - 0.2 * line) / height, note, size=8, color=MUTED, va="center")


def _short(version: str) -> str:
    """A version as it fits beside a bar."""
    text = escaped(version)
    return text if len(text) <= 10 else f"{text[:9]}…"
