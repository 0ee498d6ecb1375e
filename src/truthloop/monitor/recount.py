"""Counting everything anew: for the first time, after a gap in the change streams, and as a proof."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pymongo.client_session import ClientSession

from truthloop.monitor.figures import Figures
from truthloop.monitor.read import COLLECTION, Selector, is_image_id, read_states, read_written, write_states
from truthloop.store.connection import Store
from truthloop.store.migrations import SOURCE_INDEXES, SOURCES

# Images a range, about: enough to make a query worth its cost, few enough to keep memory flat.
RANGE = 20_000
# The server reads for one range while Python decodes another.
THREADS = 2


def ranges(store: Store, names: tuple[tuple[str, str], ...]) -> Iterator[Selector]:
    """Cuts the ids of all images into ranges that together cover every text.

    Each has at most about `RANGE` documents of a collection, or one image, if that has more.

    Args:
        store: where they are.
        names: collections and the field of each that holds the image's id.
    """
    low = ""
    while True:
        ends = [end for name, field in names if (end := _end(store, name, field, low)) is not None]
        if not ends:
            yield {"$gt": low} if low else {"$gte": ""}
            return
        high = min(ends)
        yield {"$gt": low, "$lte": high} if low else {"$gte": "", "$lte": high}
        low = high


def _end(store: Store, name: str, field: str, low: str) -> str | None:
    """The first image's id after `RANGE` documents from `low` on; None if there is none."""
    beyond = store[name].find({field: {"$gt": low}}, {"_id": 0, field: 1}, hint=_hint(name, field), batch_size=2)
    for document in beyond.sort(field, 1).skip(RANGE):
        # What is no id can't be an end: a list, say, matches by its elements and compares as none of them.
        if is_image_id(image_id := document[field]):
            return image_id
    return None


def _hint(name: str, field: str) -> list[tuple[str, int]]:
    return [(key, 1) for key in SOURCE_INDEXES[name]] if name in SOURCE_INDEXES else [(field, 1)]


SOURCE_FIELDS = tuple((name, "image_id") for name in SOURCES)


def count(store: Store, progress: Callable[[int], None] | None = None) -> Figures:
    """The figures, counted from the four collections without writing anything."""

    def one(which: Selector) -> Figures:
        figures = Figures()
        for state in read_states(store, which).values():
            figures.add(state)
        return figures

    return _sum(store, SOURCE_FIELDS, one, progress)


def recount(
    store: Store, check: Callable[[ClientSession], None], progress: Callable[[int], None] | None = None
) -> Figures:
    """Counts the figures and writes down each image's state where it differs.

    Safe to be stopped and begun again at any point.

    Args:
        store: the workspace.
        check: called in each transaction that writes states; raises if this process may no longer write.
        progress: called with the number of images counted so far.
    """
    writing = threading.Lock()  # `check` writes too, so two transactions at once would clash

    def one(which: Selector) -> Figures:
        new = read_states(store, which)

        def write(session: ClientSession) -> None:
            check(session)
            write_states(store, read_written(store, which, session), new, session)

        with writing:
            store.transaction(write)
        figures = Figures()
        for state in new.values():
            figures.add(state)
        return figures

    return _sum(store, (*SOURCE_FIELDS, (COLLECTION, "_id")), one, progress)


def _sum(
    store: Store,
    names: tuple[tuple[str, str], ...],
    one: Callable[[Selector], Figures],
    progress: Callable[[int], None] | None,
) -> Figures:
    total, counted = Figures(), 0
    with store.errors(), ThreadPoolExecutor(THREADS, thread_name_prefix="truthloop-recount") as pool:
        for figures in pool.map(one, ranges(store, names)):
            total += figures
            counted += sum(figures.states.values())
            if progress is not None:
                progress(counted)
    return total
