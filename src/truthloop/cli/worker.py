"""`truthloop worker`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Heartbeat, Json, Wait, until_stopped
from truthloop.cli.screen import console, messages, write_json
from truthloop.cli.stopping import end_stuck

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from truthloop.settings import Settings
    from truthloop.workspace import Workspace


def run_worker(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models", metavar="MODEL", help="Work only these models, with commas or given several times."
        ),
    ] = None,
    pull: Annotated[
        bool, typer.Option("--pull", help="Fetch and load the models before taking the first job.")
    ] = False,
    wait: Wait = False,
    heartbeat: Heartbeat = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Work inference jobs and batches until it is stopped; any number of workers share the queue.

    Ctrl-C or SIGTERM ends it: what the model is running is stored, the rest goes back into the queue. `truthloop
    up` runs one worker of its own.
    """
    from truthloop.settings import load_settings

    settings = load_settings()
    named = [name.strip() for given in models or [] for name in given.split(",") if name.strip()]

    def work(workspace: "Workspace", stop: "Event", alive: "Callable[[], None]") -> None:
        if pull:
            messages().print("Fetching the models ...")
        ready = _announce(settings, named, as_json=as_json)
        workspace.run_worker(stop, models=named or None, pull=pull, ready=ready, alive=alive, stuck=end_stuck)

    until_stopped(settings, work, wait=wait, heartbeat=heartbeat)
    messages().print("Stopped.")


def _announce(settings: "Settings", models: list[str], *, as_json: bool) -> "Callable[[], None]":
    from truthloop.predict.wake import woken_by

    by = woken_by(settings)

    def ready() -> None:
        if as_json:
            write_json({"ready": True, "models": models or None, "woken_by": by}, one_line=True)
        else:
            which = f" for {', '.join(models)}" if models else ""
            what = f"Kafka at {settings.kafka_bootstrap_servers}" if by == "kafka" else "MongoDB's change stream"
            console().print(
                f"The worker is ready{which}, woken by {what}. Stop it with Ctrl-C.", markup=False, soft_wrap=True
            )
        sys.stdout.flush()

    return ready
