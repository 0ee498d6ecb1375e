"""`truthloop jobs ...` and `truthloop batches ...`."""

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truthloop.cli.options import Debug, Json, open_workspace, png_path, read_file
from truthloop.cli.screen import console, count, messages, number_of, tell_of_more, write, write_file, write_json
from truthloop.errors import FileRefused, NotFound

if TYPE_CHECKING:
    from datetime import datetime

    from rich.table import Table

    from truthloop.predict.documents import Batch, BatchPage, Job, JobPage
    from truthloop.predict.results import JobResult
    from truthloop.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help="Inference jobs: one model over one image.")
batches = typer.Typer(no_args_is_help=True, help="Batches: one model over many images of the workspace.")

DEFAULT_LIMIT = 20
# As many labels, boxes or objects of a result as the screen shows.
SHOWN = 20

JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="The job's id.")]
BatchId = Annotated[str, typer.Argument(metavar="BATCH_ID", help="The batch's id.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Its name; `truthloop models list` names them.")]
Image = Annotated[str, typer.Argument(metavar="IMAGE", help="A file, or the id of an image of the workspace.")]
SomeImage = Annotated[
    str | None, typer.Argument(metavar="IMAGE", help="A file, or the id of an image of the workspace.")
]
Deadline = Annotated[
    float | None, typer.Option("--deadline", metavar="SECONDS", help="Fail if no worker takes it in time.")
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        metavar="PIXELS",
        min=0,
        max=1000,
        help="Of a segmentation model: how far outlines may stray.",
    ),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="At most so many.")]
After = Annotated[str | None, typer.Option("--after", metavar="ID", help="Only those that come after this one.")]


