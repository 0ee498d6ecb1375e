"""`truthloop simulate`."""

import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json
from truthloop.cli.screen import console, count, messages, number_of, write_json
from truthloop.cli.stopping import INTERRUPTED
from truthloop.errors import SettingRefused, Unavailable
from truthloop.simulate.limits import CONCURRENCY, JOBS, MAX_CONCURRENCY, MAX_JOBS, MODELS, PATIENCE_SECONDS

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import RenderableType
    from rich.table import Table

    from truthloop.events.documents import Event
    from truthloop.settings import Settings
    from truthloop.simulate.run import OperationFigures, Report, Simulation

# As many findings of a kind as the screen shows.
SHOWN = 10
# Between two lines about progress where there is no terminal, and after this time without a job's end it says so.
LINE_SECONDS, IDLE_SECONDS = 10.0, 10.0
# The log is written so often, in one piece: the table below it is drawn anew each time.
FLUSH_SECONDS = 0.1
# What is still on its way to a follower when all else is done is waited for so long.
DRAIN_SECONDS = 10.0
# Of the log, so many events are kept that may still turn out to be of this run.
MAX_KEPT = 10_000
_FAULTS = ("lost", "doubled", "out_of_order", "unexpected", "unanswered")


def run_simulation(
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", min=1, max=MAX_JOBS, help="How many jobs.")] = JOBS,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="R",
            min=0.001,
            max=100_000.0,
            help="So many jobs become due each second. Default: as many as the clients can do.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--models",
            "--model",
            metavar="MODELS",
            help="The models, with commas or given several times. Default: opencv_faces,opencv_people.",
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency",
            metavar="C",
            min=1,
            max=MAX_CONCURRENCY,
            help="How many clients work at a time, each on one job.",
        ),
    ] = CONCURRENCY,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="FOLDER", help="Send the images of this folder. Default: drawings."),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            "--patience",
            metavar="SECONDS",
            min=1.0,
            max=86_400.0,
            help="How long a request is repeated in vain, and a job waited for while no other ends.",
        ),
    ] = PATIENCE_SECONDS,
    follow: Annotated[bool, typer.Option("--follow", help="Print the event log of the jobs beside it.")] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Make traffic: clients that create, execute, read, cancel and delete jobs over HTTP, and check everything.

    Four of five jobs run to their end, the others are cancelled or deleted in different states. At the end every
    job, its result and its events are read back, from Kafka as well where TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS is
    set; the exit code is 1 if a job failed or anything that was acknowledged is lost, doubled or out of order. The
    service is the one that runs for this workspace, or the one at TRUTHLOOP_URL with TRUTHLOOP_TOKEN.

    Ctrl-C begins no more jobs and checks those there are; a second one leaves at once.
    """
    from truthloop.settings import load_settings
    from truthloop.simulate.pictures import FolderPictures
    from truthloop.simulate.run import Simulation

    named = [name.strip() for given in models or [] for name in given.split(",") if name.strip()]
    settings = load_settings()
    pictures = FolderPictures(images) if images is not None else None
    url, token = reach(settings)
    simulation = Simulation(
        url,
        token,
        jobs=jobs,
        rate=rate,
        models=named or MODELS,
        concurrency=concurrency,
        pictures=pictures,
        patience_seconds=patience,
        kafka=settings if settings.kafka_bootstrap_servers else None,
    )
    simulation.greet()
    with ExitStack() as stack:
        interrupted = stack.enter_context(_stop_at_signals(simulation))
        stack.enter_context(_watched(simulation, as_json=as_json))
        if follow:
            stack.enter_context(_followed(simulation, settings, url, token, as_json=as_json))
        report = simulation.run()
    if as_json:
        write_json(report)
    else:
        if follow:
            console().print()
        _show(report, url, concurrency=min(concurrency, jobs))
    if interrupted.is_set() and (report.ok or not report.checked):
        raise typer.Exit(INTERRUPTED)
    if not report.ok:
        raise typer.Exit(1)


def reach(settings: "Settings") -> tuple[str, str]:
    """Where the service is, and its token: as the settings say, else the workspace's own.

    Raises:
        Unavailable: the settings name none, and none runs for the workspace.
        SettingRefused: the settings name one that isn't the workspace's own, and no token.
    """
    from truthloop.cli import place

    service = place.find(settings.home)
    if settings.url is not None:
        # The workspace's own token is for its own service alone.
        if settings.token is None and (service is None or settings.url != service.url):
            raise SettingRefused(
                f"TRUTHLOOP_URL is {settings.url!r}, which isn't the service of the workspace {settings.home}. "
                "Give that service's token in TRUTHLOOP_TOKEN."
            )
        return settings.url, place.token(settings)
    if service is None:
        raise Unavailable(
            f"No service runs for the workspace {settings.home}. Start it with `truthloop up --detach`, or say in "
            "TRUTHLOOP_URL where one is."
        )
    return service.url, place.token(settings)


@contextmanager
def _stop_at_signals(simulation: "Simulation") -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM begins no more jobs, the second leaves; gives what tells whether one came."""
    came = threading.Event()

    def end(number: int, frame: "FrameType | None") -> None:  # noqa: ARG001
        if came.is_set():
            simulation.leave()
        else:
            came.set()
            simulation.stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _watched(simulation: "Simulation", *, as_json: bool) -> Iterator[None]:
    """Shows on a terminal how the run goes, and elsewhere says so every ten seconds, unless JSON is wanted."""
    from rich.live import Live

    screen = messages()
    if screen.is_terminal:
        with Live(
            get_renderable=lambda: _live(simulation),
            console=screen,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        ):
            yield
        return
    done = threading.Event()

    def tell() -> None:
        while not done.wait(LINE_SECONDS):
            messages().print(_line(simulation), markup=False)

    thread = threading.Thread(target=tell, name="truthloop-progress", daemon=True)
    if not as_json:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if not as_json:
            thread.join()


