"""`truthloop batches ...`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from truthloop.cli.options import DEFAULT_LIMIT, After, Debug, Json, Limit, open_workspace
from truthloop.cli.screen import (
    console,
    count,
    messages,
    number_of,
    print_fields,
    print_whole,
    tell_of_more,
    utc,
    write,
    write_json,
)

if TYPE_CHECKING:
    from rich.table import Table

    from truthloop.predict.documents import Batch, BatchPage

app = typer.Typer(no_args_is_help=True, help="Batches: one model over many images of the workspace.")

BatchId = Annotated[str, typer.Argument(metavar="BATCH_ID", help="The batch's id.")]


@app.command("list")
def list_batches(
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE", help="queued, running, succeeded, failed or cancelled."),
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """List the batches, the newest first."""
    with open_workspace(create=False) as workspace:
        page = workspace.batches.list(state, limit=limit, after=after)
    if as_json:
        write_json(page)
    elif not page.items:
        console().print("There is no such batch." if after or state else "There are no batches yet.")
    else:
        print_whole(_batches_table(page))
        if page.next is not None:
            tell_of_more("batches list", page.next, limit=limit, default_limit=DEFAULT_LIMIT, state=state)


@app.command("show")
def show_batch(batch_id: BatchId, as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Show a batch and how far it has come."""
    with open_workspace(create=False) as workspace:
        _show_batch(workspace.batches.get(batch_id), as_json=as_json)


@app.command("cancel")
def cancel_batch(batch_id: BatchId, as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Stop a batch; what it has recorded stays."""
    with open_workspace(create=False) as workspace:
        _show_batch(workspace.batches.cancel(batch_id), as_json=as_json)


@app.command("resume")
def resume_batch(batch_id: BatchId, as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Go on with a batch that was cancelled or has failed; workers take it up."""
    with open_workspace(create=False) as workspace:
        _show_batch(workspace.batches.resume(batch_id), as_json=as_json)


@app.command("results")
def batch_results(
    batch_id: BatchId,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Print what a batch found and which images it refused, one a line; recorded boxes are in `bbox.model`."""
    with open_workspace(create=False) as workspace:
        if (version := workspace.batches.get(batch_id).record_as) is not None:
            messages().print(
                f"Its boxes are in `bbox.model`, under model version {version}; here are only refused images.",
                style="dim",
                markup=False,
            )
        after = None
        while True:
            page = workspace.batches.results(batch_id, limit=1000, after=after)
            for found in page.items:
                if as_json:
                    write_json(found, one_line=True)
                else:
                    write("\t".join((found.image_id, found.error or _in_a_line(found))))
            after = page.next
            if after is None:
                return


def _show_batch(batch: "Batch", *, as_json: bool) -> None:
    if as_json:
        write_json(batch)
        return
    print_fields(
        ("batch", batch.id),
        ("state", batch.state),
        ("model", f"{batch.model} {batch.model_version}"),
        ("images", batch.query or "listed"),
        ("recorded as", batch.record_as),
        ("newer there", batch.newer_version),
        ("done", f"{count(batch.done)} of {count(batch.total)}"),
        ("predicted", count(batch.predicted)),
        ("already there", count(batch.already_there) if batch.already_there else None),
        ("refused", count(batch.refused) if batch.refused else None),
        ("error", batch.error),
        ("created", utc(batch.created_at)),
        ("finished", utc(batch.finished_at)),
    )


def _batches_table(page: "BatchPage") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("batch", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("model")
    table.add_column("done", justify="right")
    table.add_column("images", justify="right")
    table.add_column("refused", justify="right")
    for batch in page.items:
        refused = Text(count(batch.refused), "red" if batch.refused else "")
        table.add_row(batch.id, batch.state, Text(batch.model), count(batch.done), count(batch.total), refused)
    return table


def _in_a_line(found: Any) -> str:
    """The best of what was found in one image."""
    if found.labels is not None:
        return ", ".join(f"{label.label} {label.score:.2f}" for label in found.labels[:3])
    if found.boxes is not None:
        return number_of(len(found.boxes), "box")
    return number_of(len(found.objects or []), "object")
