"""The trace that workers leave, so that it can be told whether any is there: one that waits holds no lease."""

import os
import socket
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from truthloop.errors import TruthloopError
from truthloop.predict.change import NOW, literal
from truthloop.store.connection import Store

COLLECTION = "truthloop.workers"
# A worker leaves its trace every 5 s, or more often; MongoDB may be away for a moment.
SILENT_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A worker as it was seen last."""

    name: str
    models: tuple[str, ...] | None  # the only ones that it works; None for any
    seconds_ago: float  # since it was seen, by the server's clock
    has_ended: bool  # as it was asked to

    @property
    def is_at_work(self) -> bool:
        """Whether it lives, as far as can be told."""
        return not self.has_ended and self.seconds_ago <= SILENT_SECONDS

    def works(self, model: str) -> bool:
        """Whether it takes jobs of a model."""
        return self.models is None or model in self.models


@contextmanager
def traced(store: Store, models: Collection[str] | None) -> Iterator[Callable[[], None]]:
    """Leaves the trace of a worker that runs in this block, and at its end that it has ended.

    The trace goes by itself a day after it was left last.

    Args:
        store: the workspace.
        models: the only ones that it works; None for any.

    Yields:
        What is to be called every few seconds while it lives; raises `DatabaseUnavailable` as its text says.
    """
    worker_id = uuid.uuid4().hex
    fields = {
        "name": f"worker {os.getpid()} on {socket.gethostname()}",
        "models": None if models is None else sorted(models),
        "ended": False,
    }
    is_there = False

    def leave() -> None:
        nonlocal is_there
        is_there = False
        with store.errors():
            store[COLLECTION].update_one(
                {"_id": worker_id}, [{"$set": {**literal(fields), "seen": NOW}}], upsert=True
            )
        is_there = True

    try:
        yield leave
    finally:
        if is_there:  # else MongoDB may be away, which must not hold up the end
            fields["ended"] = True
            with suppress(TruthloopError):
                leave()


def traces(store: Store) -> list[Trace]:
    """The workers of the last day, the one seen last first."""
    age = {"$subtract": [NOW, "$seen"]}
    with store.errors():
        found = store[COLLECTION].find({}, {"name": 1, "models": 1, "ended": 1, "age": age}).sort("seen", -1)
        return [
            Trace(
                name=each["name"],
                models=None if each["models"] is None else tuple(each["models"]),
                seconds_ago=each["age"] / 1000,
                has_ended=each["ended"],
            )
            for each in found
        ]