@contextmanager
def _followed(
    simulation: "Simulation", settings: "Settings", url: str, token: str, *, as_json: bool
) -> Iterator[None]:
    """Writes the events of the run's jobs, from Kafka where there is one."""
    from truthloop.events.text import text
    from truthloop.simulate.follow import Follower, from_api, from_kafka

    lock = threading.Lock()
    kept: deque[Event] = deque(maxlen=MAX_KEPT)
    seen: Counter[str] = Counter()
    done = threading.Event()

    def keep(event: "Event") -> None:
        if event.entity == "job":
            with lock:
                kept.append(event)
                seen[event.subject] += 1

    def flush() -> None:
        # Others' jobs stand in the log, too, and an event can be here before the answer to who made its job.
        ours: list[Event] = []
        with lock:
            for _ in range(len(kept)):
                event = kept.popleft()
                (ours if simulation.has(event.subject) else kept).append(event)
        written = "".join(f"{text(event)}\n" for event in ours)
        if written:
            out = sys.stderr if as_json else sys.stdout  # the answer is alone on the standard output
            with suppress(BrokenPipeError):  # who read along has gone; the run goes on
                out.write(written)
                out.flush()

    def write() -> None:
        while not done.wait(FLUSH_SECONDS):
            flush()

    listen = from_kafka(settings) if settings.kafka_bootstrap_servers else from_api(url, token)
    follower = Follower(listen, keep, since_seconds=simulation.began_seconds)
    writer = threading.Thread(target=write, name="truthloop-log", daemon=True)
    follower.start()
    writer.start()
    try:
        yield
        deadline = time.monotonic() + DRAIN_SECONDS
        while simulation.unseen(seen) > 0 and time.monotonic() < deadline:
            time.sleep(FLUSH_SECONDS)
    finally:
        follower.stop()
        done.set()
        writer.join()
        flush()


