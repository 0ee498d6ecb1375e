"""The verb `export`: a version as files for training, read back and compared before it is called done."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import zip_longest
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
    writing = out.with_name(f".{out.name}.{uuid4().hex[:8]}")
    try:
        writing.mkdir(parents=True)
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
    return report


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
        waiting: dict[Part, list[Row]] = {part: [] for part in PARTS}
        for row in files.read_entries(source):
            part = part_of(row["image_id"], shares)
            waiting[part].append(row)
            images, boxes = counts[part]
            counts[part] = images + 1, boxes + len(row["bboxes"])
            if len(waiting[part]) == files.ROWS:
                writers[part].write(waiting[part])
                waiting[part].clear()
            done += 1
            if done % files.ROWS == 0:
                progress("Writing", done)
        for part in PARTS:
            writers[part].write(waiting[part])
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
        if next(readers[part], None) != row:
            raise _differs(folder / f"{part}.{format}", row["image_id"])
        if done % files.ROWS == 0:
            progress("Comparing", done)
    for part, left in readers.items():
        for row, _ in zip_longest(left, ()):
            raise _differs(folder / f"{part}.{format}", row["image_id"])


def _differs(path: Path, image_id: str) -> FileRefused:
    return FileRefused(
        f"{path.name} reads back differently at image {image_id}; the export was removed. Check the disk, then "
        "try again."
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

    def write(self, rows: list[Row]) -> None:
        self._file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _read_json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


_WRITERS: Mapping[Format, Callable[[Path], Any]] = {"jsonl": _JsonLines, "parquet": files.EntriesFile}
_READERS: Mapping[Format, Callable[[Path], Iterator[Row]]] = {
    "jsonl": _read_json_lines,
    "parquet": files.read_entries,
}
