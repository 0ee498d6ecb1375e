"""What the tests of jobs are given: a model, an image, and ways to look at what is stored."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from truthloop.errors import NotFound
from truthloop.models.documents import Boxes, CatalogueEntry, Label, Labels, ScoredBox
from truthloop.predict import claim as claims
from truthloop.predict import jobs
from truthloop.predict.claim import Claim
from truthloop.predict.documents import Job
from truthloop.predict.loaded import LoadedModels
from truthloop.predict.queue_limit import QueueLimit
from truthloop.predict.worker import Worker
from truthloop.store.connection import Store

ENTRY = CatalogueEntry.model_validate(
    {
        "name": "tiny",
        "version": "1",
        "task": "classification",
        "runtime": "litert",
        "file": {"name": "tiny.tflite", "sha256": "1" * 64},
        "labels": ["mean"],
        "licence": "CC0-1.0",
        "input": {"width": 4, "height": 4},
        "output": {"decoder": "classification"},
    }
)
FINDER = CatalogueEntry.model_validate(
    {
        "name": "finder",
        "version": "3",
        "task": "detection",
        "runtime": "opencv",
        "labels": ["thing"],
        "licence": "CC0-1.0",
        "input": {"max_side": 64},
        "output": {"decoder": "opencv_hog"},
    }
)
OTHER = ENTRY.model_copy(update={"name": "other", "version": "7"})


@dataclass(frozen=True)
class Image:
    """What `store_image` gives of an image, as far as a job needs it."""

    image_id: str = "a" * 64
    blob: str = "b" * 64
    original: str = "a" * 64
    width: int = 4
    height: int = 3


def queued(store: Store, entry: CatalogueEntry = ENTRY, image: Any = None, **more: Any) -> Job:
    return jobs.submit(store, QueueLimit(store), entry=entry, image=image or Image(), **more)


def events_of(store: Store, subject: str) -> list[tuple[int, str, Any]]:
    """The events of one job in order: sequence, verb, state."""
    found = store["truthloop.events"].find({"subject": subject}).sort("sequence", 1)
    return [
        (event["sequence"], event["type"].removeprefix("dev.truthloop."), event["data"]["state"])
        for event in found
    ]


def requeued(store: Store, job_id: str) -> int:
    """How often a job was put back."""
    return [verb for _, verb, _ in events_of(store, job_id)].count("job.requeued")


@dataclass
class TinyModel:
    """A model whose answer is the mean of the image; it can wait, fail and be counted."""

    entry: CatalogueEntry = ENTRY
    sha256: str | None = None
    batch_size: int = 1
    before_run: Callable[[list[Any]], object] = list
    runs: list[int] = field(default_factory=list)

    def prepare(self, image: Any) -> float:
        return float(image.mean())

    def run(self, batch: Sequence[float]) -> list[Labels | Boxes]:
        self.before_run(list(batch))
        self.runs.append(len(batch))
        if self.entry.task == "detection":
            box = {"left": 0.1, "top": 0.2, "right": 0.3, "bottom": 0.4}
            return [Boxes(boxes=[ScoredBox(label="thing", score=mean / 255, **box)]) for mean in batch]
        return [Labels(labels=[Label(label="mean", score=mean / 255)]) for mean in batch]


def png(grey: int, *, size: int = 4) -> bytes:
    """An image of one colour."""
    done, data = cv2.imencode(".png", np.full((size, size, 3), grey, np.uint8))
    assert done
    return data.tobytes()


def loaded(*models: TinyModel) -> LoadedModels:
    by_name = {model.entry.name: model for model in models}

    def entry(name: str) -> CatalogueEntry:
        if name not in by_name:
            raise NotFound(f"There is no model {name!r}.")
        return by_name[name].entry

    return LoadedModels(entry, lambda found: by_name[found.name])  # type: ignore[arg-type,return-value]


@contextmanager
def working(worker: Worker, **more: Any) -> Iterator[threading.Event]:
    """A worker on a thread; what is given stops it, and so does the end."""
    with on_a_thread(worker.run, **more) as stop:
        yield stop


@contextmanager
def on_a_thread(run: Callable[..., object], **more: Any) -> Iterator[threading.Event]:
    """What runs a worker until it is stopped, on a thread; what is given stops it, and so does the end."""
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=run, args=(stop,), kwargs={"ready": ready.set, **more}, daemon=True)
    thread.start()
    try:
        assert ready.wait(60)
        yield stop
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive(), "the worker did not stop"


def wait_until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Returns when the condition holds; fails if it doesn't in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.005)


def take_next(store: Store, *, worker: str, models: Collection[str] | None = None) -> Claim | None:
    """The next claim, as a worker takes it; None where nothing waits."""
    chosen = claims.look(store, models=models)
    return claims.take(store, chosen, worker=worker) if chosen else None


def in_state(store: Store, *states: str) -> int:
    return store["truthloop.jobs"].count_documents({"state": {"$in": states}})


def with_result(store: Store) -> set[str]:
    """The ids of the jobs that have a result, in the job or apart; none has both."""
    inside = {job["_id"] for job in store["truthloop.jobs"].find({"result": {"$exists": True}})}
    apart = {result["_id"] for result in store["truthloop.results"].find()}
    assert not inside & apart
    return inside | apart


def assert_whole(store: Store) -> None:
    """Every job has come to one end, with one result if it succeeded, and its events in order without gaps."""
    jobs_there = {job["_id"]: job for job in store["truthloop.jobs"].find()}
    assert {job["state"] for job in jobs_there.values()} <= {"created", "succeeded", "failed", "cancelled"}
    assert with_result(store) == {job_id for job_id, job in jobs_there.items() if job["state"] == "succeeded"}
    for job_id, job in jobs_there.items():
        events = events_of(store, job_id)
        assert [sequence for sequence, _, _ in events] == list(range(1, job["revision"] + 1)), events
        assert events[-1][2] == job["state"], events
        ends = [verb for _, verb, _ in events if verb in ("job.succeeded", "job.failed", "job.cancelled")]
        assert len(ends) == (job["state"] != "created"), events
