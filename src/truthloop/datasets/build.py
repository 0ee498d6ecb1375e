"""The verb `build`: a new version of the dataset, put in place of the one before at one stroke.

    lease               one build at a time; an earlier one that stopped in between is settled first
    record `building`   the version's number is taken for good
    entries             decided range by range at one snapshot, into a collection that nobody reads
    files               entries.parquet, made from that collection, and left_out.parquet
    record + report     all that will be said of the version, and the identity of its collection
    swap                that collection becomes `bbox_dataset`: readers see the old one or the new one
    record `built`      and the event, in one transaction

Before the swap nothing has happened that anybody sees, so a build that stopped is undone; after it, all is there
and only the last step is missing, so it is finished. MongoDB gives each collection an identity that a renaming
keeps (its UUID), and that tells which of the two it is. It also keeps a builder that was taken for dead and wakes
up later from swapping: the collection with that identity is gone.
"""

import os
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import IndexModel
from pymongo.errors import OperationFailure
from pymongo.write_concern import WriteConcern

from truthloop.datasets import entries as files
from truthloop.datasets.documents import Clipped, DatasetReport, Progress, Seconds, unheard
from truthloop.datasets.documents import UnknownImages as Unknown
from truthloop.datasets.gather import Decided, Selector, decide_range, ranges
from truthloop.datasets.report import Tally
from truthloop.datasets.settle import (
    BEAT_SECONDS,
    COLLECTION,
    DATASET,
    LEASE_NAME,
    LEASE_SECONDS,
    TEMPORARY,
    finish,
    settle,
    settle_all,
    taken_over,
    uuid_of,
)
from truthloop.datasets.snapshot import Snapshot
from truthloop.errors import AlreadyRunning, DatabaseRefused, TruthloopError
from truthloop.ingest.ledger import unfinished_loads
from truthloop.ingest.synthetic import is_synthetic
from truthloop.store import lease as leases
from truthloop.store.connection import Store
from truthloop.store.lease import Lease

_POLL_SECONDS = 0.2
# Images from which on the index on image_id is made after the documents are stored.
INDEX_LAST_FROM = 50_000
# Images between two calls of `progress`.
TOLD_EVERY = 10_000
# The server works for one range while Python decides another.
THREADS = 2

# MongoDB's codes: a collection isn't there, or isn't the one that was meant.
_NAMESPACE_NOT_FOUND, _OTHER_UUID = 26, 361


def build(
    store: Store,
    *,
    without_incorrect: bool = False,
    dry_run: bool = False,
    progress: Progress = unheard,
    reached: Callable[[str], None] = unheard,
) -> DatasetReport:
    """Builds the next version of the dataset into `bbox_dataset`, by the rule of `truthloop.datasets.rule`.

    Args:
        store: the workspace.
        without_incorrect: leaves out the images whose prediction would be taken though it was audited as
            incorrect; the report names them.
        dry_run: decides and reports, and writes nothing.
        progress: called with what is being done and how many images that has been done for.
        reached: called at the end of each phase with its name; the tests stop builds there.

    Returns:
        The report; it accounts for every image of `metadata`.

    Raises:
        AlreadyRunning: another process builds a dataset.
        LeaseLost: this one was taken for dead, since it didn't get on; its version is undone.
        Conflict: collections were made or removed while they were read, or it took longer than MongoDB keeps
            its past.
        DatabaseUnavailable, DatabaseRefused, DiskFull, FileRefused: as their texts say. Nothing has changed then.
    """
    if dry_run:
        started = time.monotonic()
        snapshot, tally, unfinished = Snapshot(store), Tally(), unfinished_loads(store)
        with closing(_decide(store, snapshot, version=0, without_incorrect=without_incorrect)) as ranges_decided:
            for decided in ranges_decided:
                tally += decided.tally
                progress("Deciding", tally.images)
        seconds = Seconds(entries=time.monotonic() - started, parquet=0, swap=None)
        return _report(
            store,
            snapshot,
            tally,
            None,
            without_incorrect=without_incorrect,
            seconds=seconds,
            unfinished_loads=unfinished,
        )
    with _place(store, progress) as lease:
        leases.renew(store, lease)  # who was asleep until its time ran out mustn't settle the build of another
        settle_all(store)
        leases.renew(store, lease)
        return _Build(store, lease, without_incorrect, progress, reached).run()


