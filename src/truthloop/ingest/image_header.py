"""What an image file says of itself, before any decoder sees it: format, size, orientation and the like. Pure.

It is read here and not by a library, so that a decoder is given only what it needs of a file that is known to be
bounded.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from truthloop.errors import ImageRefused
from truthloop.ingest.exif import (
    EXIF_IFD,
    IMAGE_LENGTH,
    IMAGE_WIDTH,
    NEW_SUBFILE_TYPE,
    ORIENTATION,
    SAMPLE_FORMAT,
    TILE_LENGTH,
    TILE_WIDTH,
    Exif,
    Malformed,
    Tiff,
    exif_of,
    read_exif,
)

Format: TypeAlias = Literal["JPEG", "PNG", "WebP", "BMP", "TIFF"]

MEDIA_TYPES: Mapping[Format, str] = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WebP": "image/webp",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
FORMATS_TEXT = "JPEG, PNG, WebP, BMP and TIFF are taken"

# The most that JPEG itself can have; thinner ones are no pictures.
MAX_SIDE = 65_535
# A progressive JPEG has some 10 scans; each is work over all of the picture, however few bytes it has.
_MAX_SCANS = 100
# A file has some 20 parts (segments, chunks, pages); of pixels in small pieces, thousands.
_MAX_PARTS, _MAX_PAGES = 100_000, 64
# What a PNG's compressed texts and its colour profile may come to; a profile has some 1,000 bytes.
_MAX_UNFOLDED_BYTES = 8 * 1024 * 1024
# A larger profile is none, and is left out of copies.
_MAX_PROFILE_BYTES = 4 * 1024 * 1024

_NO_EXIF = Exif()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself, before anything is decoded."""

    format: Format
    width: int  # as stored, not yet turned
    height: int
    exif: Exif = _NO_EXIF
    end: int | None = None  # the byte after the picture, where the format says it
    pixels: bytes | None = None  # what a decoder needs, where that isn't the whole file
    profile: bytes | None = None  # the colour profile (ICC) that a copy has to carry


def media_type_of(data: bytes) -> str:
    """The true media type of an image file, by its first bytes.

    Raises:
        ImageRefused: it is none that is taken.
    """
    return MEDIA_TYPES[_format(data)]


def _format(data: bytes) -> Format:
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "TIFF"
    if data[:2] == b"BM" and data[14:18] in _BMP_HEADERS:
        return "BMP"
    if not data:
        raise ImageRefused(f"The file is empty. Send an image: {FORMATS_TEXT}.")
    raise ImageRefused(f"The file is {_looks_like(data)}. {FORMATS_TEXT}, told by their content.")


# The sizes of BMP's headers: OS/2's, Windows' and its successors.
_BMP_HEADERS = tuple(struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124))

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"GIF8", "a GIF"),
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzipped"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\xff\x0a", "a JPEG XL"),
)


def _looks_like(data: bytes) -> str:
    """What a file that isn't taken seems to be, for people."""
    for magic, name in _OTHERS:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return {b"avif": "an AVIF", b"heic": "a HEIC photograph", b"mif1": "a HEIC photograph"}.get(
            data[8:12], "a video or a photograph in a film's format"
        )
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG drawing, which has no pixels"
    if head.startswith((b"<!doctype html", b"<html", b"<script")):
        return "an HTML page"
    if head.startswith((b"<?xml", b"{", b"[")):
        return "a text in XML or JSON"
    return "no image"


def read_header(data: bytes, max_pixels: int) -> Header:
    """Reads the header of an image file.

    Raises:
        ImageRefused: it's none that is taken, or has more pixels than `max_pixels`.
    """
    kind = _format(data)
    try:
        header = _READERS[kind](data)
    except (IndexError, struct.error, Malformed):
        raise cut_off(kind) from None
    if header.width < 1 or header.height < 1:
        raise ImageRefused(f"The {kind} says that it has no pixels. Save it again, or send another file.")
    pixels = header.width * header.height
    if pixels > max_pixels:
        raise ImageRefused(
            f"The image has {header.width:,} x {header.height:,} = {pixels:,} pixels; at most {max_pixels:,} are "
            "taken. Send a smaller one, or raise TRUTHLOOP_MAX_IMAGE_PIXELS."
        )
    if max(header.width, header.height) > MAX_SIDE:
        raise ImageRefused(
            f"The image has {header.width:,} x {header.height:,} pixels; a side may have {MAX_SIDE:,} at most."
        )
    return header


def cut_off(kind: Format) -> ImageRefused:
    """The refusal of a file that isn't whole."""
    return ImageRefused(f"The {kind} is cut off or damaged. Copy the file again.")


