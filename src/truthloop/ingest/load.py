"""The verb `load`: documents from JSON files into the four collections, each of them once."""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uuid_utils

from truthloop.errors import DatabaseUnavailable, InputRefused, TruthloopError, Unavailable
from truthloop.ingest.batches import Batch, ahead, batches
from truthloop.ingest.documents import (
    COLLECTIONS,
    NULL,
    OUTSIDE,
    SWAPPED,
    Fault,
    Prepared,
)
from truthloop.ingest.files import File, find_files, load_command, size_of
from truthloop.ingest.insert import Insertion, Outcome, Seen
from truthloop.ingest.json_lines import NOWHERE, JsonLines
from truthloop.ingest.ledger import LEASE_SECONDS, Ledger, close_dead_loads, interrupted_loads
from truthloop.ingest.notes import marked_lines, unknown_lines
from truthloop.ingest.read import Documents, Unreadable, read_documents
from truthloop.ingest.rejects import place, rejected
from truthloop.ingest.reports import NAMED, Counts, FileReport, LoadProgress, LoadReport, Named
from truthloop.ingest.synthetic import claim_real, refuse_real
from truthloop.ingest.unknown import ExpectedImages, UnknownImages
from truthloop.store.connection import Store

__all__ = ["LoadProgress", "LoadReport", "interrupted_loads", "load", "load_chunks"]


def load(
    store: Store | None,
    paths: Sequence[Path | str],
    *,
    into: str | None = None,
    dry_run: bool = False,
    strict: bool = False,
    replace: bool = False,
    rejects_folder: Path | None = None,
    pace: Callable[[], None] = lambda: None,
    progress: Callable[[LoadProgress], None] | None = None,
    new_id: Callable[[], str] = lambda: str(uuid_utils.uuid7()),
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    lease_seconds: float = LEASE_SECONDS,
) -> LoadReport:
    """Loads documents from files, in bounded memory; what is stored already is skipped.

    Metadata come first, whatever the order of the paths; otherwise files are loaded in their order. A fault of a
    document refuses that document, a fault of a file ends that file; everything else is stored.

    Args:
        store: the workspace; None, with `dry_run`, for one that isn't there yet.
        paths: JSON files, or folders of them, which are searched through.
        into: the collection, where the files' names don't tell.
        dry_run: stores nothing, and tells what would become of the documents.
        strict: reads everything first, and stores nothing if anything is refused.
        replace: a document replaces the one with the same key and another content, instead of being refused.
        rejects_folder: where the file with the refused documents goes; None for no file.
        pace: called between batches, for what must go on beside a long load.
        progress: called after each batch.
        new_id: makes the id of a load.
        now: the time, in UTC.
        lease_seconds: after how long without a sign of life another load is taken for dead.

    Raises:
        InputRefused: `into` is no collection, or `store` is None without `dry_run`.
        Conflict: the workspace holds made-up sample data.
        FileRefused: a path isn't there, holds no data, or its name is that of no collection. Nothing is loaded.
        DatabaseUnavailable, DatabaseRefused, DiskFull: with how far the load had come; loading the same again
            stores the rest.
    """
    if store is None and not dry_run:
        raise InputRefused("There is no workspace to load into. Use dry_run, or open one.")
    if into is not None and into not in COLLECTIONS:
        raise InputRefused(f"{into} is no collection to load into. Choose one of {', '.join(COLLECTIONS)}.")
    if store is not None:
        refuse_real(store)
    files = find_files(paths, into)
    started = time.monotonic()
    name = f"{now():%Y%m%dT%H%M%SZ}-{new_id()[-12:]}"
    if store is not None and not dry_run:
        close_dead_loads(store, lease_seconds=lease_seconds)
    run = _Run(store, replace=replace, pace=pace, progress=progress, new_id=new_id)
    stopped = False
    with (
        JsonLines(rejects_folder, f"{name}.jsonl") as rejects,
        JsonLines(rejects_folder, f"{name}-notes.jsonl") as notes,
    ):
        items: tuple[FileReport, ...] = ()
        if strict and not dry_run:
            items = run.load_all(files, rejects, NOWHERE, dry_run=True, checking=True)
            stopped = not all(item.ok for item in items)
        if not stopped:
            items = run.load_all(files, rejects, notes, dry_run=dry_run, checking=False)
    return LoadReport(
        items=items,
        rejects=str(rejects.path) if rejects.path else None,
        notes=str(notes.path) if notes.path else None,
        dry_run=dry_run,
        stopped=stopped,
        seconds=time.monotonic() - started,
    )