class _Build:
    """One build, from its record to its event."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        without_incorrect: bool,
        progress: Progress,
        reached: Callable[[str], None],
    ) -> None:
        self._store, self._lease, self._without_incorrect = store, lease, without_incorrect
        self._progress, self._reached = progress, reached

    def run(self) -> DatasetReport:
        self._version, self._folder = self._take_number()
        self._temporary = f"{TEMPORARY}{self._version}"
        try:
            return self._phases()
        except BaseException as error:
            was_undone = False
            with suppress(TruthloopError):  # that the database is gone may be why it stopped
                with self._store.errors():
                    found = self._store[COLLECTION].find_one({"_id": self._version}, {"state": 1}) or {}
                was_undone = found.get("state") == "undone"
                settle(self._store, self._version)
            if was_undone and isinstance(error, TruthloopError):  # whatever it then met came of that
                raise taken_over(self._version) from error
            raise

    def _phases(self) -> DatasetReport:
        self._reached("recorded")
        final = files.folder_of(self._store.settings.home, self._folder)
        building = files.begin_folder(final)
        started = time.monotonic()
        unfinished = unfinished_loads(self._store)
        try:
            uuid, snapshot, tally = self._entries(building)
            stored = time.monotonic()
            self._reached("stored")
            self._files(building, tally.total)
            sha256 = files.hash_of(building / files.ENTRIES)
        except OSError as error:
            raise files.disk_error(error, building) from error
        files.end_folder(building, final)
        written = time.monotonic()
        self._reached("written")
        report = _report(
            self._store,
            snapshot,
            tally,
            self._version,
            without_incorrect=self._without_incorrect,
            seconds=Seconds(entries=stored - started, parquet=written - stored, swap=None),
            unfinished_loads=unfinished,
            folder=str(final.relative_to(self._store.settings.home)),
        )
        self._update({"collection_uuid": uuid, "sha256": sha256, "report": report.model_dump(mode="json")})
        self._reached("reported")
        swapping = time.monotonic()
        self._swap(uuid)
        self._reached("swapped")
        finished = finish(self._store, self._version, swap_seconds=time.monotonic() - swapping)
        self._reached("built")
        return finished

    def _take_number(self) -> tuple[int, str]:
        """The next version's number, for good (it is never given to another build), and its folder's name."""
        with self._store.errors():
            newest = self._store[COLLECTION].find_one({}, {"_id": 1}, sort=[("_id", -1)])
            version = int(newest["_id"]) + 1 if newest is not None else 1
            folder = f"{version}-{uuid4().hex[:8]}"
            self._store[COLLECTION].insert_one(
                {
                    "_id": version,
                    "state": "building",
                    "started": datetime.now(UTC),
                    "folder": folder,
                    "revision": 0,
                }
            )
        return version, folder

    def _entries(self, building: Path) -> tuple[Any, Snapshot, Tally]:
        """Stores the entries where nobody reads them.

        Returns:
            That collection's UUID, the moment, and the counts.
        """
        store = self._store
        with store.errors():
            store.database.drop_collection(self._temporary)
            # Its documents lie in the order of their _id, which is the image's, and need no index on that: half
            # of what storing them costs otherwise.
            store.database.create_collection(self._temporary, clusteredIndex={"key": {"_id": 1}, "unique": True})
            # Not unique, since the _id, which is the same, is. Made at last it costs a quarter of what it costs
            # at first; but a tenth of a second in any case, so not where there is little to store.
            index = IndexModel("image_id")
            large = store["metadata"].estimated_document_count() >= INDEX_LAST_FROM
            if not large:
                store[self._temporary].create_indexes([index])
        uuid = uuid_of(store, self._temporary)
        snapshot, tally = Snapshot(store), Tally()
        deciding = _decide(
            store,
            snapshot,
            version=self._version,
            without_incorrect=self._without_incorrect,
            temporary=self._temporary,
        )
        # Closed before anything else happens: where this stops, no thread may go on storing.
        with closing(deciding), files.LeftOutFile(building / files.LEFT_OUT) as left_out:
            for decided in deciding:
                self._hold()
                tally += decided.tally
                left_out.write(decided.left_out)
                self._progress("Deciding", tally.images)
        with store.errors():
            if large:
                store[self._temporary].create_indexes([index])
            found = store[self._temporary].count_documents({})
        if found != tally.total:
            raise DatabaseRefused(
                f"{tally.total:,} entries were stored and {found:,} are there: MongoDB lost some, or somebody "
                f"else writes into {self._temporary}. Build again."
            )
        return uuid, snapshot, tally

    def _files(self, building: Path, entries: int) -> None:
        """Writes `entries.parquet` from the version's own collection."""
        done = 0
        with self._store.errors(), files.EntriesFile(building / files.ENTRIES) as file:
            # By _id, which is the image's: the order doesn't depend on who stored what first.
            for document in self._store[self._temporary].find({}, {"_id": 0}).sort("_id", 1):
                file.add(document)
                done += 1
                if done % TOLD_EVERY == 0:
                    self._hold()
                    self._progress("Writing", done)
        if done != entries:
            raise DatabaseRefused(f"Of {entries:,} entries {done:,} were read back. Build again.")

    def _swap(self, uuid: Any) -> None:
        store = self._store
        try:
            with store.errors():
                store.client.admin.command(
                    {
                        "renameCollection": f"{store.database.name}.{self._temporary}",
                        "to": f"{store.database.name}.{DATASET}",
                        "dropTarget": True,
                        "collectionUUID": uuid,
                        "writeConcern": WriteConcern("majority").document,
                    }
                )
        except DatabaseRefused as error:
            cause = error.__cause__
            if isinstance(cause, OperationFailure) and cause.code in (_NAMESPACE_NOT_FOUND, _OTHER_UUID):
                raise taken_over(self._version) from error
            raise

    def _update(self, fields: dict[str, Any]) -> None:
        with self._store.errors():
            updated = self._store[COLLECTION].update_one(
                {"_id": self._version, "state": "building"}, {"$set": fields}
            )
        if not updated.matched_count:
            raise taken_over(self._version)

    def _hold(self) -> None:
        if self._lease.lost.is_set():
            raise taken_over(self._version)


