"""A place that one process holds at a time, by the server's clock."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from truthloop.errors import LeaseLost, TruthloopError
from truthloop.store.connection import Store

COLLECTION = "truthloop.leases"


@dataclass(slots=True)
class Lease:
    """A place held. `term` grows with each holder: a write that names it can't come from an earlier one."""

    name: str
    holder: str
    term: int
    seconds: float
    lost: threading.Event = field(default_factory=threading.Event)
    renewed: float = field(default_factory=time.monotonic)  # when it was taken or renewed last

    @property
    def is_fresh(self) -> bool:
        """Whether it was taken or renewed so lately that nobody else can have the place."""
        return not self.lost.is_set() and time.monotonic() - self.renewed < self.seconds


def acquire(store: Store, name: str, *, holder: str, seconds: float) -> Lease | None:
    """Takes the place if it's free or its holder's time has run out; None if it's held.

    Args:
        store: where the place is.
        name: of the place.
        holder: unique to this taker.
        seconds: how long it is held without being renewed.
    """
    with store.errors():
        try:
            found = store[COLLECTION].find_one_and_update(
                {"_id": name},
                [
                    {"$set": {"free": {"$lte": [{"$ifNull": ["$expires", "$$NOW"]}, "$$NOW"]}}},
                    {
                        "$set": {
                            "holder": _if_free(holder, "$holder"),
                            "term": _if_free({"$add": [{"$ifNull": ["$term", 0]}, 1]}, "$term"),
                            "beat": _if_free({"$add": [{"$ifNull": ["$beat", 0]}, 1]}, "$beat"),
                            "expires": _if_free({"$add": ["$$NOW", round(seconds * 1000)]}, "$expires"),
                        }
                    },
                    {"$unset": "free"},
                ],
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:  # two made the place at the same moment; the other was first
            return None
    if found is None or found["holder"] != holder:
        return None
    return Lease(name=name, holder=holder, term=found["term"], seconds=seconds)


def _if_free(then: object, otherwise: str) -> dict[str, object]:
    return {"$cond": ["$free", then, otherwise]}


def renew(store: Store, lease: Lease) -> int:
    """Holds the place for its `seconds` from now on.

    Returns:
        The place's beat, a number that grows with each write to it.

    Raises:
        LeaseLost: another has it.
    """
    began = time.monotonic()
    with store.errors():
        held = store[COLLECTION].find_one_and_update(
            {"_id": lease.name, "holder": lease.holder, "term": lease.term},
            [
                {
                    "$set": {
                        "beat": {"$add": ["$beat", 1]},
                        "expires": {"$add": ["$$NOW", round(lease.seconds * 1000)]},
                    }
                }
            ],
            return_document=ReturnDocument.AFTER,
        )
    if held is None:
        lease.lost.set()
        raise LeaseLost(f"Another process has taken over {lease.name}.")
    lease.renewed = began
    return int(held["beat"])


def release(store: Store, lease: Lease) -> None:
    """Gives the place free at once; does nothing where another has it already."""
    with store.errors():
        store[COLLECTION].update_one(
            {"_id": lease.name, "holder": lease.holder, "term": lease.term},
            [{"$set": {"expires": "$$NOW"}}],
        )


@contextmanager
def held(store: Store, lease: Lease, *, every_seconds: float) -> Iterator[Lease]:
    """Renews a lease on a thread of its own until the block ends, then releases it.

    `lease.lost` is set when it couldn't be renewed.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(every_seconds):
            try:
                renew(store, lease)
            except LeaseLost:
                return
            except TruthloopError:
                continue  # the server may come back before the lease has run out

    thread = threading.Thread(target=beat, name=f"lease-{lease.name}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        done.set()
        thread.join()
        if not lease.lost.is_set():
            with suppress(TruthloopError):  # else it runs out by itself
                release(store, lease)
