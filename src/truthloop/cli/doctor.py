"""`truthloop doctor`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from truthloop.cli.options import Debug, Json
from truthloop.cli.screen import console, waiting, write_json

if TYPE_CHECKING:
    from truthloop.monitor.doctor import Finding

NAME_WIDTH = len("bbox.human_annotation")  # the longest name of a finding
COLORS = {"ok": "green", "warning": "yellow", "failure": "red"}


def examine(as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Check the installation and the data; says what it found and how to mend it.

    Exit code 1 if something fails. Goes on as far as it can where the workspace or MongoDB is broken.
    """
    findings = []
    for finding in _findings():
        findings.append(finding)
        if not as_json:
            _show(finding)
    healthy = all(finding.level != "failure" for finding in findings)
    if as_json:
        write_json({"healthy": healthy, "items": [finding.model_dump() for finding in findings]})
    if not healthy:
        raise typer.Exit(1)


def _findings() -> "Iterator[Finding]":
    from truthloop.errors import SettingRefused
    from truthloop.monitor.doctor import Finding, examine
    from truthloop.settings import load_settings

    try:
        settings = load_settings()
    except SettingRefused as error:
        yield Finding(level="failure", name="settings", text=str(error))
        return
    findings = examine(settings)
    while True:
        with waiting("Looking ..."):
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