def _decide(
    store: Store,
    snapshot: Snapshot,
    *,
    version: int,
    without_incorrect: bool,
    temporary: str | None = None,
) -> Generator[Decided, None, None]:
    """Decides all ranges, in the order of the ids, and stores the entries if they have somewhere to go."""

    def one(which: Selector) -> Decided:
        decided = decide_range(store, snapshot, which, version=version, without_incorrect=without_incorrect)
        if temporary is not None and decided.documents:
            with store.errors():
                target = store.database.get_collection(temporary, codec_options=CodecOptions(RawBSONDocument))
                target.insert_many(decided.documents, ordered=False)
        decided.documents.clear()
        return decided

    with ThreadPoolExecutor(THREADS, thread_name_prefix="truthloop-dataset") as pool:
        waiting = []
        try:
            with store.errors():
                for which in ranges(store):
                    waiting.append(pool.submit(one, which))
                    # Only so many are decided ahead that memory stays flat.
                    while len(waiting) > 2 * THREADS:
                        yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for each in waiting:
                each.cancel()


def _report(
    store: Store,
    snapshot: Snapshot,
    tally: Tally,
    version: int | None,
    *,
    without_incorrect: bool,
    seconds: Seconds,
    unfinished_loads: int,
    folder: str | None = None,
) -> DatasetReport:
    model, human = tally.model(), tally.human()
    seen = human.images + model.correct + model.incorrect
    return DatasetReport(
        version=version,
        as_of=snapshot.as_of,
        cluster_time=snapshot.cluster_time,
        built_at=None,
        without_incorrect=without_incorrect,
        synthetic=is_synthetic(store),
        images=tally.images,
        entries=tally.total,
        boxes=human.boxes + model.boxes,
        human=human,
        model=model,
        sources=tally.sources(),
        seen=seen,
        seen_fraction=seen / tally.total if tally.total else None,
        left_out=tally.left(),
        clipped=Clipped(boxes=tally.clipped_boxes, images=tally.clipped_images),
        not_in_metadata=Unknown(count=tally.unknown, examples=tally.unknown_examples),
        unfinished_loads=unfinished_loads,
        seconds=seconds,
        folder=folder,
    )


# -- one at a time, and what stopped in between ------------------------------------------------------------


@contextmanager
def _place(store: Store, progress: Progress) -> Iterator[Lease]:
    """The only place for a build; waits for one whose holder has died until its time has run out.

    Raises:
        AlreadyRunning: its holder lives.
    """
    holder = f"{os.uname().nodename}-{os.getpid()}-{uuid4().hex[:8]}"
    beat = None
    while (lease := leases.acquire(store, LEASE_NAME, holder=holder, seconds=LEASE_SECONDS)) is None:
        with store.errors():
            found = store[leases.COLLECTION].find_one({"_id": LEASE_NAME}, {"beat": 1}) or {}
        if beat is not None and found.get("beat") != beat:
            raise AlreadyRunning("Another process builds a dataset at this moment. Wait until it is done.")
        beat = found.get("beat")
        progress("Waiting for a build that stopped, or runs,", 0)
        time.sleep(_POLL_SECONDS)
    with leases.held(store, lease, every_seconds=BEAT_SECONDS):
        yield lease
