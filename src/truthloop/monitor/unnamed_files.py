"""Files of the blob store that no document names: counted, set aside, and removed for good.

A file is stored before the document that names it is committed, so one that nobody names may be on its way. And
whoever stores bytes that are there already relies on the file that is. So nothing is removed at once: a file is
set aside, where it is still read from, and is removed for good when a day later still nobody names it. Where a
document names it, it is put back. A commit comes seconds after its file, never a day, so whatever store it is, the
file of an acknowledged document isn't lost.
"""

import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from heapq import merge
from itertools import islice

from truthloop.blobs import PAGE, Blobs, StoredFile
from truthloop.errors import TruthloopError
from truthloop.ingest.images import named_by_images
from truthloop.logs import get_logger
from truthloop.monitor.missing_files import Comparison, Missing
from truthloop.predict.files import named_by_jobs
from truthloop.store import lease as leases
from truthloop.store.connection import Store
from truthloop.store.migrations import COLLECTION as MIGRATIONS

log = get_logger(__name__)

# A younger file may be on its way into a document; one set aside goes for good after the same time.
SAFE_AGE = timedelta(days=1)
LEASE_NAME, LEASE_SECONDS = "unnamed files", 60.0


@dataclass(slots=True)
class Amount:
    """So many files, and their size."""

    files: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Counts a file of `size` bytes."""
        self.files += 1
        self.bytes += size


@dataclass(slots=True)
class FilesFound:
    """What lies in the blob store."""

    stored: Amount = field(default_factory=Amount)  # all but those set aside before
    unnamed: Amount = field(default_factory=Amount)  # of these, named by no document and older than `SAFE_AGE`
    aside: Amount = field(default_factory=Amount)  # set aside before, and not yet gone
    removed: Amount = field(default_factory=Amount)  # of those set aside before, for good now
    missing: Missing = field(default_factory=Missing)  # what documents name and is neither there nor set aside
    others: list[str] = field(default_factory=list)  # the ids of other workspaces whose files lie there, too


class AnotherIsAtIt(Exception):
    """Another process removes files at this moment."""


def workspace_id(store: Store) -> str:
    """What tells this workspace from all others: a copy or a restored dump of it is another one."""
    with store.errors():
        (made,) = store.database.list_collections(filter={"name": MIGRATIONS})
    return str(made["info"]["uuid"].hex())


def let_go(store: Store, blobs: Callable[[], Blobs], keys: Collection[str]) -> None:
    """Sets aside the files that a document named which is gone now, but for those that others name.

    What can't be done now is left to `truthloop doctor`.
    """
    try:
        for key in {*keys} - _named(store, keys):
            blobs().set_aside(key)
    except TruthloopError as error:
        log.warning("files_stay", error=str(error))


def look(
    store: Store,
    blobs: Blobs,
    *,
    remove: bool = False,
    progress: Callable[[int], None] = lambda files: None,  # noqa: ARG005
) -> FilesFound:
    """Counts the files that no document names, and sets them aside where they are to be removed.

    The listing is a stream, and names are looked up for a page of it at once, so memory doesn't grow with it.
    Where other workspaces keep their files, too, only those that are missing are found, since what others name
    isn't known here.

    Args:
        store: the workspace.
        blobs: its blob store.
        remove: whether they are set aside, and those that were set aside a day ago are removed for good.
        progress: called with the number of files looked at.

    Raises:
        AnotherIsAtIt: with `remove`, another process does it at this moment.
        StorageUnavailable, DatabaseUnavailable: as their texts say; what was done by then stays done.
    """
    if not remove:
        return _look(store, blobs, None, progress)
    with _alone(store) as lost:
        removed = _forget_old(store, blobs, lost)
        found = _look(store, blobs, lost, progress)
        found.removed = removed
        return found


def forget_old(store: Store, blobs: Blobs, *, stop: threading.Event | None = None) -> Amount:
    """Removes for good what was set aside a day ago, and puts back what a document names.

    Args:
        store: the workspace.
        blobs: its blob store; where other workspaces keep their files, too, nothing is done.
        stop: ends it early.

    Raises:
        AnotherIsAtIt, StorageUnavailable, DatabaseUnavailable: as for `look`.
    """
    with _alone(store) as lost:
        return _forget_old(store, blobs, lost, stop)


def _look(store: Store, blobs: Blobs, lost: threading.Event | None, progress: Callable[[int], None]) -> FilesFound:
    """Args: `lost` is set when the place of the one who removes is; None where nothing is to be removed."""
    # Only who removes something claims the place: another's, looked at by mistake, is left as it was.
    before = (blobs.now() if lost is None else blobs.mark()) - SAFE_AGE
    found = FilesFound(others=blobs.others())
    comparison = Comparison(store, blobs.is_kept)
    looked = 0
    for page in _together(blobs):
        comparison.listed([each.key for each, _ in page])
        looked += len(page)
        progress(looked)
        if found.others:
            continue
        for each, is_aside in page:
            (found.aside if is_aside else found.stored).add(each.size)
        old = {each.key: each.size for each, is_aside in page if not is_aside and each.modified < before}
        for key in {*old} - _named(store, old) if old else ():
            found.unnamed.add(old[key])
            if lost is not None and not lost.is_set():
                blobs.set_aside(key)
    found.missing = comparison.ended(lambda names: progress(looked + names))
    if found.others:
        return found
    for torn in blobs.torn(before):
        found.unnamed.add(torn.size)
        if lost is not None:
            blobs.remove_torn(torn.key)
    return found


def _together(blobs: Blobs) -> Iterator[list[tuple[StoredFile, bool]]]:
    """The files and whether each is set aside, in pages in the order of their keys, if the store lists in it."""
    files = ((each, False) for page in blobs.files() for each in page)
    aside = ((each, True) for page in blobs.files_aside() for each in page)
    both = merge(files, aside)
    while page := [*islice(both, PAGE)]:
        yield page


def _forget_old(store: Store, blobs: Blobs, lost: threading.Event, stop: threading.Event | None = None) -> Amount:
    removed = Amount()
    before = None
    for page in blobs.files_aside():
        if before is None:
            if blobs.others():
                break
            before = blobs.mark() - SAFE_AGE
        named = _named(store, [each.key for each in page])
        for each in page:
            if lost.is_set() or (stop is not None and stop.is_set()):
                return removed
            if each.key in named:
                blobs.put_back(each.key)
            elif each.modified < before:
                blobs.forget(each.key)
                removed.add(each.size)
    return removed


def _named(store: Store, keys: Collection[str]) -> set[str]:
    return named_by_images(store, keys) | named_by_jobs(store, keys)


@contextmanager
def _alone(store: Store) -> Iterator[threading.Event]:
    """Holds the place of the one process that removes files; gives what is set when it is lost."""
    lease = leases.acquire(store, LEASE_NAME, holder=uuid.uuid4().hex, seconds=LEASE_SECONDS)
    if lease is None:
        raise AnotherIsAtIt
    with leases.held(store, lease, every_seconds=LEASE_SECONDS / 3):
        yield lease.lost
