"""`truthloop up` and `truthloop down`."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from truthloop.cli.options import Debug, Json, Wait, open_workspace, wait_for_workspace
from truthloop.errors import AlreadyRunning, Unavailable

if TYPE_CHECKING:
    from types import FrameType

    from truthloop.cli.place import Service
    from truthloop.settings import Settings
    from truthloop.workspace import Workspace

# The first start of the embedded MongoDB on a slow disk takes seconds, not minutes.
START_SECONDS = 120.0
STOP_SECONDS = 30.0
LOOK_SECONDS = 0.1
# A service says where it is as soon as it has taken the place.
NAME_SECONDS = 5.0


class _Terminated(BaseException):
    """SIGTERM came: the service ends as it was asked to."""


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Start it in the background and return.")] = False,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="ADDRESS", help="The address to listen on. Default: TRUTHLOOP_HOST, 127.0.0.1."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="PORT",
            min=1,
            max=65_535,
            help="The port to listen on. Default: TRUTHLOOP_PORT, 8080.",
        ),
    ] = None,
    without_worker: Annotated[
        bool, typer.Option("--without-worker", help="Leave the jobs to `truthloop worker`, run elsewhere.")
    ] = False,
    wait: Wait = False,
    log_file: Annotated[Path | None, typer.Option("--log-file", hidden=True)] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Run the service: the HTTP API, what keeps the status current, and a worker for inference jobs.

    Prints a link with its token and how to stop it: Ctrl-C or SIGTERM, or `truthloop down` from elsewhere.
    Makes the workspace where there is none.
    """
    from truthloop.settings import load_settings

    settings = load_settings()
    settings = settings.model_copy(
        update={name: value for name, value in (("host", host), ("port", port)) if value is not None}
    )
    if detach:
        _up_detached(settings, as_json=as_json, without_worker=without_worker, wait=wait)
        running = _found(settings.home)
        if port is not None and running is not None and running.url != _local_url(settings):
            from truthloop.cli.screen import messages

            messages().print(
                f"It runs already and keeps its address. For port {port}: truthloop down, then again."
            )
    else:
        _up(settings, as_json=as_json, without_worker=without_worker, wait=wait, log_file=log_file)


def down(as_json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """Stop the service, and the embedded MongoDB with it. Where nothing runs, that is fine."""
    from truthloop.cli.screen import console, messages, waiting, write_json
    from truthloop.settings import load_settings
    from truthloop.store import embedded

    settings = load_settings()
    service = _found(settings.home)
    if service is not None:
        with waiting("Stopping the service ..."):
            killed = _stop(settings.home, service)
        if killed:
            messages().print(f"Process {service.pid} did not stop within {STOP_SECONDS:.0f} s and was killed.")
    server_stopped = False
    if settings.mongodb_uri is None and settings.home.is_dir():
        with waiting("Stopping MongoDB ..."):
            server_stopped = embedded.stop(settings.home)
    if as_json:
        write_json({"service_stopped": service is not None, "mongodb_stopped": server_stopped})
        return
    if service is not None:
        console().print(f"Stopped the service at {service.url} (process {service.pid}).")
    if server_stopped:
        console().print("Stopped the embedded MongoDB; its data stays.")
    if service is None and not server_stopped:
        console().print("Nothing was running.")


def _up(settings: "Settings", *, as_json: bool, without_worker: bool, wait: bool, log_file: Path | None) -> None:
    from truthloop.api.app import create_app
    from truthloop.api.serve import serve
    from truthloop.cli import place
    from truthloop.cli.screen import messages
    from truthloop.logs import configure

    def announce(url: str) -> None:  # noqa: ARG001
        if log_file is None:  # else whoever detached this process does it, and the token stays out of the log
            _announce(settings, service, as_json=as_json, how_to_stop="Ctrl-C")

    stop = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(_sigterm_ends())
        if log_file is not None:
            stack.enter_context(place.bounded_log(log_file))
        service = stack.enter_context(place.claim(settings.home, _local_url(settings)))
        _check_address(settings)
        token = place.token(settings)
        configure(settings.log_level)
        if wait:
            wait_for_workspace(settings, stop, create=True)
        workspace = stack.enter_context(open_workspace(settings, create=True))
        works: list[tuple[str, Callable[[threading.Event], None]]] = [
            ("follower", workspace.follow_changes),
            ("settle", workspace.dataset.settle),
            ("tidy", workspace.tidy),
        ]
        if not without_worker:
            works.append(("worker", partial(_work, workspace)))
        for name, work in works:
            thread = threading.Thread(target=work, args=(stop,), name=f"truthloop-{name}", daemon=True)
            thread.start()
            stack.callback(thread.join, STOP_SECONDS)
        stack.callback(stop.set)
        serve(
            create_app(workspace, token=token, settings=settings),
            host=settings.host,
            port=settings.port,
            ready=announce,
        )
    messages().print("Stopped.")


def _work(workspace: "Workspace", stop: threading.Event) -> None:
    """Works jobs and batches; where that can't be, the rest of the service goes on, and other workers may."""
    from truthloop.logs import get_logger

    try:
        workspace.run_worker(stop)
    except Exception:
        get_logger(__name__).exception("worker_ended")


def _up_detached(settings: "Settings", *, as_json: bool, without_worker: bool, wait: bool) -> None:
    from truthloop.cli import place
    from truthloop.cli.screen import waiting

    service = place.find(settings.home)
    if service is not None and service.is_ready():
        _announce(settings, service, as_json=as_json, how_to_stop="truthloop down", already=True)
        return
    if not place.is_held(settings.home):
        _check_address(settings)
    place.token(settings)  # made here, so that a folder that can't be written is said at once
    log = settings.home / place.LOG_NAME
    with place.open_log(log) as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "truthloop", "up"),
                *("--host", settings.host, "--port", str(settings.port), "--log-file", str(log)),
                *(["--without-worker"] if without_worker else []),
                *(["--wait"] if wait else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "TRUTHLOOP_HOME": str(settings.home)},
            start_new_session=True,
        )
    with waiting("Starting the service ..."):
        service = _wait_until_ready(settings, process)
    _announce(settings, service, as_json=as_json, how_to_stop="truthloop down", already=service.pid != process.pid)