def _several(kind: Format, what: str) -> ImageRefused:
    return ImageRefused(
        f"The {kind} holds {what}, and an image here is one picture. Save each as a file of its own."
    )


def _jpeg(data: bytes) -> Header:
    width = height = components = 0
    exif: Exif | None = None
    profile: dict[int, bytes] = {}
    at = 2
    for _ in range(_MAX_PARTS):
        if data[at] != 0xFF:
            raise cut_off("JPEG")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # these have no content
            continue
        if marker in (0x00, 0xD8, 0xD9):
            raise cut_off("JPEG")
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2:
            raise cut_off("JPEG")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if width:
                raise _several("JPEG", "two pictures in one")
            height, width, components = struct.unpack_from(">xHHB", data, at + 2)
        elif marker == 0xE1 and exif is None and data[at + 2 : at + 8] == b"Exif\x00\x00":
            exif = read_exif(memoryview(data)[at + 8 : at + length])
        elif marker == 0xE2 and data[at + 2 : at + 14] == b"ICC_PROFILE\x00" and length > 16:
            profile[data[at + 14]] = data[at + 16 : at + length]
        elif marker == 0xDA:
            break
        at += length
    else:
        raise ImageRefused("The JPEG has too many segments before its pixels. Save it again.")
    # Within the pixels a byte FF stands before 00 or a mark, so that this can only be the end.
    end = data.find(b"\xff\xd9", at)
    if end < 0:
        raise cut_off("JPEG")
    if data.count(b"\xff\xda", at, end) >= _MAX_SCANS:
        raise ImageRefused(f"The JPEG has more than {_MAX_SCANS} scans. Save it again.")
    icc = b"".join(profile[number] for number in sorted(profile)) if components != 4 else b""
    return Header(
        format="JPEG",
        width=width,
        height=height,
        exif=exif or Exif(),
        end=end + 2,
        profile=icc if 0 < len(icc) <= _MAX_PROFILE_BYTES else None,
    )


def _png(data: bytes) -> Header:
    width = height = 0
    exif = Exif()
    profile: bytes | None = None
    # What compressed text and the like unfold to, a decoder would unfold; it gets only what the pixels need.
    view = memoryview(data)
    needed: list[memoryview] = [view[:8]]
    at, has_pixels, room = 8, False, _MAX_UNFOLDED_BYTES
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        content, end = at + 8, at + 12 + length
        if end > len(data):
            raise cut_off("PNG")
        if (at == 8) != (kind == b"IHDR"):
            raise cut_off("PNG")
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"):
            (said,) = struct.unpack_from(">I", data, content + length)
            if zlib.crc32(view[at + 4 : content + length]) != said:
                raise cut_off("PNG")
            needed.append(view[at:end])
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, content)
        elif kind == b"IDAT":
            has_pixels = True
        elif kind == b"eXIf":
            exif = read_exif(view[content : content + length])
        elif kind in (b"iCCP", b"zTXt", b"iTXt"):
            unfolded = _unfolded(kind, bytes(view[content : content + length]), room)
            room -= len(unfolded)
            if room <= 0:
                raise ImageRefused(
                    f"The PNG's texts and profiles unfold to more than {_MAX_UNFOLDED_BYTES:,} bytes. Save it "
                    "again without them."
                )
            if kind == b"iCCP":
                profile = unfolded
        elif kind == b"acTL" and struct.unpack_from(">I", data, content)[0] > 1:
            raise _several("PNG", "an animation")
        elif kind == b"IEND":
            break
        at = end
    else:
        raise ImageRefused("The PNG has too many chunks. Save it again.")
    if not has_pixels:
        raise cut_off("PNG")
    return Header(
        format="PNG",
        width=width,
        height=height,
        exif=exif,
        end=end,
        pixels=b"".join(needed),
        profile=profile or None,
    )


def _unfolded(kind: bytes, content: bytes, room: int) -> bytes:
    """What is compressed in a chunk, but no more of it than there is room for; b"" if it can't be unfolded."""
    # A name of at most 79 bytes and a zero, then the way of compression, and of iTXt two more texts.
    rest = content[content.find(b"\x00", 0, 80) + 1 :]
    if kind == b"iTXt":
        if rest[:1] != b"\x01":
            return b""
        compressed = rest[2:].split(b"\x00", 2)[-1]
    else:
        compressed = rest[1:]
    try:
        return zlib.decompressobj().decompress(compressed, room)
    except zlib.error:
        return b""


