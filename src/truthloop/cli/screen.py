"""What the commands share in writing to the terminal: consoles, JSON, counts and fractions."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.console import Console

from truthloop.errors import FileRefused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from pydantic import BaseModel
    from rich.table import Table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves a closed pipe to `main`, which ends quietly; Rich itself would exit with 1."""
        raise BrokenPipeError


# Where nobody's screen sets a limit, no line is broken: a table is as wide as what it holds.
UNBROKEN = 100_000


class _Stripped:
    """A stream without the blanks at the ends of lines, with which a table fills its last column."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(re.sub(r" +\n", "\n", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def console() -> Console:
    """The standard output: what the command answers. Plain and unbroken where it isn't a terminal."""
    if sys.stdout.isatty():
        return _Console(highlight=False)
    return _Console(highlight=False, soft_wrap=True, width=UNBROKEN, file=cast("TextIO", _Stripped(sys.stdout)))


def messages() -> Console:
    """The standard error: progress, hints and errors, so that an answer can be piped on."""
    sys.stdout.flush()  # what was written before is shown before, also where both go to one file
    is_terminal = sys.stderr.isatty()
    return _Console(
        highlight=False, stderr=True, soft_wrap=not is_terminal, width=None if is_terminal else UNBROKEN
    )


def print_whole(table: "Table") -> None:
    """A table to the standard output, of which no word is broken, nor a line of a column that isn't wrapped.

    Ids are read and copied from it: where the screen is too narrow for them, the table is wider than the screen.
    """
    from rich.cells import cell_len
    from rich.measure import Measurement
    from rich.text import Text

    for column in table.columns:
        cells = [column.header, *column.cells]
        texts = [cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain for cell in cells]
        parts = texts if column.no_wrap else [word for text in texts for word in text.split()]
        column.min_width = max(map(cell_len, parts), default=1)
    out = console()
    needed = Measurement.get(out, out.options.update(width=UNBROKEN), table).minimum
    out.width = max(out.width, needed)  # else Rich would leave out columns
    out.print(table, crop=False)


def print_fields(*rows: tuple[str, str | None]) -> None:
    """Names and values under each other, without those that are None."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in rows:
        if value is not None:
            table.add_row(name, Text(value))
    print_whole(table)


def utc(time: "datetime | None") -> str | None:
    """A time for people."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time is not None else None


def write(text: str) -> None:
    """One line to the standard output, as it is."""
    sys.stdout.write(text + "\n")


def write_json(answer: "BaseModel | Mapping[str, Any]", *, one_line: bool = False) -> None:
    """An answer as JSON: indented, or on one line where many follow each other."""
    if not isinstance(answer, dict):
        answer = answer.model_dump(mode="json")  # type: ignore[union-attr]
    write(json.dumps(answer, ensure_ascii=False, indent=None if one_line else 2))
    if one_line:
        sys.stdout.flush()  # the next line may be long in coming, and somebody reads along


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Says what is being waited for, on a terminal, for as long as it lasts."""
    with spinning(text):
        yield


@contextmanager
def counting() -> Iterator[Callable[[int], None]]:
    """Says, on a terminal, how many images have been counted, where it comes to counting them all."""
    with spinning("Counting ...") as show:
        yield lambda number: show(f"Counting ... {number_of(number, 'image')}")


@contextmanager
def spinning(text: str) -> Iterator[Callable[[str], None]]:
    """As `waiting`, for what can say how far it is: gives what changes the text."""
    from rich.live import Live
    from rich.spinner import Spinner

    spinner = Spinner("dots", text=text, style="status.spinner")
    # Not `Console.status`: while it lasts, what is written to the standard output goes to the standard error, so
    # that with `> FILE` the answer would be on the screen and the file empty.
    is_shared = sys.stdout.isatty()
    with Live(spinner, console=messages(), refresh_per_second=12.5, transient=True, redirect_stdout=is_shared):
        yield lambda now: spinner.update(text=now)


def count(number: int) -> str:
    """A number of things, as people read it.

    >>> count(2443)
    '2,443'
    """
    return f"{number:,}"


def number_of(number: int, what: str) -> str:
    """So many of something, in words.

    >>> number_of(1, "image"), number_of(2443, "image"), number_of(0, "box")
    ('1 image', '2,443 images', '0 boxes')
    """
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('x') else 's'}"


def percent(fraction: float | None) -> str:
    """A fraction for people; says neither 0 nor 100 where a few are left.

    >>> [percent(value) for value in (None, 0, 0.0001, 0.0825, 0.86, 0.9999, 1)]
    ['–', '0.0 %', '<0.1 %', '8.3 %', '86.0 %', '>99.9 %', '100.0 %']
    """
    if fraction is None:
        return "–"
    if 0 < fraction < 0.0005:
        return "<0.1 %"
    if 0.9995 <= fraction < 1:
        return ">99.9 %"
    # Halves go up, as in JavaScript, so that the page and the terminal never differ.
    return f"{Decimal(100 * fraction).quantize(Decimal('0.1'), ROUND_HALF_UP)} %"


def write_file(path: "Path", data: bytes) -> None:
    """Writes a file that the user named, and says so.

    Raises:
        FileRefused: it can't be written.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise FileRefused(f"{path} can't be written: {error.strerror}. Name another file.") from error
    messages().print(f"Wrote {path}.", markup=False, soft_wrap=True)


def tell_next(text: str) -> None:
    """What may be done next, for a person who reads along."""
    messages().print(text, style="dim", markup=False, soft_wrap=True)


def tell_of_more(command: str, after: object, *, limit: int, default_limit: int, **only: str | None) -> None:
    """Names the command that lists the next page of the same list.

    Args:
        command: the one that listed this page, such as `jobs list`.
        after: where the next page begins.
        limit: of this page.
        default_limit: the one that need not be named.
        only: by which options the list was narrowed; None for those that weren't given.
    """
    import shlex

    given = {"after": str(after), **only, "limit": str(limit) if limit != default_limit else None}
    options = "".join(f" --{name} {shlex.quote(value)}" for name, value in given.items() if value is not None)
    tell_next(f"There are more: truthloop {command}{options}")
