"""`truthloop predict`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace
from truthloop.cli.screen import console, count, messages, number_of, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from truthloop.predict.documents import Batch

# As many refused images as the screen names.
EXAMPLES = 5


def predict(
    image_ids: Annotated[list[str] | None, typer.Argument(metavar="IMAGE_ID", help="Only these images.")] = None,
    unprocessed: Annotated[
        bool, typer.Option("--unprocessed", help="All images without any prediction in `bbox.model`.")
    ] = False,
    all_images: Annotated[bool, typer.Option("--all", help="All images of the workspace.")] = False,
    model: Annotated[
        str,
        typer.Option("--model", metavar="MODEL", help="A detection model; `truthloop models list` names them."),
    ] = "",
    record_as: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="VERSION",
            help="The model version under which the boxes are recorded. Default: the one under which this very "
            "model stands there, else the next major version.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Run a model over images of the workspace, and record its boxes in `bbox.model`.

    It goes on where the same command was interrupted. Images that were loaded without their files are named and
    left out; the exit code is 1 if any were.
    """
    from truthloop.cli.stopping import stop_at_signals
    from truthloop.predict.documents import BatchState

    if sum((bool(image_ids), unprocessed, all_images)) != 1:
        raise typer.BadParameter("give either image ids, --unprocessed or --all.")
    if not model:
        raise typer.BadParameter("give a model: --model NAME. `truthloop models list` names them.")
    with stop_at_signals() as stop, open_workspace(create=False) as workspace, _progress() as progress:
        batch = workspace.predict(
            model,
            image_ids=image_ids or None,
            query=None if image_ids else "all" if all_images else "unprocessed",
            record_as=record_as or "auto",
            stop=stop,
            progress=progress,
        )
    if as_json:
        write_json(batch)
    else:
        _show(batch)
    if batch.state != BatchState.SUCCEEDED or batch.refused:
        raise typer.Exit(1)


def _show(batch: "Batch") -> None:
    from truthloop.predict.documents import BatchState

    out = console()
    out.print(
        f"{number_of(batch.predicted, 'image')} predicted by {batch.model} {batch.model_version}, recorded as "
        f"model version {batch.record_as}.",
        markup=False,
    )
    if batch.already_there:
        out.print(f"{number_of(batch.already_there, 'image')} had them before.")
    if batch.refused:
        out.print(f"{number_of(batch.refused, 'image')} refused:")
        for refusal in batch.refusals[:EXAMPLES]:
            out.print(f"  {refusal.image_id}: {refusal.reason}", markup=False)
        if (more := batch.refused - len(batch.refusals[:EXAMPLES])) > 0:
            out.print(f"  and {count(more)} more: truthloop batches results {batch.id}")
    if batch.state == BatchState.FAILED:
        out.print(f"It failed: {batch.error}", style="red", markup=False)
    elif batch.state == BatchState.CANCELLED:
        out.print("It was cancelled. The same command goes on with it.")
    elif batch.state != BatchState.SUCCEEDED:
        out.print(
            f"Stopped after {count(batch.done)} of {number_of(batch.total, 'image')}. The same command goes on; a "
            f"worker that runs goes on by itself (truthloop batches cancel {batch.id} ends it)."
        )


@contextmanager
def _progress() -> Iterator["Callable[[Batch], None]"]:
    """A bar on the terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = messages()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("Predicting ...", total=None)

        def show(batch: "Batch") -> None:
            bar.update(task, completed=batch.done, total=batch.total or None)

        yield show
