"""`truthloop jobs ...`."""

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from truthloop.cli.options import (
    DEFAULT_LIMIT,
    After,
    Debug,
    Json,
    Limit,
    naming,
    open_workspace,
    png_path,
    read_file,
)
from truthloop.cli.screen import (
    console,
    count,
    messages,
    number_of,
    print_fields,
    print_whole,
    tell_next,
    tell_of_more,
    utc,
    write_file,
    write_json,
)
from truthloop.errors import Conflict, FileRefused, ImageRefused, NotFound, Unavailable

if TYPE_CHECKING:
    from rich.table import Table

    from truthloop.predict.documents import Job, JobPage
    from truthloop.predict.results import JobResult
    from truthloop.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help="Inference jobs: one model over one image.")

# As many labels, boxes or objects of a result as the screen shows.
SHOWN = 20

JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="The job's id.")]
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
        print_whole(_jobs_table(page))
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
        given = _image(workspace, image)
        with naming(image if "image" in given else None):
            job = workspace.jobs.create(
                model, **given, deadline_seconds=deadline, options={"tolerance": tolerance}
            )
        _show_job(job, as_json=as_json)
    if not as_json:
        tell_next(f"To execute it: truthloop jobs execute {job.id}{'' if job.image_id else ' IMAGE'}")


