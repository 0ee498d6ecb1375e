"""`truthloop events`."""

import sys
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace
from truthloop.cli.screen import console, messages, write

if TYPE_CHECKING:
    from truthloop.events.documents import Event

DEFAULT_LIMIT = 50


def list_events(
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with each event as it happens, until Ctrl-C.")
    ] = False,
    after: Annotated[
        str | None,
        typer.Option(
            "--after", metavar="ID", help="Begin after this event. Default: at the first; with --follow, now."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=1,
            help=f"End after so many. Default: {DEFAULT_LIMIT}; with --follow, never.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """List what happened in the workspace, one event a line.

    With `--json`, each is a CloudEvents 1.0 document on a line of its own. After a break in the connection
    `--follow` may repeat an event, never leave one out.
    """
    from truthloop.events.stream import MAX_PAGE

    with open_workspace(create=False) as workspace:
        if follow:
            for event in islice(workspace.hub.follow(after=after), limit):
                _write(event, as_json=as_json)
                sys.stdout.flush()  # somebody reads along
            return
        left = limit or DEFAULT_LIMIT
        while True:
            page = workspace.events(after=after, limit=min(left, MAX_PAGE))  # a greater limit: several pages
            for event in page.items:
                _write(event, as_json=as_json)
            left -= len(page.items)
            after = page.next
            if after is None or left <= 0:
                break
    if after is not None and not as_json:
        messages().print(
            f"There are more: truthloop events --after {after}", style="dim", markup=False, soft_wrap=True
        )


def _write(event: "Event", *, as_json: bool) -> None:
    if as_json:
        from truthloop.events.cloudevent import to_cloudevent_json

        write(to_cloudevent_json(event).decode())
        return
    from truthloop.events.text import text

    if sys.stdout.isatty():
        console().print(f"[dim]{event.time.astimezone():%Y-%m-%d %H:%M:%S}[/dim]  ", end="")
    write(text(event))