@app.command("list")
def list_jobs(
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE", help="created, queued, running, succeeded, failed or cancelled."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Only of this model.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """List the jobs, the newest first."""
    with open_workspace(create=False) as workspace:
        page = workspace.jobs.list(state=state, model=model, limit=limit, after=after)
    if as_json:
        write_json(page)
    elif not page.items:
        console().print("There is no such job." if after or state or model else "There are no jobs yet.")
    else:
        console().print(_jobs_table(page))
        if page.next is not None:
            tell_of_more(
                "jobs list", page.next, limit=limit, default_limit=DEFAULT_LIMIT, state=state, model=model
            )


@app.command("show")
def show(job_id: JobId, as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Show a job as it stands."""
    with open_workspace(create=False) as workspace:
        _show_job(workspace.jobs.get(job_id), as_json=as_json)


@app.command("create")
def create(
    model: Model,
    image: SomeImage = None,
    deadline: Deadline = None,
    tolerance: Tolerance = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Create a job that waits for `truthloop jobs execute`."""
    with open_workspace(create=False) as workspace:
        job = workspace.jobs.create(
            model,
            **_image(workspace, image),
            deadline_seconds=deadline,
            options={"tolerance": tolerance},
        )
        _show_job(job, as_json=as_json)


@app.command("execute")
def execute(
    job_id: JobId,
    image: SomeImage = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Put a created job into the queue."""
    with open_workspace(create=False) as workspace:
        _show_job(workspace.jobs.execute(job_id, **_image(workspace, image)), as_json=as_json)


@app.command("submit")
def submit(
    model: Model,
    image: Image,
    wait: Annotated[
        float | None,
        typer.Option("--wait", metavar="SECONDS", min=0, help="Wait so long for the result, and show it."),
    ] = None,
    deadline: Deadline = None,
    tolerance: Tolerance = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Create a job and put it into the queue at once."""
    with open_workspace(create=False) as workspace:
        job = workspace.jobs.submit(
            model,
            **_image(workspace, image),
            deadline_seconds=deadline,
            options={"tolerance": tolerance},
        )
        if wait is None:
            _show_job(job, as_json=as_json)
        else:
            _wait_and_show(workspace, job.id, wait, plot=None, as_json=as_json)


@app.command("cancel")
def cancel(job_id: JobId, as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Cancel a job that has not ended."""
    with open_workspace(create=False) as workspace:
        _show_job(workspace.jobs.cancel(job_id), as_json=as_json)


@app.command("delete")
def delete(job_id: JobId, as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Delete a job and its result; one that has not ended is cancelled."""
    with open_workspace(create=False) as workspace:
        workspace.jobs.delete(job_id)
    if as_json:
        write_json({"deleted": job_id})
    else:
        console().print(f"Deleted job {job_id}.", markup=False)


@app.command("result")
def result(
    job_id: JobId,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait so long for it to end.")
    ] = 0.0,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", callback=png_path, help="Write the image with the result on it, as PNG."
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show what a job found."""
    with open_workspace(create=False) as workspace:
        _wait_and_show(workspace, job_id, wait, plot=plot, as_json=as_json)


@batches.command("list")
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
        console().print(_batches_table(page))
        if page.next is not None:
            tell_of_more("batches list", page.next, limit=limit, default_limit=DEFAULT_LIMIT, state=state)


@batches.command("show")
def show_batch(batch_id: BatchId, as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Show a batch and how far it has come."""
    with open_workspace(create=False) as workspace:
        _show_batch(workspace.batches.get(batch_id), as_json=as_json)


@batches.command("cancel")
def cancel_batch(batch_id: BatchId, as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Stop a batch; what it has recorded stays."""
    with open_workspace(create=False) as workspace:
        _show_batch(workspace.batches.cancel(batch_id), as_json=as_json)


@batches.command("resume")
def resume_batch(batch_id: BatchId, as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Go on with a batch that was cancelled or has failed; workers take it up."""
    with open_workspace(create=False) as workspace:
        _show_batch(workspace.batches.resume(batch_id), as_json=as_json)


@batches.command("results")
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


def _image(workspace: "Workspace", image: str | None) -> dict[str, Any]:
    """What was named: a file, which is stored with the job, or an image of the workspace.

    Raises:
        FileRefused: it is a folder, a file that can't be read, or looks like one that isn't there.
        NotFound: no image of the workspace has this id, or it has no pixels here.
    """
    if image is None:
        return {}
    path = Path(image)
    with suppress(OSError):  # a name that no file can have may be an image's id
        if path.is_dir():
            raise FileRefused(f"{path} is a folder. Name a file; for many images there is `truthloop predict`.")
        if path.exists():
            return {"image": read_file(path, max_bytes=workspace.settings.max_image_bytes)}
    try:
        return {"image_id": workspace.image(image).image_id}
    except NotFound:
        if path.suffix or path.name != image:
            raise FileRefused(
                f"There is no file {image}. Name one, or the id of an image of the workspace."
            ) from None
        raise


def _wait_and_show(
    workspace: "Workspace", job_id: str, seconds: float, *, plot: Path | None, as_json: bool
) -> None:
    from truthloop.cli.screen import waiting

    told: list[str] = []

    def tell(job: "Job") -> None:
        if job.error is not None and job.error not in told and not job.state.is_final:
            told.append(job.error)
            messages().print(f"The job waits: {job.error}", style="yellow", markup=False)

    if seconds:
        with waiting("Waiting for the job ..."):
            workspace.jobs.wait(job_id, seconds=seconds, progress=tell)
    try:
        found = workspace.jobs.result(job_id)
    except NotFound as error:
        if as_json:
            raise
        if told:  # why it waits has been said above; a program reads it in the problem
            raise NotFound(re.sub(f": {re.escape(told[-1])}$", ".", str(error))) from error
        job = workspace.jobs.get(job_id)
        if job.state == "queued" and job.error is None:  # else the error says why it waits
            messages().print(
                "It waits for a worker: `truthloop up` has one, `truthloop worker` is one. "
                f"Then: truthloop jobs result {job_id} --wait 60",
                markup=False,
                soft_wrap=True,
            )
        raise
    if plot is not None:
        write_file(plot, workspace.jobs.picture(job_id))
    if as_json:
        write_json(found.model_dump(mode="json", exclude_none=True))
    else:
        _show_result(found)


def _show_job(job: "Job", *, as_json: bool) -> None:
    if as_json:
        write_json(job)
        return
    _fields(
        ("job", job.id),
        ("state", job.state),
        ("model", f"{job.model} {job.model_version}"),
        ("image", job.image_id or "none yet"),
        ("attempts", str(job.attempts) if job.attempts else None),
        ("error", job.error),
        ("deadline", _span(job.deadline_seconds) if job.deadline_seconds else None),
        ("created", _time(job.created_at)),
        ("started", _time(job.started_at)),
        ("finished", _time(job.finished_at)),
    )


def _show_batch(batch: "Batch", *, as_json: bool) -> None:
    if as_json:
        write_json(batch)
        return
    _fields(
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
        ("created", _time(batch.created_at)),
        ("finished", _time(batch.finished_at)),
    )


def _fields(*rows: tuple[str, str | None]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            table.add_row(name, Text(value))
    console().print(table)


def _jobs_table(page: "JobPage") -> "Table":
    from rich.table import Table
    from rich.text import Text

    # One blank between columns: with the longest of our models' names a row has 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("job", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("created UTC", no_wrap=True)
    for job in page.items:
        colour = {"failed": "red", "succeeded": "green"}.get(job.state, "")
        table.add_row(job.id, Text(job.state, colour), job.model, f"{job.created_at:%m-%d %H:%M}")
    return table


def _batches_table(page: "BatchPage") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("batch", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("done", justify="right")
    table.add_column("images", justify="right")
    table.add_column("refused", justify="right")
    for batch in page.items:
        refused = Text(count(batch.refused), "red" if batch.refused else "")
        table.add_row(batch.id, batch.state, batch.model, count(batch.done), count(batch.total), refused)
    return table


def _show_result(found: "JobResult") -> None:
    from rich.table import Table

    rows = found.labels or found.boxes or found.classes or []
    out = console()
    out.print(f"Job {found.job_id}", markup=False)
    out.print(
        f"{found.model} {found.model_version} on {found.image_id} ({found.width} x {found.height})", markup=False
    )
    if not rows:
        out.print("It found nothing.")
        return
    fields = [row.model_dump() for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in fields[0]:
        table.add_column(name, justify="left" if name == "label" else "right")
    for row in fields[:SHOWN]:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    out.print(table)
    if len(fields) > SHOWN:
        out.print(f"and {count(len(fields) - SHOWN)} more; --json shows all")
    if found.objects is not None:
        out.print(f"{number_of(len(found.objects), 'object')}; --json has their outlines.")


def _in_a_line(found: Any) -> str:
    """The best of what was found in one image."""
    if found.labels is not None:
        return ", ".join(f"{label.label} {label.score:.2f}" for label in found.labels[:3])
    if found.boxes is not None:
        return number_of(len(found.boxes), "box")
    return number_of(len(found.objects or []), "object")


def _span(seconds: float) -> str:
    """A span of time for people, to three digits.

    >>> _span(0.5), _span(90), _span(600), _span(9_000), _span(1_617_150)
    ('0.5 s', '90 s', '10 min', '2.5 h', '18.7 days')
    """
    for unit, length, up_to in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < up_to:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"


def _time(time: "datetime | None") -> str | None:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time is not None else None