# -- one pass over the files -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tally:
    """The counts of one file while it is being loaded."""

    read: int = 0
    new: int = 0
    already_there: int = 0
    replaced: int = 0
    refused: int = 0
    conflicts: int = 0
    error: str | None = None
    refusals: list[str] = field(default_factory=list)
    marked: dict[int, list[str]] = field(default_factory=lambda: {NULL: [], SWAPPED: [], OUTSIDE: []})
    counted: dict[int, int] = field(default_factory=lambda: {NULL: 0, SWAPPED: 0, OUTSIDE: 0})

    def counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in Counts.model_fields}

    def mark(self, prepared: Prepared) -> None:
        for bit, named in self.marked.items():
            if prepared.marks & bit:
                self.counted[bit] += 1
                if len(named) < NAMED and prepared.image_id not in named:
                    named.append(prepared.image_id)

    def named(self, bit: int) -> Named:
        return Named(count=self.counted[bit], examples=tuple(self.marked[bit]))


class _Run:
    """What the passes of one call of `load` share."""

    def __init__(
        self,
        store: Store | None,
        *,
        replace: bool,
        pace: Callable[[], None],
        progress: Callable[[LoadProgress], None] | None,
        new_id: Callable[[], str],
    ) -> None:
        self._store, self._replace = store, replace
        self._pace, self._progress, self._new_id = pace, progress, new_id

    def load_all(
        self, files: Sequence[File], rejects: JsonLines, notes: JsonLines, *, dry_run: bool, checking: bool
    ) -> tuple[FileReport, ...]:
        expected = ExpectedImages() if dry_run else None
        seen = {file.collection: Seen() for file in files}
        reports = []
        for number, file in enumerate(files, start=1):
            size = size_of(file.path)

            def show(read: int, position: int, file: File = file, number: int = number, size: int = size) -> None:
                self._pace()
                if self._progress is not None:
                    self._progress(
                        LoadProgress(
                            file=str(file.path),
                            file_number=number,
                            files=len(files),
                            read=read,
                            bytes_read=position,
                            bytes_total=size,
                            checking=checking,
                        )
                    )

            reports.append(
                load_chunks(
                    self._store,
                    file.collection,
                    read_documents(file.path),
                    file=file.path,
                    rejects=rejects,
                    notes=notes,
                    dry_run=dry_run,
                    replace=self._replace,
                    claim=claim_real,
                    seen=seen[file.collection],
                    expected=expected,
                    new_id=self._new_id,
                    after_batch=show,
                )
            )
        return tuple(reports)


