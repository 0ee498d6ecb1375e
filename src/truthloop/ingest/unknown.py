"""Which of the image ids in a file aren't in `metadata`."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import Self

import numpy as np
from numpy.typing import NDArray

from truthloop.ingest.insert import Seen, has_others
from truthloop.ingest.reports import NAMED, Named
from truthloop.store.connection import Store

# How many ids are asked for at once, and how much text: a command holds at most 16 MB.
ASK_IDS, ASK_CHARACTERS = 50_000, 3_000_000


class UnknownImages:
    """Collects the image ids of a file and asks for them, many at a time, so that memory stays bounded.

    It asks beside the load, on a thread of its own. Use it as a context manager.

    Args:
        store: the workspace, or None (dry run only).
        expected: in a dry run, the images that its earlier files would have stored.
        found: called, on that thread, with ids that are unknown, each id once in the file, and with the number
            of the first document that has it.
    """

    def __init__(
        self,
        store: Store | None,
        expected: "ExpectedImages | None",
        found: Callable[[Sequence[tuple[int, str]]], None],
    ) -> None:
        self._store, self._expected, self._found = store, expected, found
        self._pending: dict[str, int] = {}
        self._characters = 0
        self._missing = Seen()
        self._count = 0
        self._examples: list[str] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="truthloop-load-images")
        self._asked: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, image_ids: Sequence[str], indices: Sequence[int]) -> None:
        """Notes ids, each with its document's number in the file; repeats do no harm."""
        before = len(self._pending)
        # The later ones of a file come first here, so that the first one's number stays.
        self._pending = dict(zip(reversed(image_ids), reversed(indices), strict=True)) | self._pending
        self._characters += sum(map(len, image_ids)) if len(self._pending) > before else 0
        if len(self._pending) >= ASK_IDS or self._characters >= ASK_CHARACTERS:
            self._flush()

    def result(self) -> Named:
        """How many different ids are unknown, and the first of them."""
        self._flush()
        if self._asked is not None:
            self._asked.result()
        return Named(count=self._count, examples=tuple(self._examples))

    def _flush(self) -> None:
        if self._asked is not None:
            self._asked.result()  # one at a time; raises what went wrong
        pending, self._pending, self._characters = self._pending, {}, 0
        if pending:
            self._asked = self._pool.submit(self._ask, pending)

    def _ask(self, indices: dict[str, int]) -> None:
        missing = ids = sorted(indices)
        if self._store is not None:
            metadata, query = self._store["metadata"], {"image_id": {"$in": ids}}
            with self._store.errors():
                # Metadata of ours are there once each, so if their number is right, nothing is missing.
                if not has_others(metadata) and metadata.count_documents(query) == len(ids):
                    return
                found = metadata.find(query, {"_id": 0, "image_id": 1}, batch_size=len(ids))
                known = {document["image_id"] for document in found}
            missing = [image_id for image_id in ids if image_id not in known]
        if self._expected is not None and missing:
            missing = self._expected.without(missing)
        if missing:
            keys = _keys(missing)
            repeated, _ = self._missing.find(keys, keys)
            self._missing.put(keys, keys)
            fresh = [image_id for image_id, is_repeated in zip(missing, repeated, strict=True) if not is_repeated]
            self._count += len(fresh)
            self._examples += fresh[: NAMED - len(self._examples)]
            self._found([(indices[image_id], image_id) for image_id in fresh])


class ExpectedImages:
    """The ids of metadata that a dry run would have stored."""

    def __init__(self) -> None:
        self._ids = np.empty(0, np.uint64)
        self._new: list[NDArray[np.uint64]] = []

    def add(self, image_ids: list[str]) -> None:
        """Notes ids of metadata."""
        self._new.append(_keys(image_ids))

    def without(self, image_ids: list[str]) -> list[str]:
        """Those of the ids that no metadata file of this run has."""
        if self._new:
            self._ids, self._new = np.unique(np.concatenate([self._ids, *self._new])), []
        known = np.isin(_keys(image_ids), self._ids)
        return [image_id for image_id, is_known in zip(image_ids, known, strict=True) if not is_known]


def _keys(image_ids: list[str]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(sha256(each.encode()).digest()[:8] for each in image_ids), dtype="<u8")
