"""A version's own files: `entries.parquet` and `left_out.parquet`, written once and never again.

They stand in `datasets/<version>-<8 hex digits>/` of the workspace folder; the digits are chosen anew by each
build, so that no other database that uses this folder, and none that was emptied and began again at version 1,
ever meets another's files. What is written goes to a folder of another name first and is on the disk before that
is renamed, so a folder that is there is whole.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from truthloop.datasets.rule import LeftOut
from truthloop.errors import DiskFull, FileRefused

Row: TypeAlias = dict[str, Any]

ENTRIES, LEFT_OUT = "entries.parquet", "left_out.parquet"
# Images and boxes, together, that are held in memory at once and make a row group.
GROUP_VALUES = 50_000

_BOX = pa.struct(
    [
        pa.field("left", pa.float64(), nullable=False),
        pa.field("top", pa.float64(), nullable=False),
        pa.field("right", pa.float64(), nullable=False),
        pa.field("bottom", pa.float64(), nullable=False),
        pa.field("label", pa.string()),
    ]
)
_SOURCE = pa.struct(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("timestamp", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("bboxes", pa.list_(pa.field("item", _BOX, nullable=False)), nullable=False),
        pa.field("source", _SOURCE, nullable=False),
        pa.field("verdict", pa.bool_()),
    ]
)
_LEFT_OUT_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)


class EntriesFile:
    """A Parquet file of entries that is being written, in the order in which they are given."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._waiting: list[Row] = []
        self._values = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write()
        self._writer.close()
        if kind is None:
            sync(self._path)

    def add(self, document: Row) -> None:
        """An entry as it stands in `bbox_dataset`."""
        self._waiting.append(document)
        self._values += 1 + len(document["bboxes"])
        if self._values >= GROUP_VALUES:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(table(self._waiting))
        self._waiting, self._values = [], 0


def table(documents: Sequence[Row]) -> pa.Table:
    """Entries as columns. Flat lists first, which is many times faster than a list of nested objects."""
    ends = [0]
    boxes: list[Row] = []
    for document in documents:
        boxes += document["bboxes"]
        ends.append(len(boxes))
    sources = [document["source"] for document in documents]
    flat = pa.StructArray.from_arrays(
        [
            *(pa.array([box[side] for box in boxes], pa.float64()) for side in ("left", "top", "right", "bottom")),
            pa.array([box.get("label") for box in boxes], pa.string()),
        ],
        fields=list(_BOX),
    )
    return pa.Table.from_arrays(
        [
            pa.array([document["image_id"] for document in documents], pa.string()),
            pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat, type=SCHEMA.field("bboxes").type),
            pa.StructArray.from_arrays(
                [
                    pa.array([source["kind"] for source in sources], pa.string()),
                    pa.array([source["version"] for source in sources], pa.string()),
                    pa.array([source["timestamp"] for source in sources], pa.float64()),
                ],
                fields=list(_SOURCE),
            ),
            pa.array([document["verdict"] for document in documents], pa.bool_()),
        ],
        schema=SCHEMA,
    )


def read_entries(path: Path) -> Iterator[Row]:
    """The entries of a file in their order, in bounded memory; a box has a label only where it was given one.

    Raises:
        FileRefused: it isn't there, or can't be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group).to_pylist():
                    for box in row["bboxes"]:
                        if box["label"] is None:
                            del box["label"]
                    yield row
    except (OSError, pa.ArrowException) as error:
        raise FileRefused(f"{path} can't be read: {error}. Build the dataset anew.") from error


class LeftOutFile:
    """The file of the images that were left out, while it is being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = pq.ParquetWriter(path, _LEFT_OUT_SCHEMA, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            sync(self._path)

    def write(self, images: Iterable[LeftOut]) -> None:
        """Images in the order in which they are given."""
        listed = list(images)
        if listed:
            self._writer.write_table(
                pa.Table.from_arrays(
                    [
                        pa.array([image.image_id for image in listed], pa.string()),
                        pa.array([str(image.reason) for image in listed], pa.string()),
                        pa.array([image.detail for image in listed], pa.string()),
                    ],
                    schema=_LEFT_OUT_SCHEMA,
                )
            )


def read_left_out(path: Path) -> Iterator[Row]:
    """The images that were left out: `image_id`, `reason`, `detail`, in the order of their ids.

    Raises:
        FileRefused: it isn't there, or can't be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=GROUP_VALUES):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise FileRefused(f"{path} can't be read: {error}. Build the dataset anew.") from error


def look_up(path: Path, image_id: str) -> Row | None:
    """The row of one image in either file; None if it has none there.

    Raises:
        FileRefused: it isn't there, or can't be read.
    """
    try:
        found = pq.read_table(path, filters=[("image_id", "=", image_id)]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise FileRefused(f"{path} can't be read: {error}. Build the dataset anew.") from error
    return found[0] if found else None


# -- the folder of a version -------------------------------------------------------------------------------


def folder_of(home: Path, name: str) -> Path:
    """Where the files of a version stand; its record has the name."""
    return home / "datasets" / name


def begin_folder(final: Path) -> Path:
    """An empty folder beside the final one, to write into.

    Raises:
        DiskFull, FileRefused: it can't be made.
    """
    building = final.with_name(f"{final.name}.building")
    try:
        building.mkdir(parents=True)
        sync(building.parent.parent)
    except OSError as error:
        raise disk_error(error, building) from error
    return building


def end_folder(building: Path, final: Path) -> None:
    """Gives the folder its name, once all of it is on the disk."""
    try:
        sync(building)
        building.rename(final)
        sync(final.parent)
    except OSError as error:
        raise disk_error(error, final) from error


def remove_folder(final: Path) -> None:
    """Removes the files of a version that never came to be."""
    shutil.rmtree(final.with_name(f"{final.name}.building"), ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_of(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def disk_error(error: OSError, path: Path) -> DiskFull | FileRefused:
    """Our error for one of the disk's."""
    if error.errno == 28:  # ENOSPC
        return DiskFull(f"The disk of {path} is full. Free some space, then try again.")
    return FileRefused(f"{path} can't be written: {error.strerror or error}. Make it writable, or name another.")
