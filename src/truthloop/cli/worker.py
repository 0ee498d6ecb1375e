"""`truthloop worker`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace
from truthloop.cli.screen import console, messages, write_json

if TYPE_CHECKING:
    from collections.abc import Callable


def run_worker(
    models: Annotated[
        list[str] | None,
        typer.Option("--models", metavar="MODEL", help="Work only this model; may be given several times."),
    ] = None,
    pull: Annotated[
        bool, typer.Option("--pull", help="Fetch and load the models before taking the first job.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Work inference jobs and batches until it is stopped; any number of workers share the queue.

    Ctrl-C or SIGTERM ends it: what the model is running is stored, the rest goes back into the queue. `truthloop
    up` runs one worker of its own.
    """
    from truthloop.cli.stopping import stop_at_signals
    from truthloop.logs import configure

    with stop_at_signals() as stop, open_workspace(create=False) as workspace:
        configure(workspace.settings.log_level)
        if pull:
            messages().print("Fetching the models ...")
        workspace.run_worker(
            stop, models=models or None, pull=pull, ready=_announce(models or [], as_json=as_json)
        )
    messages().print("Stopped.")


def _announce(models: list[str], *, as_json: bool) -> "Callable[[], None]":
    def ready() -> None:
        if as_json:
            write_json({"ready": True, "models": models or None}, one_line=True)
        else:
            which = f" for {', '.join(models)}" if models else ""
            console().print(f"The worker is ready{which}. Stop it with Ctrl-C.", markup=False)
        sys.stdout.flush()

    return ready
