"""The verb `ingest`: image files, and folders of them, into the workspace."""

import hashlib
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import orjson
import uuid_utils
from pydantic import Field, computed_field

from truthloop.answers import Answer
from truthloop.blobs import Blobs
from truthloop.errors import FileRefused, ImageRefused, InputRefused
from truthloop.ingest.image_file import check, too_many_bytes
from truthloop.ingest.images import (
    NewImage,
    RefusedByCollection,
    clean_name,
    known_image,
    record_images,
    store_image,
)
from truthloop.ingest.json_lines import JsonLines
from truthloop.ingest.synthetic import claim_real, refuse_real
from truthloop.settings import Settings
from truthloop.store.connection import Store

# Images entered in one transaction: enough for its cost not to count, few enough for others to get their turn.
BATCH_IMAGES, BATCH_SECONDS = 256, 1.0
# Files on their way for each thread: so much is read ahead where one file takes long.
_AHEAD = 4
# Refused files that the report itself names; the file of rejects has all.
NAMED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestProgress:
    """How far an ingest has come."""

    done: int  # files, refused ones included
    total: int
    refused: int


class RefusedFile(Answer):
    """A file that isn't taken."""

    file: str
    state: Literal["refused"] = "refused"
    reason: str = Field(description="What is wrong with it, and what would be taken.")


class IngestReport(Answer):
    """What became of the files."""

    read: int = Field(description="Files looked at, refused ones included.")
    new: int = Field(description="Images that this brought; with dry_run, that it would.")
    already_there: int = Field(description="Files whose image was there already, or came twice.")
    refused: int = Field(description="Files that aren't taken.")
    turned: int = Field(description="New images stored with an upright copy, since their EXIF data turn them.")
    refusals: tuple[RefusedFile, ...] = Field(description=f"The first {NAMED} refused files.")
    rejects: str | None = Field(default=None, description="The file that names all of them, if there are any.")
    dry_run: bool = Field(default=False, description="Nothing was to be stored.")
    seconds: float = 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether every file is an image of the workspace now; the command's exit code is 1 otherwise."""
        return not self.refused


