"""Small copies of images for lists and grids, made when they are asked for and kept on this machine's disk."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from truthloop.blobs import Blobs
from truthloop.errors import ImageRefused
from truthloop.ingest.image_file import decode_small
from truthloop.ingest.images import ImageBytes, stored_key
from truthloop.store.connection import Store

if TYPE_CHECKING:
    from truthloop.models.documents import Pixels

# The longer side in pixels: few sizes, so that a cache of them stays one.
Size: TypeAlias = Literal[128, 256, 512]
SIZES: tuple[int, ...] = get_args(Size)
MEDIA_TYPE = "image/webp"
_QUALITY = 80
# How large the cache may become: some 100,000 thumbnails. Each of its 256 folders holds as much as any other, as
# they are named by hashes, so a folder is kept small by itself, at a cost that doesn't grow with the cache.
MAX_CACHE_BYTES = 1024**3
_FOLDERS = 256


def thumbnail(store: Store, blobs: Blobs, image_id: str, size: Size) -> ImageBytes:
    """A WebP of the upright image, whose longer side has `size` pixels, or fewer where the image has fewer.

    Args:
        store: the workspace; its folder holds the cache, `thumbnails`, which may be removed at any time. What was
            not asked for the longest goes when it becomes too large.
        blobs: its blob store.
        image_id: the image.
        size: of the longer side.

    Returns:
        The thumbnail; its key is that of the upright file.

    Raises:
        NotFound: no image has this id, or it has no pixels here.
        ImageRefused: it can't be decoded.
        StorageUnavailable: the blob store doesn't answer.
    """
    # Named by the content, so that a thumbnail is never out of date.
    key, settings = stored_key(store, blobs, image_id), store.settings
    path = settings.home / "thumbnails" / key[:2] / f"{key}-{size}.webp"
    try:
        kept = path.read_bytes()
        with contextlib.suppress(OSError):
            os.utime(path)  # it was of use just now
        return ImageBytes(kept, key, MEDIA_TYPE)
    except OSError:
        pass
    data = blobs.get(key)
    encoded = _encoded(decode_small(data, side=size, max_pixels=settings.max_image_pixels), size)
    with contextlib.suppress(OSError):  # without the cache it works as well, only slower
        _write(path, encoded)
        _keep_small(path.parent, MAX_CACHE_BYTES // _FOLDERS)
    return ImageBytes(encoded, key, MEDIA_TYPE)


def _encoded(pixels: "Pixels", size: int) -> bytes:
    import cv2

    height, width = pixels.shape[:2]
    scale = size / max(width, height)
    if scale < 1:
        sides = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    done, encoded = cv2.imencode(
        ".webp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, _QUALITY]
    )
    if not done:
        raise ImageRefused("No thumbnail can be made of the image.")
    return bytes(encoded.tobytes())


def _keep_small(folder: Path, max_bytes: int) -> None:
    """Removes files of a folder, those first that weren't used for the longest, until the others have room."""
    with os.scandir(folder) as entries:
        found = [(each.stat(), each.path) for each in entries]
    size = sum(stat.st_size for stat, _ in found)
    if size <= max_bytes:
        return
    for stat, path in sorted(found, key=lambda each: each[0].st_mtime):
        Path(path).unlink(missing_ok=True)
        size -= stat.st_size
        if size <= max_bytes:
            return


def _write(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: others may read it at the same moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
