"""`truthloop relay`."""

from typing import TYPE_CHECKING

from truthloop.cli.options import Debug, Heartbeat, Json, Wait, beat, open_workspace, wait_for_workspace
from truthloop.cli.screen import console, messages, number_of, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from truthloop.events.relay import Standing

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
    from truthloop.cli.stopping import stop_at_signals
    from truthloop.events.kafka import client_settings
    from truthloop.logs import configure
    from truthloop.settings import load_settings

    settings = load_settings()
    client_settings(settings, name="truthloop-relay")  # what is missing is told before MongoDB is started
    tell = _say(settings.kafka_bootstrap_servers or "", as_json=as_json)
    with stop_at_signals() as stop:
        alive = beat(heartbeat)
        if wait:
            wait_for_workspace(settings, stop, create=False)
        if not stop.is_set():
            with open_workspace(settings, create=False) as workspace:
                configure(settings.log_level)
                workspace.run_relay(stop, tell=tell, alive=alive)


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
