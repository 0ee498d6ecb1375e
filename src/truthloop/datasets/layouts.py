"""Many BSON documents at once: those that are laid out alike become columns of NumPy arrays. Pure.

Two documents of the same length whose bytes agree everywhere but inside the values that are read (a number, the
text of an id) are parsed alike by anybody, since all types, names and lengths in them agree. So it is enough to
parse one of them, and to compare the bytes of the others with it. What has a layout that nobody asked for is
named, to be decoded and decided one by one.

Format: https://bsonspec.org/spec.html
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

DOUBLE, TEXT, OBJECT, ARRAY, BOOL, NULL, INT32, INT64 = 0x01, 0x02, 0x03, 0x04, 0x08, 0x0A, 0x10, 0x12
_SIZES = {DOUBLE: 8, 0x07: 12, BOOL: 1, 0x09: 8, NULL: 0, INT32: 4, 0x11: 8, INT64: 8, 0x13: 16}
_BINARY = 0x05
_NUMBERS = {DOUBLE: "<f8", INT32: "<i4", INT64: "<i8"}
# Beyond it an integer isn't a float exactly.
_EXACT = 2**53
# Documents with so many layouts are no bulk: the others are decided one by one.
MAX_LAYOUTS = 500


class Unusual(Exception):
    """The document has a shape that isn't read in bulk."""


@dataclass(frozen=True, slots=True)
class Value:
    """Where a value stands in its document: `begin` to `end`, without its type and name."""

    type: int
    begin: int
    end: int


@dataclass(slots=True)
class Layout:
    """What the documents of one layout have in common, and where the values are in which they differ.

    `constants` are in the layout itself; `numbers` are read one by one, `text` is the one that is read; `free` are
    values that nobody asks for.
    """

    constants: tuple[object, ...] = ()
    text: Value | None = None
    numbers: list[Value] = field(default_factory=list)
    free: list[Value] = field(default_factory=list)

    def mask(self, length: int) -> Bytes:
        """1 where documents of this layout agree."""
        mask = np.ones(length, np.uint8)
        for value in (*self.numbers, *self.free):
            mask[value.begin : value.end] = 0
        if self.text is not None:
            mask[self.text.begin + 4 : self.text.end - 1] = 0
        return mask


@dataclass(frozen=True, slots=True)
class Rows:
    """Documents of one layout: their texts, and their numbers in the layout's order, shape (N, numbers)."""

    constants: tuple[object, ...]
    texts: list[bytes]
    numbers: Floats


def elements(data: bytes, begin: int) -> dict[str, Value]:
    """The elements of the document that begins there, by name.

    Raises:
        Unusual: one has a type that isn't known here, or two have one name.
    """
    found: dict[str, Value] = {}
    place = begin + 4
    last = begin + struct.unpack_from("<i", data, begin)[0] - 1
    while place < last:
        kind = data[place]
        name_end = data.index(0, place + 1)
        name = data[place + 1 : name_end].decode("utf-8", "surrogateescape")
        value = name_end + 1
        if kind in _SIZES:
            end = value + _SIZES[kind]
        elif kind == TEXT:
            end = value + 4 + struct.unpack_from("<i", data, value)[0]
        elif kind in (OBJECT, ARRAY):
            end = value + struct.unpack_from("<i", data, value)[0]
        elif kind == _BINARY:
            end = value + 5 + struct.unpack_from("<i", data, value)[0]
        else:
            raise Unusual
        if name in found:
            raise Unusual
        found[name] = Value(kind, value, end)
        place = end
    return found


def text_of(data: bytes, value: Value) -> str:
    """A text that is constant in its layout.

    Raises:
        Unusual: it isn't text.
    """
    if value.type != TEXT:
        raise Unusual
    try:
        return data[value.begin + 4 : value.end - 1].decode()
    except UnicodeDecodeError:
        raise Unusual from None


