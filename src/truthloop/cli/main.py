"""The command `truthloop`: composes the stages' commands, and turns errors into lines and exit codes."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from truthloop import __version__
from truthloop.cli import (
    batches,
    dataset,
    doctor,
    events,
    failures,
    images,
    ingest,
    jobs,
    load,
    models,
    outline,
    predict,
    relay,
    sample,
    service,
    settings,
    simulate,
    status,
    why,
    worker,
)
from truthloop.cli.stopping import INTERRUPTED
from truthloop.errors import FileRefused, InputRefused, TruthloopError

# What the shell reports for a process that SIGINT or SIGPIPE has ended.
PIPE_CLOSED = 141
FAILED, WRONG_USE = 1, 2


class _Commands(TyperGroup):
    """Ends quietly when whoever read the output has gone, as in `truthloop images --all | head`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _discard_output()
            raise typer.Exit(PIPE_CLOSED) from None
        return result


app = typer.Typer(
    name="truthloop",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A data engine for computer-vision teams: how much of your boxes is seen, verified and corrected.",
    epilog="Exit codes: 0 done, 1 the work failed, 2 wrong use. Settings: `truthloop settings`.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"truthloop {__version__}")
        raise typer.Exit


@app.callback()
def _truthloop(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


app.command("up")(service.up)
app.command("down")(service.down)
app.command("load")(load.load_documents)
app.command("ingest")(ingest.ingest_images)
app.command("sample")(sample.make_sample)
app.command("status")(status.show_status)
app.command("images")(images.list_images)
app.command("failures")(failures.show_failures)
app.command("why")(why.tell)
app.command("outline")(outline.outline_image)
app.add_typer(dataset.app, name="dataset")
app.add_typer(models.app, name="models")
app.command("predict")(predict.predict)
app.add_typer(jobs.app, name="jobs")
app.add_typer(batches.app, name="batches")
app.command("worker")(worker.run_worker)
app.command("relay")(relay.run_relay)
app.command("simulate")(simulate.run_simulation)
app.command("events")(events.list_events)
app.command("settings")(settings.show_settings)
app.command("doctor")(doctor.examine)


def main() -> None:
    """Runs the command with this process's arguments, and ends the process."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that lacks a character
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # All is done and said: Ctrl-C in what Python still has to do ends it, without a word on what it was.
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code. Errors stand on the standard error, one line each."""
    as_json, debug = "--json" in arguments, "--debug" in arguments
    try:
        code = _for_the_screen(typer.main.get_command(app)).main(
            list(arguments), prog_name="truthloop", standalone_mode=False, windows_expand_args=False
        )
    except typer.TyperException as error:
        text = getattr(error, "format_message", error.__str__)()
        if not text:  # no arguments at all: the help has been shown
            return WRONG_USE
        if debug:
            traceback.print_exc()
        text = _one_line(text).replace("Value error, ", "")
        if not text.endswith("?"):  # as in "Did you mean 'jobs'?"
            text = text.rstrip(".") + "."
        _complain(text, title="Wrong use", status=422, as_json=as_json, hint=_help_hint(error))
        return WRONG_USE
    except TruthloopError as error:
        if debug:
            traceback.print_exc()
        errors = error.errors if isinstance(error, InputRefused) else {}
        _complain(str(error), title=error.title, status=error.status, as_json=as_json, errors=errors)
        return exit_code(type(error))
    except OSError as error:
        if debug:
            traceback.print_exc()
        _complain(
            f"{error.filename}: {error.strerror or error}. Make that place readable and writable, or name another "
            "workspace folder in TRUTHLOOP_HOME."
            if error.filename is not None
            else f"What the command says can't be written: {error.strerror or error}.",
            title=TruthloopError.title,
            status=TruthloopError.status,
            as_json=as_json,
        )
        return FAILED
    except KeyboardInterrupt:  # before or after the command itself, which has its own way to say so
        code = INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        _complain(
            f"This should not have happened: {_one_line(f'{type(error).__name__}: {error}')}. "
            "Run it again with --debug and report what it shows.",
            title=TruthloopError.title,
            status=TruthloopError.status,
            as_json=as_json,
        )
        return FAILED
    if code == INTERRUPTED:
        sys.stderr.write("Interrupted.\n")
    return code if isinstance(code, int) else 0


def _for_the_screen(command: Any) -> Any:
    """The commands with helps that fill the screen's width: without the source's line breaks, and no `<bool>`."""
    command.help = "\n\n".join(" ".join(each.split()) for each in (command.help or "").split("\n\n"))
    for parameter in (*command.params, command.get_help_option(typer.Context(command))):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""  # a flag takes no value
    for part in getattr(command, "commands", {}).values():
        _for_the_screen(part)
    return command


def exit_code(error: type[TruthloopError]) -> int:
    """The exit code of a command that ends with such an error.

    A file or folder that isn't there, or can't be read or written, is no wrong use, wherever it is named.
    """
    return WRONG_USE if issubclass(error, InputRefused) and not issubclass(error, FileRefused) else FAILED


def _complain(
    text: str,
    *,
    title: str,
    status: int,
    as_json: bool,
    errors: dict[str, str] | None = None,
    hint: str = "",
) -> None:
    """Says what is wrong and what to do: a line, or with `--json` a problem as the HTTP API has it."""
    if as_json:
        import json

        problem = {"title": title, "status": status, "detail": text, **({"errors": errors} if errors else {})}
        sys.stderr.write(json.dumps(problem, ensure_ascii=False) + "\n")
    else:
        sys.stderr.write(f"Error: {text}{hint}\n")


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f" See `{context.command_path if context is not None else 'truthloop'} --help`."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _discard_output() -> None:
    """Sends what is still in the buffers nowhere; else Python complains about them at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