@app.command("execute")
def execute(
    job_id: JobId,
    image: SomeImage = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Put a created job into the queue."""
    with open_workspace(create=False) as workspace:
        given = _image(workspace, image)
        with naming(image if "image" in given else None):
            job = workspace.jobs.execute(job_id, **given)
        _show_job(job, as_json=as_json)
    if not as_json:
        _tell_of_result(job.id)


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
    """Create a job and put it into the queue at once.

    With `--wait` and `--json` the answer is the result; where there is none, or none yet, it is the job as it
    stands, with its `id`, and the exit code is 1.
    """
    with open_workspace(create=False) as workspace:
        given = _image(workspace, image)
        with naming(image if "image" in given else None):
            job = workspace.jobs.submit(
                model, **given, deadline_seconds=deadline, options={"tolerance": tolerance}
            )
        if wait is None:
            _show_job(job, as_json=as_json)
            if not as_json:
                _tell_of_result(job.id)
            return
        try:
            _show_found(workspace, job.id, _wait(workspace, job.id, wait), plot=None, as_json=as_json)
        except KeyboardInterrupt:
            _tell_that_it_goes_on(job.id)
            raise
        except (Conflict, Unavailable) as error:
            # Whoever made the job must get its id, whatever comes of the waiting.
            if as_json:
                write_json(workspace.jobs.get(job.id) if isinstance(error, Conflict) else job)
            elif isinstance(error, Unavailable):
                _tell_that_it_goes_on(job.id)
            raise


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
        _show_found(workspace, job_id, _wait(workspace, job_id, wait), plot=plot, as_json=as_json)


def _image(workspace: "Workspace", image: str | None) -> dict[str, Any]:
    """What was named: a file, which is stored with the job, or an image of the workspace.

    Raises:
        FileRefused: it is a folder, a file that can't be read, or looks like one that isn't there.
        NotFound: no image of the workspace has this id, or it has no pixels here.
    """
    if image is None:
        return {}
    path = Path(image)
    if _is_file(path):
        return {"image": read_file(path, max_bytes=workspace.settings.max_image_bytes)}
    try:
        return {"image_id": workspace.image(image).image_id}
    except NotFound:
        if (path.suffix or path.name != image) and not _is_known(workspace, image):
            raise FileRefused(
                f"There is no file {image}. Name one, or the id of an image of the workspace."
            ) from None
        raise


def _is_file(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        FileRefused: it is a folder, or it can't be told.
    """
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        if error.errno in (
            errno.ENAMETOOLONG,
            errno.EINVAL,
        ):  # no file can have such a name; an image's id may be it
            return False
        raise FileRefused(f"{path} can't be read: {error.strerror}. Name a file that can be.") from error
    if is_folder:
        raise FileRefused(f"{path} is a folder. Name a file; for many images there is `truthloop predict`.")
    return is_there


def _is_known(workspace: "Workspace", image_id: str) -> bool:
    """Whether an image of the workspace has this id, with pixels here or without."""
    from truthloop.ingest.images import find_image

    try:
        find_image(workspace.store, image_id)
    except NotFound:
        return False
    except ImageRefused:  # only its documents were loaded
        return True
    return True


def _tell_of_result(job_id: str) -> None:
    tell_next(f"Its result: truthloop jobs result {job_id} --wait 60")


def _tell_that_it_goes_on(job_id: str) -> None:
    messages().print(
        f"Job {job_id} goes on. Its result: truthloop jobs result {job_id} --wait 60\n"
        f"To cancel it: truthloop jobs cancel {job_id}",
        markup=False,
        soft_wrap=True,
    )


def _wait(workspace: "Workspace", job_id: str, seconds: float) -> list[str]:
    """Waits until the job has ended or time is up; returns what it waits for, which has been said."""
    from truthloop.cli.screen import waiting

    told: list[str] = []

    def tell(job: "Job") -> None:
        if job.error is not None and job.error not in told and not job.state.is_final:
            told.append(job.error)
            messages().print(f"The job waits: {job.error}", style="yellow", markup=False)

    if seconds:
        with waiting("Waiting for the job ..."):
            workspace.jobs.wait(job_id, seconds=seconds, progress=tell)
    return told


def _show_found(workspace: "Workspace", job_id: str, told: list[str], *, plot: Path | None, as_json: bool) -> None:
    """Shows the result of a job.

    Raises:
        NotFound: there is no such job.
        Conflict: it has no result, or not yet; the text says why.
    """
    try:
        found = workspace.jobs.result(job_id)
    except NotFound as error:
        job = workspace.jobs.get(job_id)  # is there, or it is this that says that it isn't
        if as_json:
            raise Conflict(str(error)) from error
        if told:  # why it waits has been said above; a program reads it in the problem
            raise Conflict(re.sub(f": {re.escape(told[-1])}$", ".", str(error))) from error
        if job.state == "queued" and job.error is None:  # else the error says why it waits
            messages().print(
                "It waits for a worker: `truthloop up` has one, `truthloop worker` is one. "
                f"Then: truthloop jobs result {job_id} --wait 60",
                markup=False,
                soft_wrap=True,
            )
        raise Conflict(str(error)) from error
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
    print_fields(
        ("job", job.id),
        ("state", job.state),
        ("model", f"{job.model} {job.model_version}"),
        ("image", job.image_id or "none yet"),
        ("attempts", str(job.attempts) if job.attempts else None),
        ("error", job.error),
        ("deadline", _span(job.deadline_seconds) if job.deadline_seconds else None),
        ("created", utc(job.created_at)),
        ("started", utc(job.started_at)),
        ("finished", utc(job.finished_at)),
    )


def _jobs_table(page: "JobPage") -> "Table":
    from rich.table import Table
    from rich.text import Text

    # One blank between columns: with the longest of our models' names a row has 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("job", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("model")
    table.add_column("created UTC", no_wrap=True)
    for job in page.items:
        colour = {"failed": "red", "succeeded": "green"}.get(job.state, "")
        table.add_row(job.id, Text(job.state, colour), Text(job.model), f"{job.created_at:%m-%d %H:%M}")
    return table


def _show_result(found: "JobResult") -> None:
    from rich.table import Table

    rows = found.labels or found.boxes or found.classes or []
    out = console()
    out.print(f"Job {found.job_id}", markup=False)
    out.print(
        f"{found.model} {found.model_version} on {found.image_id} ({found.width} x {found.height})",
        markup=False,
        soft_wrap=True,
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


def _span(seconds: float) -> str:
    """A span of time for people, to three digits.

    >>> _span(0.5), _span(90), _span(600), _span(9_000), _span(1_617_150)
    ('0.5 s', '90 s', '10 min', '2.5 h', '18.7 days')
    """
    for unit, length, up_to in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < up_to:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"
