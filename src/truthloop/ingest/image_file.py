"""An image file: whether it can be taken, and its pixels, upright. Pure."""

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from truthloop.errors import ImageRefused
from truthloop.ingest.image_header import (
    MEDIA_TYPES,
    Format,
    Header,
    cut_off,
    read_header,
    refuse_appended,
)

if TYPE_CHECKING:
    from truthloop.models.documents import Pixels


# Encoded once more, a JPEG loses least that can be seen at this quality, with its colours at full size.
_JPEG_QUALITY = 95

# Decoding is work for a processor: more at once than there are processors would only take memory. Of large
# images one is decoded at a time, so that a few hostile ones can't take all of it.
_DECODERS = threading.BoundedSemaphore(os.cpu_count() or 1)
_LARGE = threading.Lock()
_LARGE_PIXELS = 16_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedImage:
    """An image file that can be taken."""

    image_id: str  # SHA-256 of the bytes as received, 64 hexadecimal digits
    format: Format  # of the bytes as received
    media_type: str  # of `upright`
    width: int  # upright, as everything below
    height: int
    upright: bytes  # the bytes as received, or a copy that is turned and has no orientation
    captured_at: datetime | None  # with a zone


def check(data: bytes, *, max_bytes: int, max_pixels: int) -> CheckedImage:
    """Whether a file is an image that can be taken, and all that there is to know of it.

    The file is decoded, since only that shows that it can be; of a JPEG at an eighth of its size.

    Args:
        data: the file.
        max_bytes: the most that a file may have.
        max_pixels: the most pixels that an image may have, looked at before anything is decoded.

    Raises:
        ImageRefused: with the reason and what is allowed.
    """
    if len(data) > max_bytes:
        raise too_many_bytes(max_bytes)
    header = read_header(data, max_pixels)
    refuse_appended(data, header.end)
    upright, kind = data, header.format
    if header.exif.orientation == 1:
        _try(header, data)
    else:
        upright, kind = _turned(header, data)
    turned = header.exif.orientation >= 5
    return CheckedImage(
        image_id=hashlib.sha256(data).hexdigest(),
        format=header.format,
        media_type=MEDIA_TYPES[kind],
        width=header.height if turned else header.width,
        height=header.width if turned else header.height,
        upright=upright,
        captured_at=header.exif.captured_at,
    )


def decode(data: bytes, *, max_pixels: int) -> "Pixels":
    """The pixels of an image file: upright, RGB, shape (height, width, 3), uint8, contiguous.

    Grey, palette, CMYK and 16 bits a channel become RGB of 8 bits; transparency is left out.

    Raises:
        ImageRefused: it can't be decoded, or has more pixels than that.
    """
    import cv2

    header = read_header(data, max_pixels)
    with _turn(header):
        pixels: Pixels = _upright(_decoded(header, data, cv2.IMREAD_COLOR_RGB), header.exif.orientation)
    return pixels


def decode_small(data: bytes, *, side: int, max_pixels: int) -> "Pixels":
    """The same, of a JPEG at the smallest of its cheap sizes (a half, a quarter, an eighth) not below `side`.

    Args:
        data: the file.
        side: pixels that the longer side should keep at least, where it has them.
        max_pixels: the most pixels that the image may have.

    Raises:
        ImageRefused: as `decode`.
    """
    import cv2

    header = read_header(data, max_pixels)
    if header.format != "JPEG" or max(header.width, header.height) < 2 * side:
        return decode(data, max_pixels=max_pixels)
    flags = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    part = next(part for part in (8, 4, 2) if max(header.width, header.height) >= part * side)
    with _turn(header):
        pixels = _decoded(header, data, flags[part])
    small: Pixels = _upright(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), header.exif.orientation)
    return small


def too_many_bytes(limit: int) -> ImageRefused:
    """The refusal of a file that is too large."""
    return ImageRefused(
        f"The image file is too large: at most {limit:,} bytes are taken. Send a smaller one, or raise "
        "TRUTHLOOP_MAX_IMAGE_BYTES."
    )


@contextmanager
def _turn(header: Header) -> Iterator[None]:
    """Waits for its turn to decode."""
    if header.width * header.height > _LARGE_PIXELS:
        with _LARGE, _DECODERS:
            yield
    else:
        with _DECODERS:
            yield


def _decoded(header: Header, data: bytes, flags: int) -> Any:
    """What OpenCV makes of the file; `flags` say which pixels are wanted."""
    import cv2
    import numpy as np

    cv2.utils.logging.setLogLevel(0)  # what is wrong with a file stands in the refusal
    buffer = np.frombuffer(header.pixels if header.pixels is not None else data, np.uint8)
    try:
        pixels = cv2.imdecode(buffer, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageRefused(f"The {header.format} can't be decoded. Save it again, in another way.")
    return pixels


def _try(header: Header, data: bytes) -> None:
    """Decodes a file, as small as that can be done, to see that it can be."""
    import cv2

    is_jpeg = header.format == "JPEG"
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 if is_jpeg else cv2.IMREAD_COLOR
    with _turn(header):
        rows, columns = _decoded(header, data, flags).shape[:2]
    if not is_jpeg and (columns, rows) != (header.width, header.height):
        raise cut_off(header.format)


def _turned(header: Header, data: bytes) -> tuple[bytes, Format]:
    """An upright copy of a file: of a JPEG another one, of anything else a PNG, which loses nothing."""
    import cv2
    from PIL import Image

    is_jpeg = header.format == "JPEG"
    with _turn(header):
        pixels = _upright(_decoded(header, data, cv2.IMREAD_UNCHANGED), header.exif.orientation)
        if pixels.dtype == "uint16":
            # Pillow has no colours of 16 bits.
            done, encoded = cv2.imencode(".png", pixels)
            if done:
                return encoded.tobytes(), "PNG"
        if pixels.dtype != "uint8":
            raise ImageRefused(f"The {header.format} has pixels of {pixels.dtype}. Save it with 8 or 16 bits.")
        if pixels.ndim == 3:
            to = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
            pixels = cv2.cvtColor(pixels, to)
        picture = Image.fromarray(pixels)
        out = io.BytesIO()
        if is_jpeg:
            picture.save(
                out, "JPEG", quality=_JPEG_QUALITY, subsampling=0, optimize=False, icc_profile=header.profile
            )
        else:
            picture.save(out, "PNG", icc_profile=header.profile)
    return out.getvalue(), "JPEG" if is_jpeg else "PNG"


def _upright(pixels: Any, orientation: int) -> Any:
    """Pixels turned as EXIF's orientation says, contiguous."""
    import cv2

    match orientation:
        case 2:
            return cv2.flip(pixels, 1)
        case 3:
            return cv2.rotate(pixels, cv2.ROTATE_180)
        case 4:
            return cv2.flip(pixels, 0)
        case 5:
            return cv2.transpose(pixels)
        case 6:
            return cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)
        case 7:
            return cv2.flip(cv2.transpose(pixels), -1)
        case 8:
            return cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE)
    return pixels
