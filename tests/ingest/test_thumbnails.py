"""The cache of thumbnails stays small; what a thumbnail looks like is among the tests of images."""

import os
from pathlib import Path

from predict.given import png
from truthloop.ingest import thumbnails
from truthloop.workspace import Workspace


def kept(workspace: Workspace) -> set[str]:
    return {path.name for path in (workspace.settings.home / "thumbnails").rglob("*.webp")}


def earlier(folder: Path, name: str, *, hours: int, size: int = 4000) -> None:
    """A thumbnail of another image, last used so long ago."""
    path = folder / f"{name}.webp"
    path.write_bytes(bytes(size))
    then = path.stat().st_mtime - hours * 3600
    os.utime(path, (then, then))


def test_the_cache_loses_what_was_not_asked_for_the_longest(workspace, monkeypatch):
    monkeypatch.setattr(thumbnails, "MAX_CACHE_BYTES", 256 * 10_000)
    image_id = workspace.ingest_image(png(1)).image_id
    folder = workspace.settings.home / "thumbnails" / image_id[:2]
    folder.mkdir(parents=True)
    for hours, name in ((3, "oldest"), (2, "old"), (1, "new")):
        earlier(folder, name, hours=hours)

    workspace.thumbnail(image_id, size=128)

    assert kept(workspace) == {"old.webp", "new.webp", f"{image_id}-128.webp"}


def test_a_thumbnail_that_is_asked_for_again_stays(workspace, monkeypatch):
    image_id = workspace.ingest_image(png(2)).image_id
    workspace.thumbnail(image_id, size=128)
    folder = workspace.settings.home / "thumbnails" / image_id[:2]
    mine = folder / f"{image_id}-128.webp"
    os.utime(mine, (0, 0))
    earlier(folder, "old", hours=2)
    workspace.thumbnail(image_id, size=128)
    monkeypatch.setattr(thumbnails, "MAX_CACHE_BYTES", 256 * 3000)

    workspace.thumbnail(image_id, size=256)

    assert kept(workspace) == {f"{image_id}-128.webp", f"{image_id}-256.webp"}
