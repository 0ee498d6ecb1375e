"""What jobs and batches found: in the job where it is small, beside it, or in the blob store where it is large."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import bson
from bson.binary import Binary
from pydantic import Field

from truthloop.answers import Answer
from truthloop.blobs import Blobs
from truthloop.contours import ObjectOutline
from truthloop.errors import Conflict, NotFound
from truthloop.models.answer import ClassFraction, answer_of, tolerance_of
from truthloop.models.documents import Boxes, ClassMap, Label, Labels, ScoredBox
from truthloop.predict.change import missing, stored
from truthloop.predict.documents import BATCHES, JOBS, RESULTS, Job, JobState
from truthloop.predict.page import check_limit
from truthloop.store.connection import Document, Store

if TYPE_CHECKING:
    from truthloop.models.documents import Prediction

# MongoDB takes 16 MB, but a document that large slows down every read of its neighbours.
MAX_STORED_BYTES = 1024 * 1024
# How long one look into the change stream waits for something to come.
AWAIT_MS = 1000


class JobResult(Answer):
    """What a model says of an image: `labels`, or `boxes`, or `classes` with their `objects`."""

    job_id: str
    model: str
    model_version: str
    image_id: str
    width: int = Field(description="Of the upright image, in pixels.")
    height: int = Field(description="Of the upright image, in pixels.")
    labels: list[Label] | None = Field(default=None, description="Of a classifier: the best first.")
    boxes: list[ScoredBox] | None = Field(default=None, description="Of a detector: the surest first.")
    classes: list[ClassFraction] | None = Field(
        default=None, description="Of a segmentation model: each class and the fraction of the image it covers."
    )
    objects: list[ObjectOutline] | None = Field(
        default=None, description="Of a segmentation model: each connected object with its outlines."
    )
    tolerance: float | None = Field(
        default=None,
        description="Of a segmentation model: how far an outline may be from the exact one, in pixels.",
    )


class BatchResult(Answer):
    """What a batch found in one image, or why it could not be worked."""

    image_id: str
    width: int | None = None
    height: int | None = None
    labels: list[Label] | None = None
    boxes: list[ScoredBox] | None = None
    classes: list[ClassFraction] | None = None
    objects: list[ObjectOutline] | None = None
    error: str | None = Field(default=None, description="Why the image was refused.")


class BatchResultPage(Answer):
    """A page of a batch's results, in the order of the images' ids."""

    items: list[BatchResult]
    next: str | None = Field(description="Give this as `after` for the next page; null on the last.")


def result_fields(
    blobs: Blobs, prediction: "Prediction", *, width: int, height: int, tolerance: float | None
) -> Document:
    """What is stored of a prediction; where it is large, it is in the blob store from now on.

    Args:
        blobs: the blob store.
        prediction: what the model found.
        width: of the upright image, in pixels.
        height: of the upright image, in pixels.
        tolerance: of outlines, as `JobOptions`.

    Raises:
        StorageUnavailable: the blob store can't be written.
    """
    found: Document
    if isinstance(prediction, ClassMap):
        answer = answer_of(prediction, width=width, height=height, tolerance=tolerance)
        found = {
            "answer": answer.model_dump(mode="json"),
            # For the picture of the job; outlines alone don't tell which class lies where they meet.
            "class_map": {"png": Binary(_png(prediction)), "labels": list(prediction.labels)},
            "tolerance": tolerance_of(prediction, width=width, height=height, chosen=tolerance),
        }
    else:
        found = {"answer": prediction.model_dump()}
    size = {"width": width, "height": height}
    encoded = bson.encode(found)
    if len(encoded) > MAX_STORED_BYTES:
        return {**size, "blob": blobs.put(encoded)}
    return {**size, **found}


def result(store: Store, blobs: Blobs, job_id: str) -> JobResult:
    """What a succeeded job found.

    Raises:
        NotFound: there is no such job, or it has no result yet.
        Conflict: no result will come, since it was not executed, has failed or was cancelled; the text says why.
        StorageUnavailable: the result is in the blob store, which can't be read.
    """
    document = _stored_result(store, blobs, job_id)
    return JobResult(
        job_id=job_id,
        model=document["model"],
        model_version=document["model_version"],
        image_id=document["image_id"],
        width=document["width"],
        height=document["height"],
        tolerance=document.get("tolerance"),
        **document["answer"],
    )


def picture(store: Store, blobs: Blobs, job_id: str) -> bytes:
    """A succeeded job's image with its result drawn on it, as PNG.

    Raises:
        NotFound, Conflict: as for `result`; also NotFound where the image's file is gone.
        StorageUnavailable: the blob store can't be read.
    """
    from truthloop.ingest.image_file import decode
    from truthloop.models.plot import draw

    document = _stored_result(store, blobs, job_id)
    pixels = decode(blobs.get(document["image"]["blob"]), max_pixels=store.settings.max_image_pixels)
    return draw(pixels, _prediction(document))


def wait(
    store: Store,
    job_id: str,
    *,
    seconds: float | None = None,
    progress: Callable[[Job], None] = lambda job: None,  # noqa: ARG005
) -> Job:
    """Waits until a job has ended; see `JobVerbs.wait`."""
    deadline = None if seconds is None else time.monotonic() + seconds
    pipeline: list[Document] = [{"$match": {"documentKey._id": job_id}}, {"$project": {"_id": 1}}]
    with store.errors(), store[JOBS].watch(pipeline, max_await_time_ms=AWAIT_MS) as changes:
        while True:
            job = Job.of(stored(store, job_id))
            if job.state.is_final:
                return job
            progress(job)
            while True:
                left = AWAIT_MS / 1000 if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return job
                # A created job may wait for ever; one that has come to its end is seen at once.
                if changes.try_next() is not None:
                    break


def batch_results(
    store: Store, blobs: Blobs, batch_id: str, *, limit: int = 100, after: str | None = None
) -> BatchResultPage:
    """A page of what a batch found, in the order of the images' ids; see `BatchVerbs.results`."""
    check_limit(limit)
    with store.errors():
        if store[BATCHES].find_one({"_id": batch_id}, {"_id": 1}) is None:
            raise NotFound(f"There is no batch {batch_id[:64]!r}.")
        found = list(store[RESULTS].find({"_id": results_of(batch_id, after)}).sort("_id", 1).limit(limit + 1))
    page = found[:limit]
    return BatchResultPage(
        items=[_batch_result(_whole(blobs, document)) for document in page],
        next=page[-1]["image_id"] if len(found) > limit else None,
    )


