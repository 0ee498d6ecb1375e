"""`truthloop events`."""

import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace
from truthloop.cli.screen import console, messages, number_of, tell_of_more, write

if TYPE_CHECKING:
    from truthloop.events.documents import Event
    from truthloop.events.wanted import Wanted
    from truthloop.workspace import Workspace

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
    entity: Annotated[
        str | None, typer.Option("--entity", metavar="ENTITY", help="Only of this kind of thing, such as job.")
    ] = None,
    subject: Annotated[str | None, typer.Option("--subject", metavar="ID", help="Only of this one thing.")] = None,
    type_: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only of this type, such as job.succeeded.")
    ] = None,
    from_kafka: Annotated[
        bool, typer.Option("--from-kafka", help="Read what `truthloop relay` has taken to Kafka.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """List what happened in the workspace, one event a line.

    With `--json`, each is a CloudEvents 1.0 document on a line of its own. After a break in the connection
    `--follow` may repeat an event, never leave one out. `--from-kafka` needs no MongoDB; its events are in order
    within a subject, and with `--after` those of the 120 seconds before may come again.
    """
    from truthloop.events.wanted import Wanted

    wanted = Wanted(entity=entity, subject=subject, type=type_)
    if follow and (unknown := wanted.unknown()) is not None:
        messages().print(unknown, markup=False, soft_wrap=True)  # else one would wait for what never comes
    if from_kafka:
        _from_kafka(wanted, follow=follow, after=after, limit=limit, as_json=as_json)
        return
    with open_workspace(create=False) as workspace:
        if follow:
            for event in islice(filter(wanted, workspace.hub.follow(after=after)), limit):
                _write(event, as_json=as_json)
                sys.stdout.flush()  # somebody reads along
            return
        limit = limit or DEFAULT_LIMIT
        left = filter(wanted, _log(workspace, after, None if wanted else limit + 1))
        written = 0
        for event in islice(left, limit):
            _write(event, as_json=as_json)
            written, after = written + 1, event.id
        if wanted and not written:
            _say_that_there_are_none(wanted)
        if not as_json and next(left, None) is not None:
            tell_of_more(
                "events",
                after,
                limit=limit,
                default_limit=DEFAULT_LIMIT,
                entity=entity,
                subject=subject,
                type=type_,
            )


def _log(workspace: "Workspace", after: str | None, enough: int | None) -> "Iterator[Event]":
    """The log from there on, in pages no greater than what is enough."""
    from truthloop.events.stream import MAX_PAGE

    while True:
        page = workspace.events(after=after, limit=min(enough or MAX_PAGE, MAX_PAGE))
        yield from page.items
        after = page.next
        if after is None:
            return


def _say_that_there_are_none(wanted: "Wanted") -> None:
    unknown = wanted.unknown()
    messages().print(f"No such events.{f' {unknown}' if unknown else ''}", markup=False, soft_wrap=True)


def _from_kafka(wanted: "Wanted", *, follow: bool, after: str | None, limit: int | None, as_json: bool) -> None:
    from truthloop.events.from_kafka import KafkaEvents
    from truthloop.logs import configure
    from truthloop.settings import load_settings

    settings = load_settings()
    configure(settings.log_level)
    events = KafkaEvents(settings, follow=follow, after=after)
    written = 0
    try:
        for event in islice(filter(wanted, events), limit or (None if follow else DEFAULT_LIMIT)):
            _write(event, as_json=as_json)
            sys.stdout.flush()
            written += 1
        if wanted and not written and not follow:
            _say_that_there_are_none(wanted)
        if not follow and not as_json and not events.is_read:
            # Not where they go on: Kafka has no order over all, so events before the last one may be among them.
            # Whether any that is left is wanted isn't known without reading all.
            what = "There may be more" if wanted else "There are more"
            messages().print(f"{what}: give a greater --limit.", style="dim")
    finally:
        if events.unreadable:
            messages().print(
                f"{number_of(events.unreadable, 'message')} left out: no events of Truthloop.", markup=False
            )


def _write(event: "Event", *, as_json: bool) -> None:
    if as_json:
        from truthloop.events.cloudevent import to_cloudevent_json

        write(to_cloudevent_json(event).decode())
        return
    from truthloop.events.text import text

    if sys.stdout.isatty():
        console().print(f"[dim]{event.time:%Y-%m-%d %H:%M:%S} UTC[/dim]  ", end="")
    write(text(event))
