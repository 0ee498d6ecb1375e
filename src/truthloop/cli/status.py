"""`truthloop status`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace, png_path
from truthloop.cli.screen import console, count, counting, number_of, percent, write_file, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from truthloop.monitor.documents import Share, Status
    from truthloop.workspace import Workspace

BAR_WIDTH = 24
# Figures are never wrong for longer than two seconds, so looking more often shows nothing new.
WATCH_SECONDS = 1.0


def show_status(
    watch: Annotated[bool, typer.Option("--watch", help="Keep the figures up to date until Ctrl-C.")] = False,
    recount: Annotated[
        bool, typer.Option("--recount", help="Count everything anew, not only what has changed.")
    ] = False,
    png: Annotated[
        Path | None,
        typer.Option(
            "--png",
            metavar="FILE",
            callback=png_path,
            help="Write them as a figure into a PNG file too.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show how much is processed, audited, correct, incorrect and corrected.

    With `--watch --json`, one line a change.
    """
    with open_workspace(create=False) as workspace:
        with counting() as progress:
            status = workspace.status(recount=recount, progress=progress)
        if png is not None:
            from truthloop.monitor.figure import draw

            write_file(png, draw(status))
        if watch:
            _watch(workspace, status, as_json=as_json)
        elif as_json:
            write_json(status)
        else:
            console().print(report(status))


def _watch(workspace: "Workspace", status: "Status", *, as_json: bool) -> None:
    if as_json or not console().is_terminal:
        shown = None
        while True:
            if status.model_copy(update={"as_of": None}) != shown:
                shown = status.model_copy(update={"as_of": None})
                if as_json:
                    write_json(status, one_line=True)
                else:
                    console().print(report(status))
            time.sleep(WATCH_SECONDS)
            status = workspace.status()
    from rich.live import Live

    with Live(report(status), console=console(), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(report(workspace.status()), refresh=True)


def report(status: "Status") -> "RenderableType":
    """The status as people read it, at most 80 columns wide."""
    from rich.console import Group
    from rich.text import Text

    head = Text.assemble(
        (number_of(status.images, "image"), "bold"),
        f"   as of {status.as_of:%Y-%m-%d %H:%M:%S} UTC",
    )
    parts: list[RenderableType] = [head]
    if status.synthetic:
        parts.append(Text("SYNTHETIC SAMPLE DATA: made up by `truthloop sample`, not measured.", "bold yellow"))
    parts += [Text(), _shares(status)]
    if status.model_versions:
        parts += [Text(), _model_versions(status)]
    parts += [Text(), _waiting(status)]
    if status.not_in_metadata:
        parts += [
            Text(),
            Text(
                f"Missing in metadata and so counted nowhere: {count(status.not_in_metadata)} of the image ids "
                "in use.",
                "yellow",
            ),
        ]
    if not status.images:
        parts += [Text(), Text("There are no images yet: `truthloop load PATH` loads documents.")]
    return Group(*parts)


def _shares(status: "Status") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)

    def row(name: str, share: "Share", color: str, remark: str = "") -> None:
        table.add_row(
            name,
            bar(share.fraction or 0.0, color),
            count(share.count),
            percent(share.fraction),
            Text(remark, "dim"),
        )

    row("processed", status.processed, "blue")
    row("audited", status.audited, "cyan")
    row("  correct", status.correct, "green")
    row("  incorrect", status.incorrect, "red")
    row(
        "corrected",
        status.corrected,
        "magenta",
        f"{percent(status.corrected.fraction_of_incorrect)} of incorrect" if status.incorrect.count else "",
    )
    return table


def bar(fraction: float, color: str) -> "RenderableType":
    """A bar of BAR_WIDTH cells; anything above nothing shows."""
    from rich.text import Text

    filled = min(BAR_WIDTH, max(round(fraction * BAR_WIDTH), 1 if fraction > 0 else 0))
    return Text.assemble(("█" * filled, color), ("░" * (BAR_WIDTH - filled), "dim"))


def _model_versions(status: "Status") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model version", overflow="fold")
    for name in ("processed", "audited", "correct", "incorrect", "corrected"):
        table.add_column(name, justify="right", no_wrap=True)
    for version in status.model_versions:
        shares = (version.processed, version.audited, version.correct, version.incorrect, version.corrected)
        table.add_row(version.model_version, *(count(share.count) for share in shares))
        table.add_row("", *(percent(share.fraction) for share in shares), style="dim")
    return table


def _waiting(status: "Status") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for number, what, state in (
        (status.waiting.unprocessed, "wait for a model", "unprocessed"),
        (status.waiting.unaudited, "wait for an audit", "unaudited"),
        (status.waiting.uncorrected, "wait for an annotation", "uncorrected"),
    ):
        table.add_row(count(number), what, Text(f"truthloop images --state {state}", "dim"))
    return table