def batch_result_id(batch_id: str, image_id: str) -> str:
    """The `_id` of a batch's result: an image has one in each batch."""
    return f"{batch_id}/{image_id}"


def results_of(batch_id: str, after: str | None = None) -> Document:
    """The range of the `_id` of a batch's results: of all, or of those of the images that come after one."""
    # `0` follows `/`, so these are all ids that begin with the batch's own and a slash.
    return {"$gt": batch_result_id(batch_id, after or ""), "$lt": f"{batch_id}0"}


def _batch_result(document: Document) -> BatchResult:
    return BatchResult(
        image_id=document["image_id"],
        width=document.get("width"),
        height=document.get("height"),
        error=document.get("error"),
        **document.get("answer", {}),
    )


def _stored_result(store: Store, blobs: Blobs, job_id: str) -> Document:
    """A job's result with all there is of it, its model and its image; wherever it is stored."""
    with store.errors():
        job = store[JOBS].find_one({"_id": job_id})
        if job is None:
            raise missing(job_id)
        found: Document | None = job.get("result")
        if found is None and job["state"] == JobState.SUCCEEDED:
            found = store[RESULTS].find_one({"_id": job_id})
            if found is None:  # the job was deleted just now
                raise missing(job_id)
    if found is None:
        if job["state"] in (JobState.QUEUED, JobState.RUNNING):
            why = f": {job['error']}" if job["error"] is not None else "."
            raise NotFound(f"Job {job_id} has no result yet; it is {job['state']}{why}")
        if job["state"] == JobState.CREATED:
            raise Conflict(
                f"Job {job_id} has no result yet: it has not been executed. Execute it, as "
                "`truthloop jobs execute` does."
            )
        why = f": {job['error']}" if job["state"] == JobState.FAILED else "."
        raise Conflict(f"Job {job_id} has no result, and none will come: it is {job['state']}{why}")
    return {name: job[name] for name in ("model", "model_version", "image_id", "image")} | _whole(blobs, found)


def _whole(blobs: Blobs, document: Document) -> Document:
    """The document with what lies in the blob store."""
    if "blob" in document:
        return document | bson.decode(blobs.get(document["blob"]))
    return document


def _png(prediction: ClassMap) -> bytes:
    import cv2

    done, png = cv2.imencode(".png", prediction.classes)
    assert done  # any array of bytes can be a PNG
    return png.tobytes()


def _prediction(document: Mapping[str, Any]) -> "Prediction":
    """The prediction of a stored result; the scores of a class map aren't stored, so they are 1."""
    if "class_map" not in document:
        answer = document["answer"]
        return Labels.model_validate(answer) if "labels" in answer else Boxes.model_validate(answer)
    import cv2
    import numpy as np

    stored_map = document["class_map"]
    classes = cv2.imdecode(np.frombuffer(stored_map["png"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert classes is not None  # `_png` made it
    scores = np.ones(classes.shape, np.float32)
    return ClassMap(classes=np.asarray(classes, np.uint8), scores=scores, labels=tuple(stored_map["labels"]))
