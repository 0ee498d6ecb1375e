"""Many BSON documents at once: those that are laid out alike become columns of NumPy arrays. Pure.

Two documents whose bytes agree everywhere but inside the values that are read (a number, the text of an id) or
that nobody asks for are parsed alike by anybody, since all types, names and lengths in them agree. So it is enough
to parse one of them, and to compare the bytes of the others with it.

One value may be of any length, a document or list that is read by itself: what stands before and behind it is
compared, and what it holds are documents again, with layouts of their own. So the boxes of many classes have as
many layouts as there are lengths of the classes' names, however they are combined in an image.

What has a layout that nobody asked for is named, to be decoded and decided one by one.

Format: https://bsonspec.org/spec.html
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

DOUBLE, TEXT, OBJECT, ARRAY, BOOL, NULL, INT32, INT64 = 0x01, 0x02, 0x03, 0x04, 0x08, 0x0A, 0x10, 0x12
_SIZES = {DOUBLE: 8, 0x07: 12, BOOL: 1, 0x09: 8, NULL: 0, INT32: 4, 0x11: 8, INT64: 8, 0x13: 16}
_BINARY = 0x05
_NUMBERS = {DOUBLE: "<f8", INT32: "<i4", INT64: "<i8"}
_SMALLEST = 5  # bytes of an empty document or list: its length and its end
# Beyond it an integer isn't a float exactly.
_EXACT = 2**53
# A reply's documents with so many layouts are no bulk: the others are decided one by one.
MAX_LAYOUTS = 500
# Items of a list, which are gone through all lists at a time: one with more would hold up the others.
MAX_ITEMS = 1000


class Unusual(Exception):
    """The document has a shape that isn't read in bulk."""


@dataclass(frozen=True, slots=True)
class Value:
    """Where a value stands in its document: `begin` to `end`, without its type and name."""

    type: int
    begin: int
    end: int

    @property
    def is_number(self) -> bool:
        """Whether it is a number that is read."""
        return self.type in _NUMBERS


@dataclass(slots=True)
class Layout:
    """What the documents of one layout have in common, and where the values are in which they differ.

    `constants` are in the layout itself; `numbers` are read one by one, `text` is the one that is read; `free` are
    values that nobody asks for; `part` is the document or list that is read by itself.
    """

    constants: tuple[object, ...] = ()
    text: Value | None = None
    numbers: list[Value] = field(default_factory=list)
    free: list[Value] = field(default_factory=list)
    part: Value | None = None

    def mask(self, length: int) -> Bytes:
        """All bits of the bytes in which documents of this layout agree, without their part.

        Args:
            length: of the document that was parsed.
        """
        mask = np.full(length, 0xFF, np.uint8)
        for value in self.numbers:
            mask[value.begin : value.end] = 0
        for value in self.free:
            # Where its length isn't fixed by its type, it says where the next value begins, so it must agree.
            mask[value.begin + (0 if value.type in _SIZES else 4) : value.end] = 0
        if self.text is not None:
            mask[self.text.begin + 4 : self.text.end - 1] = 0
        if self.part is None:
            return mask
        mask[:4] = 0  # the length of the whole
        return np.concatenate([mask[: self.part.begin], mask[self.part.end :]])

    def place(self, value: Value) -> tuple[int, int]:
        """Begin and end of a value in the document without its part."""
        cut = self.part.end - self.part.begin if self.part is not None and value.begin >= self.part.end else 0
        return value.begin - cut, value.end - cut


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
    if not value.is_number:
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

    def __len__(self) -> int:
        return len(self.begins)

    def document(self, place: int) -> bytes:
        """The bytes of one of the documents."""
        return self.data[self.begins[place] : self.begins[place] + self.lengths[place]]


@dataclass(frozen=True, slots=True)
class Rows:
    """The N documents of a batch that have one layout, in its order.

    `which` are their places in the batch, `texts` the text that is read of each, `numbers` has the shape
    (N, numbers of the layout), and `parts` are their parts, N or none.
    """

    constants: tuple[object, ...]
    which: Ints
    texts: list[bytes]
    numbers: Floats
    parts: Batch | None


def read(batch: Batch, parse: Callable[[bytes], Layout]) -> tuple[list[Rows], Ints]:
    """Documents as columns.

    Args:
        batch: the documents.
        parse: finds the layout of one document, or raises `Unusual`.

    Returns:
        The documents of each layout; and the places of those that have none, or hold an integer that isn't a float
        exactly.
    """
    found: list[Rows] = []
    unusual: list[Ints] = []
    left = np.arange(len(batch))
    while len(left):
        if len(found) == MAX_LAYOUTS:
            unusual.append(left)
            break
        first = batch.document(left[0])
        try:
            layout = parse(first)
        except Unusual:
            unusual.append(left[:1])
            left = left[1:]
            continue
        near, rows = _like(first, layout, batch, left)
        differing = rows ^ rows[0]
        differing &= layout.mask(len(first))
        agree = ~differing.any(axis=1)
        if not agree.all():
            near, rows = near[agree], rows[agree]
        which = left[near]
        others = np.ones(len(left), np.bool_)
        others[near] = False
        left = left[others]
        numbers, exact = _numbers(rows, layout)
        if not exact.all():
            unusual.append(which[~exact])
            which, rows, numbers = which[exact], rows[exact], numbers[exact]
        parts = _parts(batch, which, layout.part, len(first))
        found.append(Rows(layout.constants, which, _texts(rows, layout), numbers, parts))
    return found, np.concatenate(unusual) if unusual else np.empty(0, np.int64)


