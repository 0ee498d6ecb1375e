"""`truthloop relay`."""

from typing import TYPE_CHECKING

from truthloop.cli.options import Debug, Heartbeat, Json, Wait, until_stopped
from truthloop.cli.screen import console, messages, number_of, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from truthloop.events.relay import Standing
    from truthloop.workspace import Workspace

_SAID = {
    "connecting": "Connecting to Kafka at {servers} ...",
    "standby": "Another relay is active; this one takes over when that ends.",
    "active": "Events go to Kafka at {servers}, topics truthloop.<entity>. Stop it with Ctrl-C.",
}


def run_relay(
    wait: Wait = False,
    heartbeat: Heartbeat = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Take every event to Kafka, as CloudEvents, until it is stopped.

    One relay is active at a time; others wait and take over within seconds. It begins where the last one was
    confirmed, at first with the first event of the log: after a break some events come twice, with the same id.
    Ctrl-C or SIGTERM ends it, after what is on its way has arrived.
    """
    from truthloop.events.kafka import client_settings
    from truthloop.settings import load_settings

    settings = load_settings()
    client_settings(settings, name="truthloop-relay")  # what is missing is told before MongoDB is started
    tell = _say(settings.kafka_bootstrap_servers or "", as_json=as_json)

    def work(workspace: "Workspace", stop: "Event", alive: "Callable[[], None]") -> None:
        workspace.run_relay(stop, tell=tell, alive=alive)

    until_stopped(settings, work, wait=wait, heartbeat=heartbeat)


def _say(servers: str, *, as_json: bool) -> "Callable[[Standing], None]":
    def say(standing: "Standing") -> None:
        if as_json:
            write_json(
                {
                    "state": standing.state,
                    "delivered": standing.delivered,
                    "unsendable": standing.unsendable,
                },
                one_line=True,
            )
        elif standing.state == "stopped":
            left = f", {standing.unsendable:,} could not be sent" if standing.unsendable else ""
            messages().print(f"Stopped. {number_of(standing.delivered, 'event')} delivered{left}.", markup=False)
        else:
            console().print(_SAID[standing.state].format(servers=servers), markup=False)
            console().file.flush()

    return say
