"""Files that documents name and the blob store lacks: of a lost volume, or looked for in the wrong place."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby

from truthloop.ingest.images import image_with, keys_of_images
from truthloop.predict.files import job_with, keys_of_jobs
from truthloop.store.connection import Store

# An id that another system gave may be long.
EXAMPLES, EXAMPLE_LENGTH = 3, 100
# So many are asked for one by one before they count as missing, since a file may have come while the others were
# listed. More than that don't come in a moment, so then the listing's word is enough.
ASKED, AT_ONCE = 1000, 16
# Names that are looked at in one go when the listing has ended.
PAGE = 1000


@dataclass(slots=True)
class Missing:
    """Which files are missing."""

    named: int = 0  # files that documents name
    files: int = 0  # of these, missing
    examples: list[str] = field(default_factory=list)  # the first keys of these


class Comparison:
    """Holds the files that documents name against a listing of the blob store.

    Both come in the order of the keys, so only a page of each is in memory and none is asked for by itself. Where
    the store lists in no order, each file that isn't found beside its name is asked for, which takes longer.

    Args:
        store: the workspace.
        is_kept: whether the file of a key is there, asked from several threads.
    """

    def __init__(self, store: Store, is_kept: Callable[[str], bool]) -> None:
        self._is_kept = is_kept
        self._names: Iterator[str] = (key for key, _ in groupby(merge(keys_of_images(store), keys_of_jobs(store))))
        self._next = next(self._names, None)
        self._last, self._is_ordered, self._asked = "", True, 0
        self._missing = Missing()

    def listed(self, keys: Sequence[str]) -> None:
        """Takes the next page of the listing, at least one key."""
        in_order = [self._last, *keys]
        self._is_ordered = self._is_ordered and in_order == sorted(in_order)
        self._last = max(in_order)
        there = {*keys}
        while names := self._up_to(self._last):
            self._count(len(names), [key for key in names if key not in there])

    def ended(self, progress: Callable[[int], None] = lambda names: None) -> Missing:  # noqa: ARG005
        """What is missing, now that the listing has ended.

        Args:
            progress: called with the number of names that were looked at since then.
        """
        looked = 0
        while names := self._up_to(None):
            self._count(len(names), names)
            looked += len(names)
            progress(looked)
        return self._missing

    def _up_to(self, last: str | None) -> list[str]:
        """The next names, at most `PAGE`; up to the last one listed, where there is a listing still."""
        names = list[str]()
        while self._next is not None and (last is None or self._next <= last) and len(names) < PAGE:
            names.append(self._next)
            self._next = next(self._names, None)
        return names

    def _count(self, named: int, unlisted: list[str]) -> None:
        self._missing.named += named
        asked = unlisted if not self._is_ordered else unlisted[: ASKED - self._asked]
        self._asked = min(ASKED, self._asked + len(asked))
        kept = set[str]()
        if asked:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                kept = {key for key, is_kept in zip(asked, pool.map(self._is_kept, asked), strict=True) if is_kept}
        gone = [key for key in unlisted if key not in kept]
        self._missing.files += len(gone)
        self._missing.examples += gone[: EXAMPLES - len(self._missing.examples)]


def owner_of(store: Store, key: str) -> str | None:
    """What names a file, for people; None where nothing does any more."""
    if (image := image_with(store, key)) is not None:
        return f"image {image[:EXAMPLE_LENGTH]}"
    if (job := job_with(store, key)) is not None:
        return f"job {job[:EXAMPLE_LENGTH]}"
    return None