def _live(simulation: "Simulation") -> "RenderableType":
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from truthloop.simulate.run import OperationFigures

    stage, tally = simulation.stage, simulation.tally
    head = Table.grid(padding=(0, 2, 0, 0))
    if stage.name == "jobs":
        what = f"{count(stage.done)} of {number_of(simulation.jobs, 'job')}"
        head.add_row(what, ProgressBar(total=simulation.jobs, completed=stage.done, width=24), _speed(simulation))
    else:
        of = f" of {count(stage.total)}" if stage.total is not None else ""
        bar = ProgressBar(total=stage.total, completed=stage.done, width=24, pulse=stage.total is None)
        head.add_row(f"Reading back {stage.name}", bar, f"{count(stage.done)}{of}")
    under_way = max(0, tally.begun - tally.ended)
    states = "  ".join(f"{name} {count(number)}" for name, number in _by_number(tally.states()))
    parts: list[RenderableType] = [Text(), head]
    parts.append(Text(f"{states}  under way {count(under_way)}" if stage.name == "jobs" else states))
    if tally.retries():
        parts.append(Text(_retries(tally.retries()), style="bold"))
    if simulation.idle_seconds > IDLE_SECONDS:
        parts.append(
            Text(f"No job has ended for {simulation.idle_seconds:.0f} s. Does a worker run?", style="bold")
        )
    parts.append(Text())
    parts.append(_operations({name: OperationFigures.of(each) for name, each in tally.operations().items()}))
    return Group(*parts)


def _line(simulation: "Simulation") -> str:
    stage, tally = simulation.stage, simulation.tally
    if stage.name != "jobs":
        of = f" of {count(stage.total)}" if stage.total is not None else ""
        return f"Reading back {stage.name}: {count(stage.done)}{of}"
    retries = f"; {_retries(tally.retries())}" if tally.retries() else ""
    return f"{count(stage.done)} of {number_of(simulation.jobs, 'job')} ended, {_speed(simulation)}{retries}"


def _speed(simulation: "Simulation") -> str:
    return f"{simulation.tally.ended / max(simulation.seconds, 0.1):.1f} a second"


def _show(report: "Report", url: str, *, concurrency: int) -> None:
    out = console()
    clients = number_of(concurrency, "client")
    out.print(
        f"{number_of(report.jobs, 'job')} in {report.seconds:.1f} s by {clients} at {url}: "
        f"{report.throughput:.1f} a second",
        markup=False,
    )
    out.print("  ".join(f"{name} {count(number)}" for name, number in _by_number(report.states)))
    if report.retries:
        out.print(_retries(report.retries))
    if report.late_seconds > 1:
        out.print(
            f"The clients were up to {report.late_seconds:.1f} s behind the rate: more --concurrency may help."
        )
    out.print()
    out.print(_operations(report.operations))
    out.print()
    if report.checked:
        kafka = f", {count(report.events_in_kafka)} of them in Kafka" if report.events_in_kafka is not None else ""
        jobs = number_of(report.acknowledged, "acknowledged job")
        out.print(f"Read back: {jobs}, {number_of(report.events, 'event')}{kafka}.")
    else:
        out.print("Not checked: not everything was read back.", style="bold")
    for name in _FAULTS:
        found: list[str] = getattr(report, name)
        if not found:
            continue
        out.print(f"{name.replace('_', ' ').capitalize()}: {count(len(found))}", style="red bold")
        for text in found[:SHOWN]:
            out.print(f"  {text}", markup=False)
        if len(found) > SHOWN:
            out.print(f"  and {count(len(found) - SHOWN)} more; --json names all")
    if report.ok:
        out.print("Nothing is lost, nothing doubled, nothing out of order.", style="green")


def _operations(operations: "dict[str, OperationFigures]") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("operation", no_wrap=True)
    for name in ("count", "p50", "p95", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True, min_width=8)
    for name, each in operations.items():
        figures = (each.p50_ms, each.p95_ms, each.p99_ms, each.max_ms)
        table.add_row(name, count(each.count), *(_time(milliseconds) for milliseconds in figures))
    return table


def _time(milliseconds: float) -> str:
    """A time with three digits, for people.

    >>> [_time(each) for each in (0.66, 3.14, 41.5, 655.4, 1234.0, 65000.0)]
    ['0.66 ms', '3.1 ms', '42 ms', '655 ms', '1.2 s', '65 s']
    """
    number, unit = (milliseconds, "ms") if milliseconds < 1000 else (milliseconds / 1000, "s")
    return f"{number:.{2 if number < 1 else 1 if number < 10 else 0}f} {unit}"


def _retries(retries: dict[str, int]) -> str:
    reasons = ", ".join(f"{reason} {count(number)}" for reason, number in _by_number(retries))
    return f"{number_of(sum(retries.values()), 'request')} repeated: {reasons}"


def _by_number(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))
