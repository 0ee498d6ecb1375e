"""The outlines of the objects in an image: at once, in this process, or as a task of the outline service.

A task of the service is an inference job like any other, with the source `outline`: queued, claimed, retried and
told of by events in the same way. It needs no queue, no worker and no store of its own.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import Field

from truthloop.answers import Answer
from truthloop.contours import ObjectOutline
from truthloop.errors import InputRefused, NotFound
from truthloop.models.answer import ClassFraction
from truthloop.predict.documents import JOBS, Job, JobOptions, JobState
from truthloop.predict.verbs import KnownModels

if TYPE_CHECKING:
    from truthloop.models.documents import CatalogueEntry, Pixels
    from truthloop.models.fetch import Progress
    from truthloop.predict.jobs import Also
    from truthloop.predict.verbs import JobVerbs
    from truthloop.settings import Settings
    from truthloop.store.connection import Store

DEFAULT_MODEL = "deeplab_v3"
MAX_TOLERANCE = 1000.0
# A task and its image are removed so long after the upload: strangers may send them, who never remove anything.
KEPT = timedelta(days=1)


class Outlines(Answer):
    """The objects in an image, with their outlines."""

    model: str = Field(description="The segmentation model.", examples=[DEFAULT_MODEL])
    model_version: str = Field(description="Its version in the catalogue.", examples=["1.0.0"])
    width: int = Field(description="Of the upright image, in pixels.", examples=[1280])
    height: int = Field(description="Of the upright image, in pixels.", examples=[720])
    tolerance: float = Field(
        description="How far a simplified outline may be from the exact one, in pixels of the image.",
        examples=[5.0],
    )
    classes: list[ClassFraction] = Field(description="What fraction of the image each class covers.")
    objects: list[ObjectOutline] = Field(description="The largest first.")


class OutlineTask(Answer):
    """A task of the outline service: where it stands and, when it is done, what it found."""

    id: str = Field(description="The task, as the upload's answer named it.")
    state: JobState = Field(description="`queued`, `running`, then `succeeded`, `failed` or `cancelled`.")
    error: str | None = Field(description="Why it failed, or why it was put back into the queue last.")
    model: str = Field(description="The segmentation model.")
    tolerance: float | None = Field(
        description="How far an outline may be from the exact one, in pixels of the image. Where none was chosen "
        "it is one cell of the model's grid, and null until that is known."
    )
    image_id: str | None = Field(description="The SHA-256 of the image's file as received.")
    width: int | None = Field(description="Of the upright image, in pixels; null until it is done.")
    height: int | None = Field(description="Of the upright image, in pixels; null until it is done.")
    classes: list[ClassFraction] | None = Field(
        description="What fraction of the image each class covers; null until it is done."
    )
    objects: list[ObjectOutline] | None = Field(description="The largest first; null until it is done.")


@dataclass(frozen=True, slots=True, eq=False)
class OutlinedImage:
    """What `outline` found, with what is needed to draw it or to write it in another format."""

    outlines: Outlines
    pixels: "Pixels"
    labels: Sequence[str]  # all classes that the model knows, in its order


def quiet(done: int, total: int | None) -> None:
    """Progress that nobody looks at."""


def outline(
    settings: "Settings",
    data: bytes,
    *,
    model: str = DEFAULT_MODEL,
    tolerance: float | None = None,
    fetch: bool = True,
    progress: "Progress" = quiet,
) -> OutlinedImage:
    """Finds the objects in an image and their outlines, here and now. No workspace is needed.

    Args:
        settings: of this process.
        data: an image file.
        model: a segmentation model of the catalogue.
        tolerance: how far an outline may be from the exact one, in pixels of the upright image; 0 gives the exact
            one, None one cell of the model's grid.
        fetch: whether the model's files may be fetched.
        progress: called with the bytes fetched so far and their number, where it is known.

    Raises:
        ImageRefused: the file is no image that is taken.
        InputRefused: the model finds no segments, or the tolerance is out of range.
        NotFound: there is no such model.
        ModelUnavailable, ModelRefused: as their texts say.
    """
    from truthloop.ingest.image_file import check, decode
    from truthloop.models.answer import Segments, answer_of, tolerance_of
    from truthloop.models.catalogue import Catalogue
    from truthloop.models.documents import ClassMap
    from truthloop.models.load import load_model

    _check_tolerance(tolerance)
    entry = Catalogue.open(settings).entry(model)
    _check_segments(settings, entry)
    checked = check(data, max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    pixels = decode(checked.upright, max_pixels=settings.max_image_pixels)
    prediction = load_model(settings, entry, fetch=fetch, progress=progress).predict(pixels)
    answer = answer_of(prediction, width=checked.width, height=checked.height, tolerance=tolerance)
    assert isinstance(prediction, ClassMap)
    assert isinstance(answer, Segments)  # as the entry's task says
    outlines = Outlines(
        model=entry.name,
        model_version=entry.version,
        width=checked.width,
        height=checked.height,
        tolerance=tolerance_of(prediction, width=checked.width, height=checked.height, chosen=tolerance),
        classes=answer.classes,
        objects=answer.objects,
    )
    return OutlinedImage(outlines, pixels, prediction.labels)


class OutlineVerbs:
    """The outline service's tasks: `submit` an image, then `get` the task until it has ended."""

    def __init__(self, store: "Store", jobs: "JobVerbs") -> None:
        self._store, self._settings, self._jobs = store, store.settings, jobs
        self._catalogue = KnownModels(store)

    def submit(
        self,
        image: bytes,
        *,
        model: str = DEFAULT_MODEL,
        tolerance: float | None = None,
        also: "Also | None" = None,
    ) -> Job:
        """Stores an image and queues a task for it.

        Args:
            image: the file.
            model: a segmentation model of the catalogue.
            tolerance: as for `outline`.
            also: what belongs to the change, done in its transaction.

        Raises:
            ImageRefused, InputRefused: as for `outline`, or there is no such model; nothing is stored then.
            QueueFull: too many jobs wait already.
            StorageUnavailable, DatabaseUnavailable: as their texts say.
        """
        _check_tolerance(tolerance)
        _check_segments(self._settings, self._catalogue.entry(model))
        return self._jobs.submit(
            model, image=image, options=JobOptions(tolerance=tolerance), source="outline", also=also
        )

    def job(self, task_id: str) -> Job:
        """The job that a task is.

        Raises:
            NotFound: there is none, or it is a job that wasn't made here.
        """
        try:
            job = self._jobs.get(task_id)
        except NotFound:
            job = None
        if job is None or job.source != "outline":
            raise NotFound(
                f"There is no outline task {task_id[:64]!r}; one is kept for 24 hours. Upload an image, and ask "
                "under the url in the answer."
            )
        return job

    def task(self, job: Job) -> OutlineTask:
        """A task as it stands, and its objects where it has succeeded.

        Raises:
            NotFound: it was deleted meanwhile.
            StorageUnavailable, DatabaseUnavailable: as their texts say.
        """
        found = self._jobs.result(job.id) if job.state is JobState.SUCCEEDED else None
        return OutlineTask.model_validate(
            {
                "id": job.id,
                "state": job.state,
                "error": job.error,
                "model": job.model,
                "tolerance": found.tolerance if found is not None else job.options.tolerance,
                "image_id": job.image_id,
                **{name: getattr(found, name, None) for name in ("width", "height", "classes", "objects")},
            }
        )

    def get(self, task_id: str) -> OutlineTask:
        """A task as it stands; see `task`.

        Raises:
            NotFound: there is no such task.
        """
        return self.task(self.job(task_id))

    def remove_old(self, stop: threading.Event, *, now: datetime | None = None) -> int:
        """Removes the tasks that have had their time, whatever their state, each with its event `job.deleted`.

        Args:
            stop: ends it early.
            now: the time; a day before it were the uploads of those that go.

        Returns:
            How many were removed.
        """
        old = {"source": "outline", "created_at": {"$lt": (now or datetime.now(UTC)) - KEPT}}
        removed = 0
        while not stop.is_set():
            with self._store.errors():
                ids = [each["_id"] for each in self._store[JOBS].find(old, {"_id": 1}).limit(100)]
            if not ids:
                break
            for task_id in ids:
                if stop.is_set():
                    break
                with suppress(NotFound):  # somebody else was quicker
                    self._jobs.delete(task_id)
                    removed += 1
        return removed


def _check_tolerance(tolerance: float | None) -> None:
    if tolerance is not None and not 0 <= tolerance <= MAX_TOLERANCE:
        raise InputRefused(
            f"tolerance is {tolerance}; give 0 to {MAX_TOLERANCE:,.0f} pixels.",
            errors={"tolerance": f"must be 0 to {MAX_TOLERANCE:,.0f}"},
        )


def _check_segments(settings: "Settings", entry: "CatalogueEntry") -> None:
    if entry.task != "segmentation":
        from truthloop.models.catalogue import Catalogue

        entries = Catalogue.open(settings).entries()
        able = ", ".join(other.name for other in entries if other.task == "segmentation")
        raise InputRefused(
            f"{entry.name} is a model for {entry.task}, which knows no outlines. These do: {able}.",
            errors={"model": f"is no segmentation model; these are: {able}"},
        )