def _webp(data: bytes) -> Header:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise cut_off("WebP")
    canvas: tuple[int, int] | None = None
    picture: tuple[int, int] | None = None
    exif = Exif()
    at, parts = 12, 0
    while at + 8 <= end:
        parts += 1
        if parts > _MAX_PARTS:
            raise ImageRefused("The WebP has too many chunks. Save it again.")
        kind, length = struct.unpack_from("<4sI", data, at)
        content = at + 8
        if content + length > end:
            raise cut_off("WebP")
        if kind == b"VP8X" and canvas is None:
            if data[content] & 0x02:
                raise _several("WebP", "an animation")
            sides = (int.from_bytes(data[content + begin : content + begin + 3], "little") + 1 for begin in (4, 7))
            canvas = next(sides), next(sides)
        elif kind in (b"ANIM", b"ANMF"):
            raise _several("WebP", "an animation")
        elif kind in (b"VP8 ", b"VP8L") and picture is None:
            if kind == b"VP8 ":
                width, height = struct.unpack_from("<HH", data, content + 6)
                picture = width & 0x3FFF, height & 0x3FFF
            else:
                (bits,) = struct.unpack_from("<I", data, content + 1)
                picture = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif kind == b"EXIF":
            view = memoryview(data)[content : content + length]
            exif = read_exif(view[6:] if bytes(view[:6]) == b"Exif\x00\x00" else view)
        at = content + length + length % 2
    if picture is None or (canvas is not None and canvas != picture):
        raise cut_off("WebP")
    return Header(format="WebP", width=picture[0], height=picture[1], exif=exif, end=end)


def _bmp(data: bytes) -> Header:
    (begin, size) = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative where its rows go downwards
    end = None
    if compression in (0, 3):  # its pixels stand there as they are
        end = begin + (width * bits + 31) // 32 * 4 * height
        if width > 0 and end > len(data):
            raise cut_off("BMP")
    return Header(format="BMP", width=width, height=height, end=end)


def _tiff(data: bytes) -> Header:
    tiff = Tiff.of(data)
    wanted = (IMAGE_WIDTH, IMAGE_LENGTH, ORIENTATION, EXIF_IFD, TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT)
    first = tiff.directory(tiff.first, wanted)
    if first.claimed_bytes > len(data):
        raise cut_off("TIFF")
    pages, after, seen = 1, first.next, {tiff.first}
    while after:
        page = tiff.directory(after, (NEW_SUBFILE_TYPE,))
        kind = page.tags.get(NEW_SUBFILE_TYPE, 0)
        pages += 1
        # A smaller copy of the picture, or its mask, is no picture of its own.
        if after in seen or pages > _MAX_PAGES or not isinstance(kind, int) or not kind & 0b101:
            raise _several("TIFF", "several pages")
        seen.add(after)
        after = page.next
    numbers = {tag: value for tag, value in first.tags.items() if isinstance(value, int)}
    if numbers.get(SAMPLE_FORMAT, 1) == 3:
        raise ImageRefused("The TIFF holds floating-point numbers. Save it with 8 or 16 bits a channel.")
    width, height = numbers.get(IMAGE_WIDTH, 0), numbers.get(IMAGE_LENGTH, 0)
    # A decoder makes room for a whole tile, however small the picture is.
    tile = numbers.get(TILE_WIDTH, 0) * numbers.get(TILE_LENGTH, 0)
    if tile > max(width * height, 1024 * 1024):
        raise ImageRefused("The TIFF's tiles are larger than its picture. Save it again.")
    exif, pixels = exif_of(tiff, first), None
    if exif.orientation != 1:
        # OpenCV would turn a TIFF on its own, whatever it is told.
        at = first.places[ORIENTATION]
        pixels = data[:at] + struct.pack(tiff.order + "H", 1) + data[at + 2 :]
    return Header(format="TIFF", width=width, height=height, exif=exif, pixels=pixels)


_READERS: Mapping[Format, Callable[[bytes], Header]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WebP": _webp,
    "BMP": _bmp,
    "TIFF": _tiff,
}

# Cameras append films and further pictures; a page or an archive there makes two files of one.
_APPENDED: tuple[tuple[bytes, str], ...] = (
    (b"PK\x05\x06", "a ZIP archive"),
    (b"%PDF-", "a PDF"),
    (b"<script", "a script"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?php", "a program"),
)


def refuse_appended(data: bytes, end: int | None) -> None:
    """Refuses a file that holds another one after its picture.

    Raises:
        ImageRefused: it does.
    """
    if end is None or end >= len(data):
        return
    rest = data[end:].lower()
    for magic, name in _APPENDED:
        if magic.lower() in rest:
            raise ImageRefused(f"After the image's end the file holds {name}. Save the image again without it.")
