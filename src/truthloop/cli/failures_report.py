"""What `truthloop failures` shows to people, at most 80 columns wide."""

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from truthloop.cli.screen import count, number_of, percent

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

KINDS = ("match", "misplaced", "unrelated", "missed", "spurious", "duplicate")
SIZES = ("small", "medium", "large")


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
