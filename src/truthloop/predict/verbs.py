"""What can be done with jobs and batches, as `workspace.jobs` and `workspace.batches` do it."""

import builtins
import threading
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from truthloop.errors import InputRefused, NotFound
from truthloop.monitor.unnamed_files import let_go
from truthloop.predict import batches, jobs, results
from truthloop.predict.documents import (
    KEEP,
    Batch,
    BatchPage,
    BatchState,
    Job,
    JobPage,
    JobState,
    Keep,
    Query,
    Refusals,
    Source,
)
from truthloop.predict.job_fields import Given, Options
from truthloop.predict.jobs import Also
from truthloop.predict.queue_limit import QueueLimit
from truthloop.predict.results import BatchResultPage, JobResult
from truthloop.predict.run import work_batch

if TYPE_CHECKING:
    from truthloop.blobs import Blobs
    from truthloop.ingest.images import StoredImage
    from truthloop.models.documents import CatalogueEntry
    from truthloop.store.connection import Store


CATALOGUE_SECONDS = 2.0


class JobVerbs:
    """Inference jobs, as `truthloop jobs` does it: `create`, `submit`, `execute`, `get`, `result`, ...

    Models are named as in the catalogue. An image is one of the workspace (`image_id`), or one for the job alone
    (`image`): the bytes of its file, or what `truthloop.ingest.images.store_image` gave for them.
    """

    def __init__(self, store: "Store", blobs: "Callable[[], Blobs]") -> None:
        self._store, self._blobs = store, blobs
        self._limit = QueueLimit(store)
        self._catalogue = KnownModels(store)

    def create(
        self,
        model: str,
        *,
        image_id: str | None = None,
        image: "StoredImage | bytes | None" = None,
        deadline_seconds: float | None = None,
        options: Options | None = None,
        source: Source = "jobs",
        also: Also | None = None,
    ) -> Job:
        """A new job that waits for `execute`; see `truthloop.predict.jobs.create`.

        Raises:
            InputRefused: there is no such model or image; `errors` names which.
        """
        return jobs.create(
            self._store,
            entry=self._entry(model),
            image=self._given(image_id, image),
            deadline_seconds=deadline_seconds,
            options=options,
            source=source,
            also=also,
        )

    def submit(
        self,
        model: str,
        *,
        image_id: str | None = None,
        image: "StoredImage | bytes | None" = None,
        deadline_seconds: float | None = None,
        options: Options | None = None,
        source: Source = "jobs",
        also: Also | None = None,
    ) -> Job:
        """Creates a job and executes it at once; see `truthloop.predict.jobs.submit`."""
        entry = self._entry(model)
        given = self._given(image_id, image)
        if given is None:
            raise InputRefused(
                "The job has no image. Send one, or name one of the workspace by its image_id.",
                errors={"image_id": "missing"},
            )
        return jobs.submit(
            self._store,
            self._limit,
            entry=entry,
            image=given,
            deadline_seconds=deadline_seconds,
            options=options,
            source=source,
            also=also,
        )

    def get(self, job_id: str) -> Job:
        """A job as it stands; see `truthloop.predict.jobs.get`."""
        return jobs.get(self._store, job_id)

    def list(
        self,
        state: JobState | str | None = None,
        model: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> JobPage:
        """A page of jobs, the newest first; see `truthloop.predict.jobs.list`."""
        return jobs.list(
            self._store,
            state=state,
            model=model,
            created_after=created_after,
            created_before=created_before,
            limit=limit,
            after=after,
        )

    def update(
        self,
        job_id: str,
        *,
        revision: int | Collection[int] | None = None,
        model: str | Keep = KEEP,
        image_id: str | Keep | None = KEEP,
        deadline_seconds: float | Keep | None = KEEP,
        options: Options | Keep | None = KEEP,
    ) -> Job:
        """Changes a job that is still `created`; see `truthloop.predict.jobs.update`."""
        return jobs.update(
            self._store,
            job_id,
            revision=revision,
            entry=model if isinstance(model, Keep) else self._entry(model),
            image=image_id if isinstance(image_id, Keep) or image_id is None else self._known(image_id),
            deadline_seconds=deadline_seconds,
            options=options,
            known=self._entry,
        )

    def execute(
        self,
        job_id: str,
        *,
        image_id: str | None = None,
        image: "StoredImage | bytes | None" = None,
        also: Also | None = None,
    ) -> Job:
        """Puts a created job into the queue; see `truthloop.predict.jobs.execute`."""
        given = self._given(image_id, image)
        return jobs.execute(self._store, self._limit, job_id, image=given, also=also)

    def cancel(self, job_id: str) -> Job:
        """Ends a job that has not ended; see `truthloop.predict.jobs.cancel`."""
        return jobs.cancel(self._store, job_id)

    def delete(self, job_id: str) -> None:
        """Removes a job and its result; see `truthloop.predict.jobs.delete`.

        Its files are set aside where nothing else names them, and removed for good a day later.
        """
        let_go(self._store, self._blobs, jobs.delete(self._store, job_id))

    def result(self, job_id: str) -> JobResult:
        """What a succeeded job found; see `truthloop.predict.results.result`."""
        return results.result(self._store, self._blobs(), job_id)

    def picture(self, job_id: str) -> bytes:
        """A succeeded job's image with its result drawn on it, as PNG; see `truthloop.predict.results.picture`."""
        return results.picture(self._store, self._blobs(), job_id)

    def wait(
        self,
        job_id: str,
        *,
        seconds: float | None = None,
        progress: Callable[[Job], None] = lambda job: None,  # noqa: ARG005
    ) -> Job:
        """Waits until a job has ended, and returns it as it stands then or when time is up.

        Args:
            job_id: which job.
            seconds: how long at most; None for as long as it takes.
            progress: called with the job as it stands, at first and whenever it has changed.

        Raises:
            NotFound: there is no such job, or it was deleted meanwhile.
        """
        return results.wait(self._store, job_id, seconds=seconds, progress=progress)

    def _entry(self, model: str) -> "CatalogueEntry":
        return self._catalogue.entry(model)

    def _given(self, image_id: str | None, image: "StoredImage | bytes | None") -> "Given | None":
        """The image, or what stores or finds it: no file is stored for a job that is refused."""
        if isinstance(image, bytes):
            return partial(self._put, image)
        if image is None and image_id is not None:
            return partial(self._known, image_id)
        return image

    def _put(self, image: bytes) -> "StoredImage":
        from truthloop.ingest.images import store_image

        return store_image(self._blobs(), self._store.settings, image)

    def _known(self, image_id: str) -> "StoredImage":
        from truthloop.ingest.images import find_image

        try:
            return find_image(self._store, image_id)
        except NotFound as error:
            raise InputRefused(str(error), errors={"image_id": "no image of the workspace"}) from None


class BatchVerbs:
    """One model over many images: `create`, `get`, `list`, `cancel`, `resume`, `results`, `refusals`, `work`."""

    def __init__(self, store: "Store", blobs: "Callable[[], Blobs]") -> None:
        self._store, self._blobs = store, blobs
        self._catalogue = KnownModels(store)

    def create(
        self,
        model: str,
        *,
        image_ids: Sequence[str] | None = None,
        query: Query | None = None,
        record_as: str | None = None,
        also: batches.Also | None = None,
    ) -> Batch:
        """A new batch, which workers begin at once; see `truthloop.predict.batches.create`."""
        return batches.create(
            self._store,
            entry=self._catalogue.entry(model),
            image_ids=image_ids,
            query=query,
            record_as=record_as,
            also=also,
        )

    def get(self, batch_id: str) -> Batch:
        """A batch as it stands; see `truthloop.predict.batches.get`."""
        return batches.get(self._store, batch_id)

    def list(
        self, state: BatchState | str | None = None, *, limit: int = 100, after: str | None = None
    ) -> BatchPage:
        """A page of batches, the newest first; see `truthloop.predict.batches.list`."""
        return batches.list(self._store, state=state, limit=limit, after=after)

    def cancel(self, batch_id: str) -> Batch:
        """Stops a batch; what is stored stays. See `truthloop.predict.batches.cancel`."""
        return batches.cancel(self._store, batch_id)

    def resume(self, batch_id: str, *, anew: bool = False) -> Batch:
        """Goes on with a batch that was cancelled or has failed; see `truthloop.predict.batches.resume`."""
        return batches.resume(self._store, batch_id, anew=anew)

    def results(self, batch_id: str, *, limit: int = 100, after: str | None = None) -> BatchResultPage:
        """What a batch found, and which images it refused: a page in the order of the images' ids.

        Boxes that are recorded in `bbox.model` are there alone. The pages are complete once the batch has ended.
        """
        return results.batch_results(self._store, self._blobs(), batch_id, limit=limit, after=after)

    def refusals(self, batch_id: str) -> builtins.list[Refusals]:
        """For which reasons images were refused, and how many; see `truthloop.predict.batches.refusals`."""
        return batches.refusals(self._store, batch_id)

    def unfinished(self, model: str, *, query: Query, record_as: str | None) -> Batch | None:
        """The newest batch of the same question, if it hasn't come to its end."""
        return batches.unfinished(
            self._store, entry=self._catalogue.entry(model), query=query, record_as=record_as
        )

    def work(
        self,
        batch_id: str,
        *,
        stop: threading.Event | None = None,
        progress: Callable[[Batch], None] = lambda batch: None,  # noqa: ARG005
        stuck: Callable[[str], None] = lambda error: None,  # noqa: ARG005
    ) -> Batch:
        """Works a batch in this process until it has ended; see `truthloop.predict.run.work_batch`."""
        stop = stop or threading.Event()
        return work_batch(self._store, self._blobs(), batch_id, stop, progress=progress, stuck=stuck)


class KnownModels:
    """The catalogue as it was at most two seconds ago: reading it costs more than writing a job."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._read = float("-inf")
        self._entries: dict[str, CatalogueEntry] = {}

    def entry(self, model: str) -> "CatalogueEntry":
        """The catalogue's entry of that name.

        Raises:
            InputRefused: there is none; the text names those there are.
            ModelRefused, FileRefused: its file is there and can't be used.
        """
        from truthloop.models.catalogue import Catalogue

        if model not in self._entries or time.monotonic() - self._read > CATALOGUE_SECONDS:
            catalogue = Catalogue.open(self._store.settings)
            self._entries = {entry.name: entry for entry in catalogue.entries()}
            self._read = time.monotonic()
            try:
                return catalogue.entry(model)
            except NotFound as error:  # it is a part of what was asked, not what was asked for
                raise InputRefused(str(error), errors={"model": "is not in the catalogue"}) from None
        return self._entries[model]
