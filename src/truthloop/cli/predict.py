"""`truthloop predict`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace
from truthloop.cli.screen import console, count, messages, number_of, write_json
from truthloop.cli.stopping import INTERRUPTED, end_stuck, stop_at_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from truthloop.predict.documents import Batch, Refusals
    from truthloop.workspace import Workspace

# For as many reasons the screen says how many images were refused.
REASONS = 5


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
            help="The model version under which the boxes are recorded, such as 2.0.0. Default: the one under "
            "which this very model stands there, else the next major version.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Run a model over images of the workspace, and record its boxes in `bbox.model`.

    It goes on where the same command was interrupted. Images that were loaded without their files are counted and
    left out; the exit code is 1 if any were. For models of other tasks there is `truthloop jobs`.
    """
    from truthloop.predict.batch_change import OPEN
    from truthloop.predict.batches import outdone
    from truthloop.predict.documents import BatchState

    if sum((bool(image_ids), unprocessed, all_images)) != 1:
        raise typer.BadParameter("give either image ids, --unprocessed or --all.")
    if not model:
        raise typer.BadParameter("give a model: --model NAME. `truthloop models list` names them.")
    version = "auto" if record_as is None else record_as
    with stop_at_signals() as stop, open_workspace(create=False) as workspace, _progress() as progress:
        if unprocessed and _is_idle(workspace, model, version):
            _show_nothing(model, as_json=as_json)
            return
        batch = workspace.predict(
            model,
            image_ids=image_ids or None,
            query=None if image_ids else "all" if all_images else "unprocessed",
            record_as=version,
            stop=stop,
            progress=progress,
            stuck=end_stuck,
        )
        refusals = workspace.batches.refusals(batch.id) if batch.refused else []
        older = outdone(workspace.store, batch.id) if not as_json else None
    if as_json:
        write_json(batch)
    else:
        _show(batch, refusals, older)
    if stop.is_set() and batch.state in OPEN:
        raise typer.Exit(INTERRUPTED)
    if batch.state != BatchState.SUCCEEDED or batch.refused:
        raise typer.Exit(1)


def _is_idle(workspace: "Workspace", model: str, version: str) -> bool:
    """Whether no image is unprocessed, nor a batch left that asks for those.

    Raises:
        InputRefused: there is no such model, or boxes can't be recorded under such a version.
    """
    from truthloop.predict.record import AUTO, checked_version
    from truthloop.predict.slice_claim import is_any_unprocessed

    if version != AUTO:
        checked_version(version)
    if workspace.batches.unfinished(model, query="unprocessed", record_as=version) is not None:
        return False
    now = workspace.status()
    # Where a service keeps the status it may not know the newest images yet.
    return now.processed.count == now.images and not is_any_unprocessed(workspace.store)


def _show_nothing(model: str, *, as_json: bool) -> None:
    """Says that there is nothing to predict; as JSON what a batch of no images would have."""
    if not as_json:
        console().print(f"No image is unprocessed, so there is nothing for {model} to do.", markup=False)
        return
    counts = dict.fromkeys(("total", "done", "predicted", "already_there", "refused"), 0)
    batch = {"id": None, "state": "succeeded", "model": model, "query": "unprocessed", "record_as": None}
    write_json({**batch, **counts, "refusals": []})


def _show(batch: "Batch", refusals: "Sequence[Refusals]", older: tuple[str, str | None] | None) -> None:
    from truthloop.predict.batches import goes_on
    from truthloop.predict.documents import BatchState

    out = console()
    recorded = f", recorded as model version {batch.record_as}" if batch.predicted else ""
    out.print(
        f"{number_of(batch.predicted, 'image')} predicted by {batch.model} {batch.model_version}{recorded}.",
        markup=False,
    )
    if older is not None:
        version, name = older
        messages().print(
            f"Version {batch.record_as} is newer than {version} ({name or 'another source'}): of an image that "
            "has both, figures and datasets take these boxes now. For a comparison only, record under an older "
            "version with --as.",
            style="yellow",
            markup=False,
        )
    if batch.already_there:
        out.print(
            f"{number_of(batch.already_there, 'image')} had them before, as model version {batch.record_as}.",
            markup=False,
        )
    if batch.refused:
        out.print(f"{number_of(batch.refused, 'image')} refused:")
        for each in refusals[:REASONS]:
            which = f"such as {each.example}" if each.images > 1 else each.example
            out.print(f"  {count(each.images)} ({which}): {each.reason}", markup=False)
        out.print(f"All of them: truthloop batches results {batch.id}", style="dim")
    if batch.state == BatchState.FAILED:
        out.print(f"It failed: {batch.error}", style="red", markup=False)
    elif batch.state == BatchState.CANCELLED:
        by = "The same command" if batch.query else f"`truthloop batches resume {batch.id}`"
        out.print(f"It was cancelled. {by} goes on with it.", markup=False)
    elif batch.state != BatchState.SUCCEEDED:
        out.print(
            f"Stopped after {count(batch.done)} of {number_of(batch.total, 'image')}. {goes_on(batch)}",
            markup=False,
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
        told: list[bool] = []

        def show(batch: "Batch") -> None:
            # Not at once: where nothing is recorded, nothing of it is overruled.
            if batch.newer_version is not None and batch.predicted and not told:
                told.append(True)
                bar.console.print(
                    f"There are boxes under version {batch.newer_version}, which is newer than {batch.record_as}: "
                    "of an image that has both, those count and not the ones recorded now.",
                    style="yellow",
                    markup=False,
                )
            bar.update(task, completed=batch.done, total=batch.total or None)

        yield show
