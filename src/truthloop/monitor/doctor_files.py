"""What `truthloop doctor` says of the files in the blob store."""

from collections.abc import Callable, Iterator

from truthloop.blobs import Blobs
from truthloop.errors import StorageUnavailable
from truthloop.monitor.finding import Finding, sized
from truthloop.monitor.missing_files import Comparison, Missing, owner_of
from truthloop.monitor.unnamed_files import AnotherIsAtIt, FilesFound, look, workspace_id
from truthloop.store.connection import Store

NAME, MISSING = "files", "missing files"
COMMAND = "truthloop doctor --remove-unnamed-files"


def files(store: Store, *, remove: bool, progress: Callable[[str], None]) -> Iterator[Finding]:
    """Whether the blob store can be used, which files of documents it lacks, and how many files nobody names.

    Args:
        store: the workspace.
        remove: whether they are set aside, to be removed for good a day later.
        progress: called with what it is at.
    """
    settings = store.settings
    if settings.blobs is None and not (settings.home / "blobs").is_dir():
        # It isn't made here: whoever has put it elsewhere may be about to bring it back.
        missing = Comparison(store, lambda key: False).ended(  # noqa: ARG005
            lambda names: progress(f"Looking ... {names:,} files")
        )
        if missing.files:
            yield _missing(store, missing, f"{settings.home / 'blobs'}, which isn't there")
        else:
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
        if found.missing.files:
            yield _missing(store, found.missing, blobs.place)
        yield _told(blobs, found, remove=remove)


def _missing(store: Store, missing: Missing, place: str) -> Finding:
    blobs = store.settings.blobs
    here = "isn't set" if blobs is None else f"is {blobs!r}"
    owners = [owner for key in missing.examples if (owner := owner_of(store, key)) is not None]
    such = f"; such as of {', '.join(dict.fromkeys(owners))}" if owners else ""
    number = f"{missing.files:,} of {missing.named:,}"
    return Finding(
        level="failure",
        name=MISSING,
        text=f"{number} that documents name {'is' if missing.named == 1 else 'are'} not in {place}{such}",
        mend=f"Check TRUTHLOOP_BLOBS, which {here}, and that the place is mounted. If they are lost, bring the "
        "same files again: truthloop ingest FOLDER",
        figures={"missing": missing.files, "named": missing.named},
    )


def _told(blobs: Blobs, found: FilesFound, *, remove: bool) -> Finding:
    if found.others:
        return Finding(
            level="warning",
            name=NAME,
            text=f"another workspace keeps its files in {blobs.place}, too ({', '.join(found.others[:3])}), so "
            "files that nobody names can't be told from its own, and none is removed",
            mend="See to the missing files first: this may be the wrong place."
            if found.missing.files
            else "Give each workspace its own TRUTHLOOP_BLOBS. If the other one is gone, or this is its restored "
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
    # Where others are missing this may be the wrong place, and these somebody's.
    mend = (
        "See to the missing files first: if this is the wrong place, these are another's."
        if found.missing.files
        else f"They are left over, as from uploads that were cut short. Remove them: {COMMAND}"
    )
    return Finding(
        level="warning" if is_left else "ok",
        name=NAME,
        text="; ".join(texts),
        mend=mend if is_left else "",
        figures=figures,
    )