def ingest_paths(
    store: Store | None,
    blobs: Blobs | None,
    paths: Sequence[Path | str],
    *,
    settings: Settings,
    dry_run: bool = False,
    rejects_folder: Path | None = None,
    pace: Callable[[], None] = lambda: None,
    progress: Callable[[IngestProgress], None] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> IngestReport:
    """Takes image files into the workspace; each that can't be taken is named, the rest goes on.

    Interrupted, it leaves whole images only; run again, it takes up what is missing.

    Args:
        store: the workspace; None, with `dry_run`, for one that isn't there yet.
        blobs: its blob store; None as above.
        paths: files, and folders, which are searched through. Hidden files in them (`.name`) are left alone.
        settings: the bounds of an image.
        dry_run: checks everything and stores nothing.
        rejects_folder: where the file with the refused ones goes; None for no file.
        pace: called between batches, for what must go on beside a long ingest.
        progress: called as it goes on.
        now: the time, in UTC.

    Raises:
        InputRefused: `store` or `blobs` is None without `dry_run`.
        FileRefused: a path isn't there, or no path holds a file. Nothing is ingested.
        Conflict: the workspace holds made-up sample data.
        StorageUnavailable, DatabaseUnavailable, DatabaseRefused, DiskFull: what was taken by then stays.
    """
    if not dry_run and (store is None or blobs is None):
        raise InputRefused("There is no workspace to ingest into. Use dry_run, or open one.")
    started = time.monotonic()
    require_files(paths, without=settings.home)
    total = sum(1 for _ in find_files(paths, without=settings.home))
    if store is not None:
        refuse_real(store) if dry_run else claim_real(store)
    name = f"{now():%Y%m%dT%H%M%SZ}-{str(uuid_utils.uuid7())[-12:]}-images.jsonl"
    tally = _Tally()
    with JsonLines(rejects_folder, name) as rejects:
        batch = _Batch(None if dry_run else store, tally, rejects)
        for done, outcome in enumerate(_looked_at(store, blobs, settings, paths, dry_run=dry_run), start=1):
            batch.add(outcome)
            if batch.is_due or done == total:
                batch.enter()
                pace()
            if progress is not None:
                progress(IngestProgress(done=done, total=max(total, done), refused=tally.refused))
        batch.enter()
    return IngestReport(
        read=tally.new + tally.already_there + tally.refused,
        new=tally.new,
        already_there=tally.already_there,
        refused=tally.refused,
        turned=tally.turned,
        refusals=tuple(tally.refusals),
        rejects=str(rejects.path) if rejects.path else None,
        dry_run=dry_run,
        seconds=time.monotonic() - started,
    )


# -- finding -----------------------------------------------------------------------------------------------


def find_files(paths: Sequence[Path | str], *, without: Path | None = None) -> Iterator[Path]:
    """The files behind paths: folders are searched through in the order of names, each folder once.

    A link that leads nowhere and a folder that can't be read are given, too: reading them tells why.

    Args:
        paths: files and folders.
        without: a folder that is left out, as the workspace's own.

    Raises:
        FileRefused: a path isn't there, or is neither file nor folder.
    """
    seen: set[tuple[int, int]] = set()
    if without is not None and without.is_dir():
        left_out = without.stat()
        seen.add((left_out.st_dev, left_out.st_ino))
    for given in paths:
        path = Path(given)
        try:
            kind = path.stat().st_mode
        except OSError as error:
            raise FileRefused(f"{path} can't be read: {error.strerror}. Check the path.") from None
        if stat.S_ISDIR(kind):
            yield from _files_under(path, seen)
        elif stat.S_ISREG(kind):
            yield path
        else:
            raise FileRefused(f"{path} is neither a file nor a folder. Name a regular file.")


def require_files(paths: Sequence[Path | str], *, without: Path | None = None) -> None:
    """Refuses paths that `ingest_paths` would refuse, before a workspace is made for them.

    Raises:
        FileRefused: a path isn't there or is neither file nor folder, or no path holds a file.
    """
    for path in paths:
        next(find_files([path], without=without), None)
    if next(find_files(paths, without=without), None) is None:
        raise FileRefused(f"{', '.join(map(str, paths))} holds no file. Name image files, or another folder.")


def _files_under(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        try:
            kind = path.stat()
            if not stat.S_ISDIR(kind.st_mode):
                # Sockets, pipes and devices are no files that anyone put there as an image.
                if stat.S_ISREG(kind.st_mode):
                    yield path
                continue
            if (kind.st_dev, kind.st_ino) in seen:  # a link back, or the same folder once more
                continue
            seen.add((kind.st_dev, kind.st_ino))
            with os.scandir(path) as entries:
                names = sorted((entry.name for entry in entries if not entry.name.startswith(".")), reverse=True)
            waiting.extend(path / name for name in names)
        except OSError:
            yield path


# -- looking at --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a thread found a file to be: exactly one of `new`, `known` and `refused` says it."""

    path: Path
    image_id: str = ""
    new: NewImage | None = None  # stored; in a dry run None, and `turned` is all there is
    known: bool = False
    refused: str | None = None
    turned: bool = False


def _looked_at(
    store: Store | None, blobs: Blobs | None, settings: Settings, paths: Sequence[Path | str], *, dry_run: bool
) -> Iterator[_Outcome]:
    """Looks at the files on several threads; gives the outcomes in the files' order."""
    threads = min(32, (os.cpu_count() or 1) + 4)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="truthloop-ingest")
    underway: deque[Future[_Outcome]] = deque()

    def look(path: Path) -> _Outcome:
        return _look(store, blobs, settings, path, dry_run=dry_run)

    try:
        for path in find_files(paths, without=settings.home):
            underway.append(pool.submit(look, path))
            if len(underway) >= _AHEAD * threads:
                yield underway.popleft().result()
        while underway:
            yield underway.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _look(store: Store | None, blobs: Blobs | None, settings: Settings, path: Path, *, dry_run: bool) -> _Outcome:
    try:
        data = _read(path, settings.max_image_bytes)
        image_id = hashlib.sha256(data).hexdigest()
        if store is not None and blobs is not None and known_image(store, blobs, image_id) is not None:
            return _Outcome(path, image_id, known=True)
        if dry_run or blobs is None:
            limits = {"max_bytes": settings.max_image_bytes, "max_pixels": settings.max_image_pixels}
            return _Outcome(path, image_id, turned=check(data, **limits).upright is not data)
        image = store_image(blobs, settings, data)
    except ImageRefused as error:
        return _Outcome(path, refused=str(error))
    except OSError as error:
        return _Outcome(path, refused=f"The file can't be read: {error.strerror or error}. Make it readable.")
    new = NewImage(image, clean_name(_text(path.name)))
    return _Outcome(path, image_id, new=new, turned=image.blob != image.original)


def _read(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise too_many_bytes(max_bytes)
    return data


def _text(path: Path | str) -> str:
    """A path as text that can be stored and shown, also where its bytes aren't UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


# -- entering ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tally:
    new: int = 0
    already_there: int = 0
    refused: int = 0
    turned: int = 0
    refusals: list[RefusedFile] = field(default_factory=list)


class _Batch:
    """Collects what was found, and enters new images into the workspace, many in one transaction."""

    def __init__(self, store: Store | None, tally: _Tally, rejects: JsonLines) -> None:
        self._store, self._tally, self._rejects = store, tally, rejects
        self._waiting: list[_Outcome] = []
        self._entered_at = time.monotonic()
        self._seen: set[bytes] = set()  # in a dry run, what would have been entered

    @property
    def is_due(self) -> bool:
        """Whether it is time to enter what waits."""
        return len(self._waiting) >= BATCH_IMAGES or time.monotonic() - self._entered_at >= BATCH_SECONDS

    def add(self, outcome: _Outcome) -> None:
        """Counts a file, or has it wait to be entered."""
        if outcome.refused is not None:
            self._refuse(outcome.path, outcome.refused)
        elif outcome.known:
            self._tally.already_there += 1
        elif self._store is not None:
            self._waiting.append(outcome)
        else:
            key = bytes.fromhex(outcome.image_id)
            self._count(outcome, is_new=key not in self._seen)
            self._seen.add(key)

    def enter(self) -> None:
        """Enters what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._enter(waiting)
        self._entered_at = time.monotonic()

    def _enter(self, outcomes: Sequence[_Outcome]) -> None:
        assert self._store is not None
        try:
            are_new = record_images(self._store, [each.new for each in outcomes if each.new is not None])
        except RefusedByCollection as error:
            if len(outcomes) == 1:
                self._refuse(outcomes[0].path, f"The collection metadata refuses the image: {error}.")
                return
            half = len(outcomes) // 2  # which one it is shows alone
            self._enter(outcomes[:half])
            self._enter(outcomes[half:])
            return
        for outcome, is_new in zip(outcomes, are_new, strict=True):
            self._count(outcome, is_new=is_new)

    def _count(self, outcome: _Outcome, *, is_new: bool) -> None:
        self._tally.new += is_new
        self._tally.already_there += not is_new
        self._tally.turned += is_new and outcome.turned

    def _refuse(self, path: Path, reason: str) -> None:
        refusal = RefusedFile(file=_text(path), reason=reason)
        self._tally.refused += 1
        if len(self._tally.refusals) < NAMED:
            self._tally.refusals.append(refusal)
        line = orjson.dumps(refusal.model_dump(), option=orjson.OPT_APPEND_NEWLINE).decode()
        self._rejects.write([line])
