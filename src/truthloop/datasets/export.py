"""The verb `export`: a version as files for training, read back and compared before it is called done."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from glob import escape
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias
from uuid import uuid4

import orjson

from truthloop.datasets import entries as files
from truthloop.datasets.documents import ExportedPart, ExportReport, Progress, unheard
from truthloop.datasets.show import file_of, find_built
from truthloop.datasets.splits import DEFAULT, PARTS, Part, parse_split, part_of
from truthloop.errors import Conflict, FileRefused, InputRefused
from truthloop.store.connection import Store

Format: TypeAlias = Literal["jsonl", "parquet"]
FORMATS: tuple[Format, ...] = ("jsonl", "parquet")
Row: TypeAlias = dict[str, Any]

# The end of the name of a folder that an export is still written into.
_SUFFIX = ".exporting"
# Images between two calls of `progress`.
TOLD_EVERY = 10_000
_DAMAGED = object()


def export(
    store: Store,
    version: int | None = None,
    *,
    out: Path,
    format: Format = "jsonl",  # noqa: A002 - the option's name
    split: str = DEFAULT,
    progress: Progress = unheard,
) -> ExportReport:
    """Writes a version into a new folder: a file each for train, val and test, and `export.json`.

    Args:
        store: the workspace.
        version: which one; by default the newest.
        out: the folder, which must not be there yet. It appears when everything in it is whole and compared.
        format: `jsonl`, an entry a line, or `parquet`.
        split: the percents of train, val and test.
        progress: called with what is being done and how many images that has been done for.

    Raises:
        NotFound: there is no such version.
        InputRefused: the format or the split is none.
        Conflict: the folder is there already, or the version's file is not what was built.
        FileRefused: a file can't be read or written, or what was written reads back differently.
        DiskFull: no room is left.
    """
    if format not in FORMATS:
        raise InputRefused(f"{format} is no format. Choose one of {', '.join(FORMATS)}.")
    shares = parse_split(split)
    given, out = out, out.absolute()
    _refuse_existing(out)
    found = find_built(store, version)
    number = int(found["_id"])
    source = file_of(store, found, files.ENTRIES)
    if files.hash_of(source) != found["sha256"]:
        raise Conflict(
            f"{source} is not the file that was built: its SHA-256 differs from the record's. Restore it from a "
            "backup, or build a new version with `truthloop dataset build`."
        )
    writing = out.with_name(f".{out.name}.{uuid4().hex[:8]}{_SUFFIX}")
    held = None
    try:
        _sweep(out)
        writing.mkdir(parents=True)
        held = _hold(writing)
        counts = _write(source, writing, format, shares, progress)
        _compare(source, writing, format, shares, progress)
        report = ExportReport(
            version=number,
            format=format,
            folder=str(given),
            images=sum(images for images, _ in counts.values()),
            split=split,
            parts=[_part(writing / f"{part}.{format}", part, *counts[part]) for part in PARTS],
            synthetic=found["report"]["synthetic"],
        )
        (writing / "export.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        files.sync(writing / "export.json")
        files.sync(writing)
        _refuse_existing(out)
        writing.rename(out)
        files.sync(out.parent)
    except OSError as error:
        raise files.disk_error(error, out) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)
        if held is not None:
            os.close(held)
    return report


def _hold(folder: Path) -> int:
    """Locks a folder for as long as this process lives, or until the descriptor is closed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _sweep(out: Path) -> None:
    """Removes what exports to this folder left behind that were killed; those that live hold theirs."""
    for left in out.parent.glob(f".{escape(out.name)}.*{_SUFFIX}"):
        with suppress(OSError):
            held = _hold(left)
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _refuse_existing(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise Conflict(f"{out} is there already, and an export replaces nothing. Name a folder that isn't.")


def _part(path: Path, part: Part, images: int, boxes: int) -> ExportedPart:
    return ExportedPart(
        part=part,
        file=path.name,
        images=images,
        boxes=boxes,
        bytes=path.stat().st_size,
        sha256=files.hash_of(path),
    )


def _write(
    source: Path,
    folder: Path,
    format: Format,  # noqa: A002
    shares: Mapping[Part, int],
    progress: Progress,
) -> dict[Part, tuple[int, int]]:
    """Writes the parts; returns how many images and boxes went into each."""
    counts = dict.fromkeys(PARTS, (0, 0))
    done = 0
    with ExitStack() as stack:
        writers = {part: stack.enter_context(_WRITERS[format](folder / f"{part}.{format}")) for part in PARTS}
        for row in files.read_entries(source):
            part = part_of(row["image_id"], shares)
            writers[part].add(row)
            images, boxes = counts[part]
            counts[part] = images + 1, boxes + len(row["bboxes"])
            done += 1
            if done % TOLD_EVERY == 0:
                progress("Writing", done)
    return counts


def _compare(
    source: Path,
    folder: Path,
    format: Format,  # noqa: A002
    shares: Mapping[Part, int],
    progress: Progress,
) -> None:
    """Reads the files again, and holds each entry against the version's.

    Raises:
        FileRefused: they differ.
    """
    readers = {part: _READERS[format](folder / f"{part}.{format}") for part in PARTS}
    for done, row in enumerate(files.read_entries(source), start=1):
        part = part_of(row["image_id"], shares)
        if _next(readers[part]) != row:
            raise _differs(folder / f"{part}.{format}", f"at image {row['image_id']}")
        if done % TOLD_EVERY == 0:
            progress("Comparing", done)
    for part, left in readers.items():
        if _next(left) is not None:
            raise _differs(folder / f"{part}.{format}", "at its end")


def _next(rows: Iterator[Row]) -> Row | object | None:
    """The next row of an exported file; None at its end, and something that is no row where it can't be read."""
    try:
        return next(rows, None)
    except (orjson.JSONDecodeError, FileRefused):
        return _DAMAGED


def _differs(path: Path, where: str) -> FileRefused:
    return FileRefused(
        f"{path.name} reads back differently {where}; the export was removed. Check the disk, then try again."
    )


class _JsonLines:
    """A file of one entry a line, that is being written."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("xb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        files.sync(self._path)

    def add(self, row: Row) -> None:
        self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def _read_json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


_WRITERS: Mapping[Format, Callable[[Path], Any]] = {"jsonl": _JsonLines, "parquet": files.EntriesFile}
_READERS: Mapping[Format, Callable[[Path], Iterator[Row]]] = {
    "jsonl": _read_json_lines,
    "parquet": files.read_entries,
}