def load_chunks(
    store: Store | None,
    collection: str,
    chunks: Iterable[Documents | Unreadable],
    *,
    file: Path,
    source: str | None = None,
    rejects: JsonLines = NOWHERE,
    notes: JsonLines = NOWHERE,
    dry_run: bool = False,
    replace: bool = False,
    claim: Callable[[Store], None] = lambda store: None,  # noqa: ARG005
    seen: Seen | None = None,
    expected: ExpectedImages | None = None,
    new_id: Callable[[], str] = lambda: str(uuid_utils.uuid7()),
    after_batch: Callable[[int, int], None] = lambda read, position: None,  # noqa: ARG005
) -> FileReport:
    """Loads the documents of one file, or of what takes a file's place; see `load`.

    Args:
        store: the workspace, or None (dry run only).
        collection: one of the four.
        chunks: the documents; a FileRefused while they are read ends the load with what came before.
        file: what they are from.
        source: the command that makes the same documents again, where they aren't from a file.
        rejects: where refused documents are written.
        notes: where is written what is stored as it came and worth a look.
        dry_run: stores nothing.
        replace: whether another content under the same key is replaced.
        claim: called before something is stored; raises if that must not be.
        seen: in a dry run, what its earlier files would have stored in this collection.
        expected: in a dry run, the images that its earlier files would have stored.
        new_id: makes the load's id.
        after_batch: gets the documents read so far and the chunks' position.
    """
    started = time.monotonic()
    tally = _Tally()
    ledger: Ledger | None = None
    before_write: Callable[[], None] = lambda: None  # noqa: E731
    if store is not None and not dry_run:
        path = file.resolve()
        ledger = Ledger(
            store,
            id=new_id(),
            collection=collection,
            file=file.name,
            path=source or str(path),
            command=source or load_command(path, collection, replace=replace),
        )

        def before_write() -> None:
            claim(store)
            ledger.open()

    insertion = Insertion(
        store, collection, replace=replace, dry_run=dry_run, before_write=before_write, seen=seen
    )
    prepared_batches = batches(collection, chunks, lambda: insertion.wants_encoded)
    is_metadata = collection == "metadata"
    note = _Noting(str(file), collection, tally, rejects, notes)
    try:
        with insertion, UnknownImages(store, expected, note.unknown) as unknown, ahead(prepared_batches) as ready:
            for batch in ready:
                note.batch(batch)
                outcome = insertion.add(batch.prepared)
                tally.new += outcome.new
                tally.already_there += outcome.already_there
                tally.replaced += outcome.replaced
                if outcome.conflicts or outcome.refused:
                    note.outcome(batch, outcome)
                image_ids = [prepared.image_id for prepared in batch.prepared]
                if not is_metadata:
                    unknown.add(image_ids, batch.indices)
                elif expected is not None:
                    expected.add(image_ids)
                if ledger is not None:
                    ledger.beat(tally.counts())
                tally.error = batch.error
                after_batch(tally.read, batch.position)
            unknown_images = unknown.result()
    except Unavailable as error:
        # If the database is gone, the ledger can't be closed; a later load does it.
        if ledger is not None and not isinstance(error, DatabaseUnavailable):
            with contextlib.suppress(TruthloopError):
                ledger.close(tally.counts(), complete=False, may_have_changed=True)
        raise type(error)(
            f"{error} By then at least {tally.new:,} new documents of {file} were stored. Loading it again skips "
            "these and stores the rest."
        ) from error
    except BaseException:
        if ledger is not None:
            # What was being stored at that moment isn't counted, so the counts are at least what they say.
            ledger.close(tally.counts(), complete=False, may_have_changed=True)
        raise
    if ledger is not None:
        ledger.close(tally.counts(), complete=tally.error is None)
    return FileReport(
        **tally.counts(),
        file=str(file),
        collection=collection,
        error=tally.error,
        refusals=tuple(tally.refusals),
        nulls=tally.named(NULL),
        swapped=tally.named(SWAPPED),
        outside=tally.named(OUTSIDE),
        unknown_images=unknown_images,
        seconds=time.monotonic() - started,
    )


class _Noting:
    """Notes what isn't as it should be: counts it, names the first in the report, writes all to the files."""

    def __init__(self, file: str, collection: str, tally: _Tally, rejects: JsonLines, notes: JsonLines) -> None:
        self._file, self._collection, self._tally = file, collection, tally
        self._rejects, self._notes = rejects, notes

    def batch(self, batch: Batch) -> None:
        self._tally.read += len(batch.prepared) + len(batch.refused)
        for _, prepared in batch.marked:
            self._tally.mark(prepared)
        self._notes.write(marked_lines(self._file, self._collection, batch.marked))
        for refused in batch.refused:
            self.refusal(
                refused.index,
                refused.faults,
                line=refused.line,
                document=refused.document,
                excerpt=refused.excerpt,
            )

    def unknown(self, images: Sequence[tuple[int, str]]) -> None:
        """Image ids that aren't in metadata, each with the number of the first document that has it."""
        self._notes.write(unknown_lines(self._file, self._collection, images))

    def outcome(self, batch: Batch, outcome: Outcome) -> None:
        """What the database had against documents, in the order of the file."""
        places = {id(each): index for each, index in zip(batch.prepared, batch.indices, strict=True)}
        for prepared, stored in sorted(outcome.conflicts, key=lambda pair: places[id(pair[0])]):
            self.conflict(places[id(prepared)], prepared, stored)
        for prepared, fault in sorted(outcome.refused, key=lambda pair: places[id(pair[0])]):
            self.refusal(places[id(prepared)], [fault], document=prepared.fields())

    def refusal(self, index: int, faults: Sequence[Fault], **details: Any) -> None:
        self._tally.refused += 1
        self._name(index, faults)
        self._reject(index, faults, **details)

    def conflict(self, index: int, prepared: Prepared, stored: dict[str, Any]) -> None:
        fault = Fault("", "conflict: the same key is stored with another content")
        self._tally.conflicts += 1
        self._name(index, [fault])
        self._reject(index, [fault], document=prepared.fields(), stored=stored)

    def _reject(self, index: int, faults: Sequence[Fault], **details: Any) -> None:
        self._rejects.write(
            [rejected(file=self._file, collection=self._collection, index=index, faults=faults, **details)]
        )

    def _name(self, index: int, faults: Sequence[Fault]) -> None:
        if len(self._tally.refusals) < NAMED:
            self._tally.refusals.append(
                "; ".join(f"{place(index, fault.place)}: {fault.reason}" for fault in faults[:NAMED])
            )
