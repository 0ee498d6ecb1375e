"""The status as a picture for a report."""

import io
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from truthloop.monitor.documents import Shares, Status

INK, MUTED, TRACK = "#1f2430", "#667085", "#eceef2"
# Also told apart by people with the common colour vision deficiencies, and in grey.
PROCESSED, CORRECT, INCORRECT, CORRECTED = "#3b6fd4", "#1f9d76", "#d9643a", "#8a63d2"
WIDTH_INCHES, ROW_INCHES = 9.0, 0.36
DOTS_PER_INCH = 160
# More versions than this make a picture that no one reads; the newest are shown.
MAX_VERSIONS = 6


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    parts: tuple[tuple[float, str], ...]  # fraction of all images and colour, from the left
    text: str


def draw(status: Status) -> bytes:
    """Draws the fractions, overall and for each of the newest model versions, and what waits.

    Returns:
        A PNG with a white ground, 1,440 pixels wide; its height follows the number of versions.
    """
    blocks = [("All model versions", _rows(status))]
    blocks += [
        (f"Model version {version.model_version}", _rows(version))
        for version in status.model_versions[:MAX_VERSIONS]
    ]
    heights = [len(rows) + 1.2 for _, rows in blocks]
    figure = Figure(figsize=(WIDTH_INCHES, 1.5 + sum(heights) * ROW_INCHES), dpi=DOTS_PER_INCH, facecolor="white")
    height = figure.get_figheight()
    _heading(figure, status, height)
    top = height - 0.95
    for (title, rows), units in zip(blocks, heights, strict=True):
        axes = figure.add_axes((0.2, (top - units * ROW_INCHES) / height, 0.5, units * ROW_INCHES / height))
        _block(axes, title, rows)
        top -= units * ROW_INCHES
    _foot(figure, status, height)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": "Truthloop"})
    return out.getvalue()


def _rows(shares: Shares) -> list[_Row]:
    fraction = {name: getattr(shares, name).fraction or 0.0 for name in Shares.model_fields}
    of_incorrect = shares.corrected.fraction_of_incorrect
    note = "" if of_incorrect is None else f", {_percent(of_incorrect)} of incorrect"
    return [
        _Row("Processed", ((fraction["processed"], PROCESSED),), _text(shares, "processed")),
        _Row(
            "Audited",
            ((fraction["correct"], CORRECT), (fraction["incorrect"], INCORRECT)),
            _text(shares, "audited"),
        ),
        _Row("correct", ((fraction["correct"], CORRECT),), _text(shares, "correct")),
        _Row("incorrect", ((fraction["incorrect"], INCORRECT),), _text(shares, "incorrect")),
        _Row("Corrected", ((fraction["corrected"], CORRECTED),), _text(shares, "corrected") + note),
    ]


def _text(shares: Shares, name: str) -> str:
    share = getattr(shares, name)
    return f"{_percent(share.fraction)}  ·  {share.count:,}"


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{fraction:.1%}"


def _heading(figure: Figure, status: Status, height: float) -> None:
    figure.text(
        0.04, 1 - 0.42 / height, f"{status.images:,} images", size=17, weight="bold", color=INK, va="center"
    )
    figure.text(
        0.04,
        1 - 0.72 / height,
        f"Truthloop status of {status.as_of:%Y-%m-%d %H:%M:%S} UTC  ·  fractions are of all images",
        size=8.5,
        color=MUTED,
        va="center",
    )
    if status.synthetic:
        figure.text(
            0.96,
            1 - 0.42 / height,
            "SYNTHETIC SAMPLE DATA",
            size=9,
            weight="bold",
            color="#9a3412",
            ha="right",
            va="center",
            bbox={"boxstyle": "round,pad=0.45", "facecolor": "#ffedd5", "edgecolor": "none"},
        )


def _block(axes: Axes, title: str, rows: list[_Row]) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.3, -1.5)
    axes.text(-0.31, -0.85, title, size=10, weight="bold", color=INK, va="center")
    for y, row in enumerate(rows):
        inner = row.label[0].islower()  # a part of the row above
        axes.barh(y, 1, height=0.3 if inner else 0.52, color=TRACK)
        left = 0.0
        for width, colour in row.parts:
            axes.barh(y, width, left=left, height=0.3 if inner else 0.52, color=colour)
            left += width
        axes.text(
            -0.275 if inner else -0.31,
            y,
            row.label,
            size=8.5 if inner else 9.5,
            color=MUTED if inner else INK,
            va="center",
        )
        axes.text(1.02, y, row.text, size=8.5 if inner else 9, color=MUTED if inner else INK, va="center")


def _foot(figure: Figure, status: Status, height: float) -> None:
    waiting = status.waiting
    figure.text(
        0.04,
        0.28 / height,
        f"Waiting: {waiting.unprocessed:,} for a model  ·  {waiting.unaudited:,} for an audit  ·  "
        f"{waiting.uncorrected:,} for an annotation",
        size=9,
        color=INK,
        va="center",
    )
    left_out = len(status.model_versions) - MAX_VERSIONS
    notes = [f"{left_out} older model versions aren't shown"] if left_out > 0 else []
    if status.not_in_metadata:
        notes.append(f"{status.not_in_metadata:,} ids that metadata lacks aren't counted")
    figure.text(0.96, 0.28 / height, "  ·  ".join(notes), size=8, color=MUTED, va="center", ha="right")
