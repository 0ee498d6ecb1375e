"""From the chunks of a reader to batches that are ready to be stored, made on a thread of its own."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from truthloop.errors import FileRefused
from truthloop.ingest.documents import Fault, Prepared, Refused, prepare
from truthloop.ingest.read import Documents, Unreadable

T = TypeVar("T")

# Large enough for a sorted batch to meet the same pages of the indexes, small enough for memory and progress.
BATCH_DOCUMENTS = 40_000
BATCH_BYTES = 16 * 1024 * 1024
_REFUSED_AT_ONCE = 1000
# Batches that are ready before they are needed: one, while another is being stored.
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """A document that isn't stored: read and refused, or not even read."""

    index: int
    faults: Sequence[Fault]
    line: int | None
    document: Any = None
    excerpt: str | None = None


@dataclass(slots=True)
class Batch:
    """What is stored at once, and what was refused on the way."""

    prepared: list[Prepared] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    marked: list[tuple[int, Prepared]] = field(default_factory=list)  # with their numbers in the file
    refused: list[Refusal] = field(default_factory=list)
    position: int = 0
    error: str | None = None  # why the file can't be read any further


def batches(
    collection: str, chunks: Iterable[Documents | Unreadable], wants_encoded: Callable[[], bool]
) -> Iterator[Batch]:
    """Documents that are checked and encoded, with those that are refused, in batches of bounded size."""
    batch, size = Batch(), 0
    try:
        for chunk in chunks:
            batch.position = chunk.position
            if isinstance(chunk, Unreadable):
                fault = Fault(chunk.place, chunk.reason)
                batch.refused.append(Refusal(chunk.index, [fault], chunk.line, excerpt=chunk.excerpt))
                if len(batch.refused) >= _REFUSED_AT_ONCE:
                    yield batch
                    batch, size = Batch(position=chunk.position), 0
                continue
            encode = wants_encoded()
            # Of a document that isn't encoded the size isn't known; its text's stands for it.
            estimate = 0 if encode else chunk.text_bytes // max(1, len(chunk.items))
            for number, document in enumerate(chunk.items):
                try:
                    prepared = prepare(collection, document, encode=encode)
                except Refused as refused:
                    line = chunk.lines[number] if chunk.lines else None
                    batch.refused.append(Refusal(chunk.first + number, refused.faults, line, document))
                    continue
                batch.prepared.append(prepared)
                batch.indices.append(chunk.first + number)
                if prepared.marks:
                    batch.marked.append((chunk.first + number, prepared))
                size += len(prepared.raw) + estimate
                if len(batch.prepared) >= BATCH_DOCUMENTS or size >= BATCH_BYTES:
                    yield batch
                    batch, size = Batch(position=chunk.position), 0
            # Refused documents are kept whole until they are written, so they don't pile up.
            if batch.refused:
                yield batch
                batch, size = Batch(position=chunk.position), 0
    except FileRefused as error:
        batch.error = str(error)
    if batch.prepared or batch.refused or batch.error:
        yield batch


class ahead(Iterator[T]):  # noqa: N801 - reads as the function that it is to its caller
    """Runs an iterator on a thread, a few items ahead, so that its work overlaps with what is done with them."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="truthloop-load-read", daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def __next__(self) -> T:
        # In short waits, since a waiting get() keeps Ctrl-C from getting through on some systems.
        while True:
            try:
                item, error = self._ready.get(timeout=0.5)
                break
            except queue.Empty:
                continue
        if error is not None:
            raise error
        if item is None:
            raise StopIteration
        return item

    def _run(self) -> None:
        try:
            for item in self._items:
                self._put(item, None)
                if self._stop.is_set():
                    return
            self._put(None, None)
        except BaseException as error:
            self._put(None, error)

    def _put(self, item: T | None, error: BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put((item, error), timeout=0.2)
                return
            except queue.Full:
                continue
