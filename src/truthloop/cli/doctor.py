"""`truthloop doctor`."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json
from truthloop.cli.screen import console, spinning, write_json

if TYPE_CHECKING:
    from truthloop.monitor.finding import Finding

NAME_WIDTH = len("bbox.human_annotation")  # the longest name of a finding
COLORS = {"ok": "green", "warning": "yellow", "failure": "red"}


def examine(
    remove_unnamed_files: Annotated[
        bool,
        typer.Option(
            "--remove-unnamed-files",
            help="Set aside the files that no document has named for a day; those that were set aside a day ago "
            "are removed for good.",
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Check the installation and the data, and how jobs get on; says what it found and how to mend it.

    Exit code 1 if something fails. Goes on as far as it can where the workspace or MongoDB is broken.
    """
    findings = []
    for finding in _findings(remove_unnamed_files=remove_unnamed_files):
        findings.append(finding)
        if not as_json:
            _show(finding)
    healthy = all(finding.level != "failure" for finding in findings)
    if as_json:
        write_json({"healthy": healthy, "items": [finding.model_dump() for finding in findings]})
    if not healthy:
        raise typer.Exit(1)


def _findings(*, remove_unnamed_files: bool) -> "Iterator[Finding]":
    from truthloop.errors import SettingRefused
    from truthloop.monitor.doctor import examine
    from truthloop.monitor.finding import Finding
    from truthloop.settings import load_settings

    try:
        settings = load_settings()
    except SettingRefused as error:
        yield Finding(level="failure", name="settings", text=str(error))
        return
    said: list[Callable[[str], None]] = []  # what shows how far it is, on the screen as it is now
    findings = examine(settings, remove_unnamed_files=remove_unnamed_files, progress=lambda text: said[-1](text))
    while True:
        with spinning("Looking ...") as show:
            said[:] = [show]
            finding = next(findings, None)
        if finding is None:
            return
        yield finding


def _show(finding: "Finding") -> None:
    from rich.table import Table
    from rich.text import Text

    found = Text(finding.text)
    if finding.mend:
        found.append(f"\n→ {finding.mend}", "bold")
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=7)
    row.add_column(width=NAME_WIDTH, overflow="fold")
    row.add_column(overflow="fold")
    row.add_row(Text(finding.level, COLORS[finding.level]), finding.name, found)
    console().print(row)
