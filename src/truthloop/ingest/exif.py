"""The few tags of a TIFF directory that matter here: of a TIFF file, and of the EXIF data in other files. Pure.

Only the tags that are asked for are read, each of a few bytes. A general reader loads every tag that a file
claims to have, and a file of 32 MB can claim 65,535 of 32 MB each.
"""

import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Self

# Tags, by their names in the TIFF 6.0 and EXIF 2.32 specifications.
NEW_SUBFILE_TYPE, IMAGE_WIDTH, IMAGE_LENGTH, ORIENTATION = 254, 256, 257, 274
TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT = 322, 323, 339
EXIF_IFD, DATE_TIME_ORIGINAL, DATE_TIME_DIGITIZED = 34665, 36867, 36868
OFFSET_TIME_ORIGINAL, OFFSET_TIME_DIGITIZED = 36881, 36882
SUB_SEC_TIME_ORIGINAL, SUB_SEC_TIME_DIGITIZED = 37521, 37522

# A camera writes some 60 tags into a directory.
MAX_TAGS = 1000
_MAX_TEXT_BYTES = 64
# Before, there was no photograph; after, the camera's clock is wrong.
_FIRST_YEAR, _LAST_YEAR = 1826, 2100

_ASCII = 2
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class Malformed(ValueError):
    """The data isn't what its header says."""


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory of tags."""

    tags: Mapping[int, int | str]  # those that were asked for and are there; of several numbers the first
    next: int  # where the next one begins; 0 if this is the last
    claimed_bytes: int  # of the values of all tags
    places: Mapping[int, int]  # the bytes where the tags' values begin


@dataclass(frozen=True, slots=True)
class Tiff:
    """Data in TIFF's form, classic or BigTIFF, in either order of bytes."""

    data: memoryview
    order: str
    is_big: bool
    first: int  # where the first directory begins

    @classmethod
    def of(cls, data: bytes | memoryview) -> Self:
        """Reads the header.

        Raises:
            Malformed: it's none.
        """
        view = memoryview(data)
        order = {b"II": "<", b"MM": ">"}.get(bytes(view[:2]))
        if order is None or len(view) < 16:
            raise Malformed("no TIFF header")
        (version,) = struct.unpack_from(order + "H", view, 2)
        if version == 42:
            return cls(view, order, False, struct.unpack_from(order + "I", view, 4)[0])
        if version == 43:
            return cls(view, order, True, struct.unpack_from(order + "Q", view, 8)[0])
        raise Malformed("no TIFF header")

    def directory(self, at: int, wanted: Collection[int]) -> Directory:
        """The directory that begins at a byte.

        Args:
            at: the byte, counted from the begin of the data.
            wanted: the tags to read.

        Raises:
            Malformed: it reaches beyond the data, or has more than MAX_TAGS tags.
        """
        count, place, entry, offset = ("Q", 8, 20, "Q") if self.is_big else ("H", 2, 12, "I")
        try:
            (tags,) = struct.unpack_from(self.order + count, self.data, at)
            if tags > MAX_TAGS:
                raise Malformed(f"a directory of {tags:,} tags")
            found: dict[int, int | str] = {}
            places: dict[int, int] = {}
            claimed = 0
            for begin in range(at + place, at + place + tags * entry, entry):
                tag, kind, values = struct.unpack_from(self.order + "HH" + offset, self.data, begin)
                size = _SIZES.get(kind, 1) * values
                claimed += size
                if tag in wanted and values:
                    inline = begin + 4 + (8 if self.is_big else 4)
                    room = 8 if self.is_big else 4
                    where = inline if size <= room else self._number(offset, inline)
                    value = self._value(kind, where, values)
                    if value is not None and tag not in found:
                        found[tag], places[tag] = value, where
            return Directory(found, self._number(offset, at + place + tags * entry), claimed, places)
        except struct.error:
            raise Malformed("a directory beyond the end of the data") from None

    def _number(self, kind: str, at: int) -> int:
        number: int = struct.unpack_from(self.order + kind, self.data, at)[0]
        return number

    def _value(self, kind: int, at: int, values: int) -> int | str | None:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind], at)
        if kind == _ASCII and values <= _MAX_TEXT_BYTES:
            return bytes(self.data[at : at + values]).split(b"\x00")[0].decode("ascii", "replace").strip()
        return None


@dataclass(frozen=True, slots=True)
class Exif:
    """What is taken from EXIF data."""

    orientation: int = 1  # 1 to 8; 1 is upright
    captured_at: datetime | None = None  # with a zone


def read_exif(data: bytes | memoryview) -> Exif:
    """The orientation and the capture time of EXIF data; what isn't there or is nonsense is left out.

    Args:
        data: from the TIFF header on, without `Exif` and its two zeros before it.
    """
    try:
        tiff = Tiff.of(data)
        return exif_of(tiff, tiff.directory(tiff.first, (ORIENTATION, EXIF_IFD)))
    except Malformed:
        return Exif()


def exif_of(tiff: Tiff, directory: Directory) -> Exif:
    """The same, of a directory that was read with ORIENTATION and EXIF_IFD."""
    orientation = directory.tags.get(ORIENTATION, 1)
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    at = directory.tags.get(EXIF_IFD)
    try:
        tags = tiff.directory(at, _TIMES).tags if isinstance(at, int) else {}
    except Malformed:
        tags = {}
    return Exif(orientation, _captured_at(tags))


_TIMES = (
    DATE_TIME_ORIGINAL,
    DATE_TIME_DIGITIZED,
    OFFSET_TIME_ORIGINAL,
    OFFSET_TIME_DIGITIZED,
    SUB_SEC_TIME_ORIGINAL,
    SUB_SEC_TIME_DIGITIZED,
)


def _captured_at(tags: Mapping[int, int | str]) -> datetime | None:
    for moment, offset, fraction in (
        (DATE_TIME_ORIGINAL, OFFSET_TIME_ORIGINAL, SUB_SEC_TIME_ORIGINAL),
        (DATE_TIME_DIGITIZED, OFFSET_TIME_DIGITIZED, SUB_SEC_TIME_DIGITIZED),
    ):
        at = moment_of(str(tags.get(moment, "")), str(tags.get(offset, "")), str(tags.get(fraction, "")))
        if at is not None:
            return at
    return None


def moment_of(moment: str, offset: str = "", fraction: str = "") -> datetime | None:
    """A moment as EXIF writes it; None if it is nonsense, as where a camera's clock was never set.

    A moment without its offset from UTC is taken for UTC: which zone the camera was in can't be known, and the
    same file must give the same time on every machine.

    >>> moment_of("2023:04:14 23:38:26", "+02:00", "925").isoformat()
    '2023-04-14T23:38:26.925000+02:00'
    >>> moment_of("0000:00:00 00:00:00") is None
    True
    """
    if not re.fullmatch(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", moment, re.ASCII):
        return None
    zone = UTC
    if parts := re.fullmatch(r"([+-])(\d\d):(\d\d)", offset, re.ASCII):
        minutes = int(parts[2]) * 60 + int(parts[3])
        if minutes <= 14 * 60:  # the greatest offset of any place
            zone = timezone(timedelta(minutes=-minutes if parts[1] == "-" else minutes))
    try:
        at = datetime.strptime(moment, "%Y:%m:%d %H:%M:%S").replace(tzinfo=zone)
    except ValueError:
        return None
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        return None
    digits = fraction if re.fullmatch(r"\d{1,6}", fraction, re.ASCII) else "0"
    return at.replace(microsecond=int(digits.ljust(6, "0")))