def number(value: Value) -> Value:
    """The value, if it is a number that is read.

    Raises:
        Unusual: it isn't.
    """
    if value.type not in _NUMBERS:
        raise Unusual
    return value


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents within some bytes: where each begins, and how long it is."""

    data: bytes
    begins: Ints
    lengths: Ints

    @classmethod
    def of_array(cls, data: bytes, begin: int) -> Self:
        """The documents in the BSON array that begins there."""
        unpack = struct.Struct("<i").unpack_from
        end = begin + unpack(data, begin)[0] - 1
        begins, lengths = list[int](), list[int]()
        add, add_length = begins.append, lengths.append
        place, more = begin + 4, 10
        key = 3  # bytes of an element's type and name: its number, which grows by a digit now and then
        while place < end:
            place += key
            length = unpack(data, place)[0]
            add(place)
            add_length(length)
            place += length
            if len(begins) == more:
                key, more = key + 1, more * 10
        return cls(data, np.array(begins, dtype=np.int64), np.array(lengths, dtype=np.int64))


def read(batches: Iterable[Batch], parse: Callable[[bytes], Layout]) -> tuple[list[Rows], list[bytes]]:
    """Documents as columns.

    Args:
        batches: of documents.
        parse: finds the layout of one document, or raises `Unusual`.

    Returns:
        The documents of each layout, and those that have none.
    """
    found: list[Rows] = []
    unusual: list[bytes] = []
    tried = 0
    for batch in batches:
        data = np.frombuffer(batch.data, np.uint8)
        order = np.argsort(batch.lengths, kind="stable")
        begins, lengths = batch.begins[order], batch.lengths[order]
        cuts = np.flatnonzero(np.diff(lengths)) + 1
        for same in np.split(begins, cuts) if len(begins) else ():
            length = struct.unpack_from("<i", batch.data, same[0])[0]
            # A window at each place copies whole rows, many times faster than an index for each byte.
            rows = sliding_window_view(data, length)[same]
            while len(rows):
                first = rows[0].tobytes()
                tried += 1
                if tried > MAX_LAYOUTS:
                    unusual += [row.tobytes() for row in rows]
                    break
                try:
                    layout = parse(first)
                except Unusual:
                    unusual.append(first)
                    rows = rows[1:]
                    continue
                differs = ((rows ^ rows[0]) & layout.mask(length)).any(axis=1)
                mine = rows[~differs] if differs.any() else rows
                found.append(Rows(layout.constants, _texts(mine, layout), _numbers(mine, layout)))
                rows = rows[differs]
    return found, unusual


def _texts(rows: Bytes, layout: Layout) -> list[bytes]:
    if layout.text is None:
        return []
    begin, end = layout.text.begin + 4, layout.text.end - 1
    size = end - begin
    if not size:
        return [b""] * len(rows)
    joined = rows[:, begin:end].tobytes()
    return [joined[place : place + size] for place in range(0, len(joined), size)]


def _numbers(rows: Bytes, layout: Layout) -> Floats:
    """The numbers; NaN where an integer isn't a float exactly."""
    columns = np.empty((len(rows), len(layout.numbers)))
    for column, value in enumerate(layout.numbers):
        raw = np.ascontiguousarray(rows[:, value.begin : value.end]).view(_NUMBERS[value.type])[:, 0]
        columns[:, column] = raw
        if value.type == INT64:
            columns[(raw > _EXACT) | (raw < -_EXACT), column] = np.nan
    return columns


def fill(template: bytes, places: list[tuple[int, int]], columns: list[Bytes]) -> list[bytes]:
    """Documents that differ from a template only inside some values.

    Args:
        template: one of them.
        places: begin and end of each value.
        columns: what stands there: of each place the bytes, shape (N, end - begin).
    """
    size, count = len(template), len(columns[0])
    rows = np.empty((count, size), np.uint8)
    rows[:] = np.frombuffer(template, np.uint8)
    for (begin, end), column in zip(places, columns, strict=True):
        rows[:, begin:end] = column
    joined = rows.tobytes()
    return [joined[place : place + size] for place in range(0, len(joined), size)]
