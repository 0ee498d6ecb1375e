"""Writes the pages of docs/ that come from the code, and runs the examples that stand in the others.

    python docs/generate.py

writes `settings.md`, `cli.md` and `errors.md`, draws `status.png`, `failures.png` and `failures-summary.png`, and
puts what the commands really print under each command of the `console` blocks. tests/test_docs.py runs the same
and compares, so that no page tells tales.

A block of `sh` or `python` is run; a block of `console` is run and its output compared. `not-run` after the
language marks what needs a network or another machine. A page runs in a folder of its own, in the order of its
blocks; in it, `face-detection` is the folder with the four files of brief 1, and `photos` one with the photographs
of `truthloop sample --photos`.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truthloop.ingest.photographs import photographs

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
HAND_WRITTEN = (
    "README.md",
    "docs/index.md",
    "docs/install.md",
    "docs/ingest.md",
    "docs/models.md",
    "docs/jobs.md",
    "docs/simulate.md",
    "docs/outlines.md",
    "docs/failures.md",
    "docs/datasets.md",
    "docs/deploy.md",
    "docs/briefs/1.md",
    "docs/briefs/3.md",
    "docs/briefs/5.md",
)
TIMEOUT_SECONDS = 120
# The image of docs/failures.png: one of the four that brief 1 asks about.
PICTURED = "4a25a2ab002137dac4fe3e09ba91c349"
# What differs from run to run, and what stands for it in a page.
VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z|\+00:00)?"), "2026-01-01 00:00:00 UTC"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "0190...-id"),
    (re.compile(r"token=[\w-]+"), "token=..."),
    (re.compile(r"process \d+"), "process 4711"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:8080"),
    (re.compile(r"in \d+\.\d s"), "in 0.5 s"),
    (re.compile(r"\S*(\.truthloop/rejects/)\d{8}T\d{6}Z-[0-9a-f]{12}"), r"\1..."),
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page: its language, the rest of the fence's line, and its lines."""

    language: str
    remark: str
    text: str

    def commands(self) -> Iterator[tuple[str, str | None]]:
        """Each command with the output that the page shows, or None where it shows none."""
        if self.language == "python":
            yield f"python3 - <<'END'\n{self.text}END", None
            return
        if self.language == "sh":
            for line in self.text.splitlines():
                if line.strip() and not line.startswith("#"):
                    yield line, None
            return
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def blocks(page: str) -> list[Block]:
    """The blocks of a page that are to be run."""
    found = re.findall(r"^```(sh|console|python)([^\n]*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found if "not-run" not in parts[1]]


@contextmanager
def working_folder(data: Path | None) -> Iterator[tuple[Path, dict[str, str]]]:
    """An empty folder to run a page's commands in, and their environment; all is stopped and removed afterwards.

    Args:
        data: the folder with brief 1's files, for the pages that use them.
    """
    folder = Path(tempfile.mkdtemp(prefix="truthloop-docs-"))
    if data is not None:
        (folder / "face-detection").symlink_to(data.resolve())
    (folder / "photos").mkdir()
    for photograph in photographs():
        (folder / "photos" / photograph.name).symlink_to(photograph)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUTHLOOP_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        "COLUMNS": "80",
        "TZ": "UTC",
        # The port that pages name may be taken on this machine; which one it is doesn't show.
        "TRUTHLOOP_PORT": str(_free_port()),
    }
    try:
        yield folder, environment
    finally:
        subprocess.run(["truthloop", "down"], cwd=folder, env=environment, capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    """Runs one command line of a page; returns what it prints. Commands of `make` are only looked up.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    if command.startswith("make "):
        command, folder = command.replace("make", "make --dry-run", 1), ROOT
    # The port that pages name may be taken on this machine.
    command = command.replace("127.0.0.1:8080", f"127.0.0.1:{environment['TRUTHLOOP_PORT']}")
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"


def normal(output: str) -> str:
    """The output with stand-ins for what differs from run to run."""
    for pattern, stand_in in VOLATILE:
        output = pattern.sub(stand_in, output)
    return output.strip()


def refreshed(page: str, data: Path | None) -> str:
    """The page with the real output under the commands of its `console` blocks."""
    with working_folder(data) as (folder, environment):
        for block in blocks(page):
            parts = []
            for command, _ in block.commands():
                output = run(command, folder, environment)
                parts.append(f"$ {command}\n{normal(output)}\n".replace("\n\n\n", "\n\n"))
            if block.language == "console":
                page = page.replace(f"\n{block.text}```", "\n" + "\n".join(parts) + "```", 1)
    return page


def settings_page() -> str:
    """docs/settings.md."""
    from truthloop.settings import FILE_NAME, PREFIX, Settings

    lines = [
        "# Settings",
        "",
        "Each is a variable of the environment, or a line of the file "
        f"`{FILE_NAME}` in the workspace folder, there in lower case and without `{PREFIX}`: "
        "`TRUTHLOOP_PORT=9000` or `port = 9000`. The environment wins; an empty variable is as good as none. "
        "`truthloop settings` shows "
        "the values that are in force and where each came from. A value that isn't allowed stops the start.",
        "",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if name == "home" or field.default is None else f"Default: `{_plain(field.default)}`."
        lines += [f"## {PREFIX}{name.upper()}", "", str(field.description), *([default] if default else []), ""]
    return "\n".join(lines)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def cli_page() -> str:
    """docs/cli.md."""
    import typer

    from truthloop.cli.main import app

    command = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "Exit codes: 0 done, 1 the work failed (or some of it was refused), 2 wrong use, 130 ended by Ctrl-C "
        "before it was done. `worker`, `relay` and `up` end with 0 after Ctrl-C or SIGTERM, since to be stopped "
        "is what they wait for. "
        "A file or folder that isn't there, or can't be read or written, is 1, whichever command names it. "
        "An error is one line on the standard error that says what to do; `--debug` shows its traceback. "
        "With `--json` the answer is JSON on the standard output, and an error is a problem document "
        "(`title`, `status`, `detail`, `errors`), the same as over HTTP, on one line of the standard error. "
        "Progress goes to the standard error, and only to a terminal; NO_COLOR is respected.",
        "",
        "`truthloop --install-completion` makes the shell complete commands, options and their values.",
        "",
    ]
    for name, sub in _commands(command):
        options = [option for option in sub.params if not option.hidden]
        arguments = [_argument(option) for option in options if option.param_type_name == "argument"]
        lines += [f"## truthloop {name}", "", f"`{' '.join(['truthloop', name, *arguments, '[OPTIONS]'])}`", ""]
        lines += [*_paragraphs(sub.help or ""), "| | |", "|---|---|"]
        for option in options:
            shown = option.metavar if option.param_type_name == "argument" else " ".join(option.opts)
            if option.param_type_name == "option" and option.metavar:
                shown += f" {option.metavar}"
            default = f" Default: {option.default}." if type(option.default) is int else ""
            required = " Required." if option.required and option.param_type_name == "option" else ""
            lines.append(f"| `{shown}` | {option.help}{required}{default} |")
        lines.append("")
    return "\n".join(lines)


def _argument(argument: Any) -> str:
    if argument.nargs != 1:
        return f"{argument.metavar}..."
    return str(argument.metavar) if argument.required else f"[{argument.metavar}]"


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of a group and of the groups in it, each with its whole name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield " ".join(paragraph.split())
        yield ""


def errors_page() -> str:
    """docs/errors.md."""
    from truthloop.api.problems import error_classes
    from truthloop.cli.main import exit_code

    lines = [
        "# Errors",
        "",
        "Every error that Truthloop raises on purpose, with the status of its problem document over HTTP and the "
        "exit code of a command that ends with it. Its text says what is wrong and what to do.",
        "",
    ]
    for kind in error_classes():
        about = " ".join((kind.__doc__ or "").split())
        facts = f"`{kind.__name__}`, HTTP status {kind.status}, exit code {exit_code(kind)}."
        lines += [f"## {kind.title}", "", about, "", facts, ""]
    return "\n".join(lines)


PAGES = {"settings.md": settings_page, "cli.md": cli_page, "errors.md": errors_page}


def main() -> None:
    """Writes all pages anew."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
    with working_folder(None) as (folder, environment):
        run("truthloop sample", folder, environment)
        run(f"truthloop status --png '{DOCS / 'status.png'}'", folder, environment)
    data = Path(os.environ.get("TRUTHLOOP_TEST_DATA", ROOT.parent / "shared")) / "data" / "face-detection"
    with working_folder(data) as (folder, environment):
        run("truthloop load face-detection", folder, environment)
        run(f"truthloop failures {PICTURED} --plot '{DOCS / 'failures.png'}'", folder, environment)
        run(f"truthloop failures --summary --png '{DOCS / 'failures-summary.png'}'", folder, environment)
    for name in HAND_WRITTEN:
        path = ROOT / name
        path.write_text(refreshed(path.read_text(encoding="utf-8"), data), encoding="utf-8")


if __name__ == "__main__":
    main()