def _like(first: bytes, layout: Layout, batch: Batch, left: Ints) -> tuple[Ints, Bytes]:
    """Documents that may be laid out as the first one.

    Args:
        first: the one that was parsed, the first of those left.
        layout: its layout.
        batch: all documents.
        left: the places of those to look at.

    Returns:
        Where they stand in `left`, and their bytes without their parts, all of one length.
    """
    data = np.frombuffer(batch.data, np.uint8)
    begins, lengths = batch.begins[left], batch.lengths[left]
    part = layout.part
    if part is None:
        near = np.flatnonzero(lengths == len(first))
        return near, windows(data, len(first))[begins[near]]
    behind = len(first) - part.end
    near = np.flatnonzero(lengths >= part.begin + _SMALLEST)
    # The last letters of the part's name and its length: they tell most of the others apart.
    edge = windows(data, 8)[begins[near] + part.begin - 4].view("<i4")
    fits = edge[:, 0] == struct.unpack_from("<i", first, part.begin - 4)[0]
    fits &= (edge[:, 1] >= _SMALLEST) & (part.begin + edge[:, 1].astype(np.int64) + behind == lengths[near])
    near = near[fits]
    rows = np.empty((len(near), part.begin + behind), np.uint8)
    rows[:, : part.begin] = windows(data, part.begin)[begins[near]]
    rows[:, part.begin :] = windows(data, behind)[begins[near] + lengths[near] - behind]
    return near, rows


def _parts(batch: Batch, which: Ints, part: Value | None, length: int) -> Batch | None:
    if part is None:
        return None
    around = length - (part.end - part.begin)
    return Batch(batch.data, batch.begins[which] + part.begin, batch.lengths[which] - around)


def windows(data: Bytes, size: int) -> Bytes:
    """The rows of that size that begin at each place; to take some copies whole rows, not byte by byte."""
    return sliding_window_view(data, size)


def _texts(rows: Bytes, layout: Layout) -> list[bytes]:
    if layout.text is None:
        return []
    begin, end = layout.place(layout.text)
    size = end - 1 - (begin + 4)
    if not size:
        return [b""] * len(rows)
    joined = rows[:, begin + 4 : end - 1].tobytes()
    return [joined[place : place + size] for place in range(0, len(joined), size)]


def _numbers(rows: Bytes, layout: Layout) -> tuple[Floats, Bools]:
    """The numbers, and of which documents all are exact."""
    columns = np.empty((len(rows), len(layout.numbers)))
    exact = np.ones(len(rows), np.bool_)
    for column, value in enumerate(layout.numbers):
        begin, end = layout.place(value)
        raw = np.ascontiguousarray(rows[:, begin:end]).view(_NUMBERS[value.type])[:, 0]
        columns[:, column] = raw
        if value.type == INT64:
            exact &= (raw <= _EXACT) & (raw >= -_EXACT)
    return columns, exact


def items(lists: Batch) -> tuple[Batch, Ints, Bools]:
    """The documents in lists, those of one list after the other.

    Args:
        lists: BSON arrays.

    Returns:
        The documents; how many each list has; and which lists hold something else than documents, or too many:
        what comes of these is without meaning.
    """
    data = np.frombuffer(lists.data, np.uint8)
    at, last = lists.begins + 4, lists.begins + lists.lengths - 1
    odd = np.zeros(len(lists), np.bool_)
    found: list[tuple[Ints, Ints, Ints]] = []  # of the n-th items: their lists, where they begin, their lengths
    more = np.flatnonzero(at < last)
    while len(more):
        name = np.frombuffer(item_name(len(found)), np.uint8)
        fits = at[more] + len(name) + _SMALLEST <= last[more]
        fits[fits] = (windows(data, len(name))[at[more[fits]]] == name).all(axis=1)
        if len(found) == MAX_ITEMS:
            fits[:] = False
        odd[more[~fits]] = True
        more = more[fits]
        if not len(more):
            break
        begins = at[more] + len(name)
        lengths = windows(data, 4)[begins].view("<i4")[:, 0].astype(np.int64)
        found.append((more, begins, lengths))
        at[more] = begins + lengths
        more = more[at[more] < last[more]]
    counts = np.zeros(len(lists), np.int64)
    for which, _, _ in found:
        counts[which] += 1
    first = np.cumsum(counts) - counts
    begin_of, length_of = np.empty(counts.sum(), np.int64), np.empty(counts.sum(), np.int64)
    for number_in, (which, begins, lengths) in enumerate(found):
        begin_of[first[which] + number_in] = begins
        length_of[first[which] + number_in] = lengths
    return Batch(lists.data, begin_of, length_of), counts, odd


def item_name(number_in: int) -> bytes:
    """What stands before a document in a list: its type, and its number from 0 as its name."""
    return b"\x03%d\x00" % number_in


def fill(template: bytes, places: list[tuple[int, int]], columns: list[Bytes], count: int) -> Bytes:
    """Documents that differ from a template only inside some values, as rows.

    Args:
        template: one of them.
        places: begin and end of each value.
        columns: what stands there: of each place the bytes, shape (count, end - begin).
        count: how many documents.
    """
    rows = np.empty((count, len(template)), np.uint8)
    rows[:] = np.frombuffer(template, np.uint8)
    for (begin, end), column in zip(places, columns, strict=True):
        rows[:, begin:end] = column
    return rows


def put(target: Bytes, begins: Ints, rows: Bytes) -> None:
    """Writes rows into bytes, each where it begins; one row alone is written at all of the places."""
    sliding_window_view(target, rows.shape[1], writeable=True)[begins] = rows
