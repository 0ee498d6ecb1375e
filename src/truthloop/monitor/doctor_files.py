"""What `truthloop doctor` says of the files in the blob store."""

from collections.abc import Callable, Iterator

from truthloop.blobs import Blobs
from truthloop.errors import StorageUnavailable
from truthloop.monitor.finding import Finding, sized
from truthloop.monitor.unnamed_files import AnotherIsAtIt, FilesFound, look, workspace_id
from truthloop.store.connection import Store

NAME = "files"
COMMAND = "truthloop doctor --remove-unnamed-files"


def files(store: Store, *, remove: bool, progress: Callable[[str], None]) -> Iterator[Finding]:
    """Whether the blob store can be used, and how many files nobody names.

    Args:
        store: the workspace.
        remove: whether they are set aside, to be removed for good a day later.
        progress: called with what it is at.
    """
    settings = store.settings
    if settings.blobs is None and not (settings.home / "blobs").is_dir():
        yield Finding(level="ok", name=NAME, text="none was stored yet")
        return
    try:
        blobs = Blobs.open(settings, owner=lambda: workspace_id(store))
        found = look(
            store, blobs, remove=remove, progress=lambda number: progress(f"Looking ... {number:,} files")
        )
    except StorageUnavailable as error:
        yield Finding(level="failure", name=NAME, text=str(error))
    except AnotherIsAtIt:
        yield Finding(level="ok", name=NAME, text="another process removes what nobody names at this moment")
    else:
        yield _told(blobs, found, remove=remove)


def _told(blobs: Blobs, found: FilesFound, *, remove: bool) -> Finding:
    if found.others:
        return Finding(
            level="warning",
            name=NAME,
            text=f"another workspace keeps its files in {blobs.place}, too ({', '.join(found.others[:3])}), so "
            "files that nobody names can't be told from its own, and none is removed",
            mend="Give each workspace its own TRUTHLOOP_BLOBS. If the other one is gone, or this is its restored "
            f"dump, remove its mark there: workspaces/{found.others[0]}",
        )
    stored, unnamed, aside, removed = found.stored, found.unnamed, found.aside, found.removed
    figures: dict[str, int | float] = {
        "files": stored.files,
        "bytes": stored.bytes,
        "unnamed": unnamed.files,
        "unnamed_bytes": unnamed.bytes,
        "set_aside": aside.files,
        "set_aside_bytes": aside.bytes,
        "removed": removed.files,
        "removed_bytes": removed.bytes,
    }
    texts = [f"{stored.files:,} in {blobs.place}, {sized(stored.bytes)}"]
    if unnamed.files:
        done = ", set aside now" if remove else ""
        texts.append(f"named by no document{done}: {unnamed.files:,} ({sized(unnamed.bytes)})")
    if aside.files:
        texts.append(f"set aside before: {aside.files:,} ({sized(aside.bytes)})")
    if aside.files or (remove and unnamed.files):
        texts.append(f"what is set aside is removed a day later, by the service or by {COMMAND}")
    if removed.files:
        texts.append(f"removed for good: {removed.files:,} ({sized(removed.bytes)})")
    is_left = bool(unnamed.files) and not remove
    return Finding(
        level="warning" if is_left else "ok",
        name=NAME,
        text="; ".join(texts),
        mend=f"They are left over, as from uploads that were cut short. Remove them: {COMMAND}" if is_left else "",
        figures=figures,
    )
