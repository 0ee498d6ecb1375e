"""How the queue stands: what waits and since when, and what doesn't get on and why."""

from dataclasses import dataclass

from truthloop.predict.batch_change import OPEN
from truthloop.predict.change import NOW
from truthloop.predict.documents import BATCHES, JOBS, JobState
from truthloop.store.connection import Document, Store

# Open batches that are told of one by one; more at once are rare.
MAX_BATCHES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The queued jobs of a model."""

    model: str
    jobs: int
    put_back: int  # of these, those that a worker had begun
    seconds: float  # since the first one was put into the queue; what was put back meanwhile doesn't count anew


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBatch:
    """A batch that has not ended."""

    id: str
    model: str
    done: int
    total: int
    error: str | None
    seconds: float  # since it came on the last time


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Jobs and batches that have not ended."""

    waiting: tuple[Waiting, ...]  # by the models' names
    running: int
    lapsed: int  # of the running ones, those whose worker gives no sign of life
    reason: str | None  # why a job was put back, the newest of those that wait
    batches: tuple[OpenBatch, ...]  # the oldest first, at most `MAX_BATCHES`


def standing(store: Store) -> Standing:
    """How the queue stands now, by the server's clock."""

    def since(field: str) -> Document:
        return {"$divide": [{"$subtract": [NOW, field]}, 1000]}

    waiting: list[Document] = [
        {"$match": {"state": JobState.QUEUED}},
        {
            "$group": {
                "_id": "$model",
                "jobs": {"$sum": 1},
                "put_back": {"$sum": {"$cond": [{"$eq": ["$error", None]}, 0, 1]}},
                # One that was queued by a version before this field has the last time alone.
                "first": {"$min": {"$ifNull": ["$first_queued_at", "$queued_at"]}},
            }
        },
        {"$project": {"jobs": 1, "put_back": 1, "seconds": since("$first")}},
        {"$sort": {"_id": 1}},
    ]
    lapsed = {"state": JobState.RUNNING, "$expr": {"$lte": ["$lease.expires_at", NOW]}}
    told = {"model": 1, "done": 1, "total": 1, "error": 1, "seconds": since("$progressed_at")}
    with store.errors():
        last = store[JOBS].find_one(
            {"state": JobState.QUEUED, "error": {"$ne": None}}, {"error": 1}, sort=[("_id", -1)]
        )
        return Standing(
            waiting=tuple(
                Waiting(model=each["_id"], jobs=each["jobs"], put_back=each["put_back"], seconds=each["seconds"])
                for each in store[JOBS].aggregate(waiting)
            ),
            running=store[JOBS].count_documents({"state": JobState.RUNNING}),
            lapsed=store[JOBS].count_documents(lapsed),
            reason=last["error"] if last is not None else None,
            batches=tuple(
                OpenBatch(
                    id=each["_id"],
                    model=each["model"],
                    done=each["done"],
                    total=each["total"],
                    error=each["error"],
                    seconds=each["seconds"],
                )
                for each in store[BATCHES]
                .find({"state": {"$in": [*OPEN]}}, told)
                .sort("_id", 1)
                .limit(MAX_BATCHES)
            ),
        )