def _wait_until_ready(settings: "Settings", process: "subprocess.Popen[bytes]") -> "Service":
    """The service once it answers, be it ours or that of another `up` which was quicker."""
    from truthloop.cli import place

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        service = place.find(settings.home)
        if service is not None and service.is_ready():
            return service
        if ended and not place.is_held(settings.home):
            break
        time.sleep(LOOK_SECONDS)
    else:
        process.terminate()
    log = settings.home / place.LOG_NAME
    raise Unavailable(f"The service did not start. The end of {log}:\n{place.last_lines(log)}")


def _found(home: Path) -> "Service | None":
    """The running service; one that has only just taken the place is given the time to say where it is."""
    from truthloop.cli import place

    deadline = time.monotonic() + NAME_SECONDS
    while (service := place.find(home)) is None and place.is_held(home):
        if time.monotonic() > deadline:
            raise AlreadyRunning(
                f"Something that can't be seen from here holds {home / place.LOCK_NAME}: another container or "
                "machine, or another program. Stop it there."
            )
        time.sleep(LOOK_SECONDS)
    return service


def _stop(home: Path, service: "Service") -> bool:
    """Ends the service; returns whether it had to be killed."""
    from truthloop.cli import place

    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            if not place.send(home, service, number):
                return False
        except PermissionError:
            raise AlreadyRunning(
                f"The service is another user's (process {service.pid}). Ask them to run `truthloop down`."
            ) from None
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if not place.holds(home, service):
                return number == signal.SIGKILL
            time.sleep(LOOK_SECONDS)
    raise Unavailable(f"Process {service.pid} can't be stopped; the system holds it. Look at its state with `ps`.")


def _announce(
    settings: "Settings", service: "Service", *, as_json: bool, how_to_stop: str, already: bool = False
) -> None:
    from truthloop.cli import place
    from truthloop.cli.screen import console, write_json

    link = place.link(settings, service)
    if as_json:
        write_json({"url": service.url, "link": link, "pid": service.pid, "already_running": already})
        sys.stdout.flush()
        return
    out = console()
    out.print("Truthloop is already running:" if already else "Truthloop is running:", style="bold")
    out.print(f"  {link}", markup=False, soft_wrap=True)
    out.print(f"Stop it with {how_to_stop}." if how_to_stop == "Ctrl-C" else f"Stop it with `{how_to_stop}`.")
    sys.stdout.flush()


def _local_url(settings: "Settings") -> str:
    """The address of the service from this machine, also where it listens on all of its addresses."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _check_address(settings: "Settings") -> None:
    """Refuses an address that the service would be refused, before anything is started for it."""
    from truthloop.api.serve import check_reach, listen

    check_reach(settings.host, has_own_token=settings.token is not None)
    listen(settings.host, settings.port).close()


@contextmanager
def _sigterm_ends() -> Iterator[None]:
    """Ends the block at SIGTERM as if it had come to its end, cleaning up on the way."""

    def terminate(number: int, frame: "FrameType | None") -> NoReturn:  # noqa: ARG001
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except _Terminated:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
