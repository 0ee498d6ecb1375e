"""The public Python API: a `Workspace`, whose methods are the stages' verbs."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Self, overload

from truthloop.blobs import Blobs
from truthloop.datasets.build import build
from truthloop.datasets.documents import (
    DatasetPage,
    DatasetReport,
    ExportReport,
    LeftOutImage,
    Progress,
    unheard,
)
from truthloop.datasets.export import Format, export
from truthloop.datasets.settle import settle_stopped
from truthloop.datasets.show import left_out, list_datasets, show_dataset
from truthloop.datasets.splits import DEFAULT as DEFAULT_SPLIT
from truthloop.datasets.why import Story, why
from truthloop.errors import Conflict, Unavailable
from truthloop.events.documents import EventPage
from truthloop.events.relay import Standing, run_relay
from truthloop.events.stream import EventHub, list_events
from truthloop.failures.documents import FailureSummary, ImageFailures
from truthloop.failures.failures import all_failures, failures
from truthloop.failures.selection import Selection
from truthloop.failures.summary import DEFAULT_WORST, summary
from truthloop.ingest.image_paths import IngestProgress, IngestReport, ingest_paths
from truthloop.ingest.images import (
    ImageBytes,
    ImageFacts,
    IngestedImage,
    image_bytes,
    image_of,
)
from truthloop.ingest.ingest_image import ingest_image
from truthloop.ingest.load import LoadProgress, LoadReport, load
from truthloop.ingest.sample import SampleReport, make_sample
from truthloop.ingest.synthetic import is_synthetic
from truthloop.ingest.thumbnails import Size, thumbnail
from truthloop.ingest.together import Entrance
from truthloop.monitor import follow
from truthloop.monitor.doctor import examine
from truthloop.monitor.documents import ImagePage, State, Status
from truthloop.monitor.finding import Finding
from truthloop.monitor.status import images, pace, status
from truthloop.monitor.tidy import tidy
from truthloop.monitor.unnamed_files import workspace_id
from truthloop.predict.documents import Batch, Query
from truthloop.predict.outlines import OutlineVerbs
from truthloop.predict.run import run_worker
from truthloop.predict.verbs import BatchVerbs, JobVerbs
from truthloop.settings import Settings
from truthloop.store.connection import Store, connect

# Between two looks at a build that may have died.
SETTLE_SECONDS = 2.0


class Workspace:
    """One labelling task: a MongoDB database and a folder. Close it, or use it as a context manager.

    Its methods may be called from several threads. Each raises `DatabaseUnavailable` when MongoDB doesn't answer.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.settings = store.settings

    @classmethod
    def open(cls, settings: Settings, *, create: bool) -> Self:
        """Connects; see `truthloop.open`."""
        return cls(connect(settings, create=create))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Workspace {self.settings.database} in {self.settings.home}>"

    def close(self) -> None:
        """Ends the connections and open streams; twice does no harm."""
        if "hub" in self.__dict__:
            self.hub.close()
        self.store.close()

    def load(
        self,
        paths: Sequence[Path | str] | Path | str,
        *,
        into: str | None = None,
        dry_run: bool = False,
        strict: bool = False,
        replace: bool = False,
        progress: Callable[[LoadProgress], None] | None = None,
    ) -> LoadReport:
        """Loads documents from JSON files into the four collections; see `truthloop.ingest.load.load`."""
        return load(
            self.store,
            [paths] if isinstance(paths, str | Path) else paths,
            into=into,
            dry_run=dry_run,
            strict=strict,
            replace=replace,
            rejects_folder=self.settings.home / "rejects",
            pace=lambda: pace(self.store),
            progress=progress,
        )

    @cached_property
    def blobs(self) -> Blobs:
        """The files of this workspace, by their content."""
        return Blobs.open(self.settings, owner=lambda: workspace_id(self.store))

    @cached_property
    def _entrance(self) -> Entrance:
        return Entrance(self.store)

    def ingest(
        self,
        paths: Sequence[Path | str] | Path | str,
        *,
        dry_run: bool = False,
        progress: Callable[[IngestProgress], None] | None = None,
    ) -> IngestReport:
        """Takes image files, and folders of them; see `truthloop.ingest.image_paths.ingest_paths`."""
        return ingest_paths(
            self.store,
            self.blobs,
            [paths] if isinstance(paths, str | Path) else paths,
            settings=self.settings,
            dry_run=dry_run,
            rejects_folder=self.settings.home / "rejects",
            pace=lambda: pace(self.store),
            progress=progress,
        )

    def ingest_image(self, data: bytes, *, name: str | None = None) -> IngestedImage:
        """Takes the bytes of one image file; see `truthloop.ingest.ingest_image.ingest_image`."""
        return ingest_image(self._entrance, self.blobs, data, name=name)

    def image(self, image_id: str) -> ImageFacts:
        """What is known of an image that has pixels here; see `truthloop.ingest.images.image_of`."""
        return image_of(self.store, self.blobs, image_id)

    def image_file(self, image_id: str, *, original: bool = False) -> ImageBytes:
        """An image's file, upright or as received; see `truthloop.ingest.images.image_bytes`."""
        return image_bytes(self.store, self.blobs, image_id, original=original)

    def thumbnail(self, image_id: str, *, size: Size = 256) -> ImageBytes:
        """A small copy of an image; see `truthloop.ingest.thumbnails.thumbnail`."""
        return thumbnail(self.store, self.blobs, image_id, size)

    def sample(
        self,
        *,
        images: int,
        seed: int = 0,
        if_empty: bool = False,
        progress: Callable[[LoadProgress], None] | None = None,
    ) -> SampleReport:
        """Fills the workspace with made-up documents; see `truthloop.ingest.sample.make_sample`."""
        return make_sample(
            self.store,
            images=images,
            seed=seed,
            if_empty=if_empty,
            pace=lambda: pace(self.store),
            progress=progress,
        )

    @property
    def is_synthetic(self) -> bool:
        """Whether made-up sample data are here, wholly or in part."""
        return is_synthetic(self.store)

    def status(
        self, *, catch_up: bool = True, recount: bool = False, progress: Callable[[int], None] | None = None
    ) -> Status:
        """The fractions that tell how far the data has come, at most two seconds behind.

        Args:
            catch_up: whether figures that are further behind are brought up to date first.
            recount: counts everything anew, instead of what has changed since.
            progress: called with the number of images counted, where it comes to a recount.

        Raises:
            FiguresBehind: they are further behind, and `catch_up` is false.
        """
        if recount:
            follow.void(self.store)
        return status(self.store, catch_up=catch_up, progress=progress)

    def images(
        self,
        state: State | str | None = None,
        *,
        limit: int = 100,
        after: str | None = None,
        catch_up: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> ImagePage:
        """The images behind a figure, in the order of their ids; see `truthloop.monitor.status.images`."""
        return images(self.store, state, limit=limit, after=after, catch_up=catch_up, progress=progress)

    @overload
    def failures(
        self, image_ids: str, *, selection: Selection | None = None, min_iou: float = 0.0
    ) -> ImageFailures: ...
    @overload
    def failures(
        self, image_ids: list[str] | tuple[str, ...], *, selection: Selection | None = None, min_iou: float = 0.0
    ) -> list[ImageFailures]: ...
    def failures(
        self,
        image_ids: str | list[str] | tuple[str, ...],
        *,
        selection: Selection | None = None,
        min_iou: float = 0.0,
    ) -> ImageFailures | list[ImageFailures]:
        """Each predicted box against the annotated one it is paired with, of one image or of several.

        See `truthloop.failures.failures.failures`.
        """
        if isinstance(image_ids, str):
            return failures(self.store, [image_ids], selection=selection, min_iou=min_iou)[0]
        return failures(self.store, image_ids, selection=selection, min_iou=min_iou)

    def all_failures(
        self,
        *,
        selection: Selection | None = None,
        min_iou: float = 0.0,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[ImageFailures]:
        """The failures of the whole workspace, without its matches, as a stream.

        See `truthloop.failures.failures.all_failures`.
        """
        return all_failures(self.store, selection=selection, min_iou=min_iou, progress=progress)

    def failure_summary(
        self,
        *,
        model_versions: Sequence[str] = (),
        min_iou: float = 0.0,
        worst: int = DEFAULT_WORST,
        progress: Callable[[int], None] | None = None,
    ) -> FailureSummary:
        """Where the model is wrong, over all annotated images; see `truthloop.failures.summary.summary`."""
        return summary(self.store, model_versions=model_versions, min_iou=min_iou, worst=worst, progress=progress)

    @cached_property
    def dataset(self) -> "DatasetVerbs":
        """The training sets: `workspace.dataset.build()`, `list()`, `show()`, `export(out=...)`."""
        return DatasetVerbs(self.store)

    @cached_property
    def jobs(self) -> JobVerbs:
        """The inference jobs: `workspace.jobs.submit(model, image_id=...)`, `wait(id)`, `result(id)`, ..."""
        return JobVerbs(self.store, lambda: self.blobs)

    @cached_property
    def outlines(self) -> OutlineVerbs:
        """The outline service's tasks: `workspace.outlines.submit(image)`, `get(id)`."""
        return OutlineVerbs(self.store, self.jobs)

    @cached_property
    def batches(self) -> BatchVerbs:
        """One model over many images: `workspace.batches.create(model, query="all")`, `work(id)`, ..."""
        return BatchVerbs(self.store, lambda: self.blobs)

    def predict(
        self,
        model: str,
        *,
        image_ids: Sequence[str] | None = None,
        query: Query | None = "unprocessed",
        record_as: str | None = "auto",
        stop: threading.Event | None = None,
        progress: Callable[[Batch], None] = lambda batch: None,  # noqa: ARG005
        stuck: Callable[[str], None] = lambda error: None,  # noqa: ARG005
    ) -> Batch:
        """Runs a model over images of the workspace and records its boxes in `bbox.model`, in this process.

        A batch of the same question that was interrupted is resumed.

        Args:
            model: its name in the catalogue.
            image_ids: the images; by default those that `query` means.
            query: `unprocessed` for the images without any prediction, or `all`.
            record_as: the version under which boxes are recorded; `auto` has it chosen, None records none.
            stop: ends it early; the same call goes on later.
            progress: called twice a second.
            stuck: called when the model doesn't answer any more; see `truthloop.predict.run.work_batch`.

        Raises:
            InputRefused, Conflict: as for `truthloop.predict.batches.create`; also where there is no such model.
        """
        batch = None
        if image_ids is None and query is not None:
            batch = self.batches.unfinished(model, query=query, record_as=record_as)
        if batch is not None:
            try:
                batch = self.batches.resume(batch.id, anew=True)
            except Conflict:  # it has succeeded meanwhile
                batch = None
        if batch is None:
            batch = self.batches.create(
                model, image_ids=image_ids, query=None if image_ids is not None else query, record_as=record_as
            )
        return self.batches.work(batch.id, stop=stop, progress=progress, stuck=stuck)

    def run_worker(
        self,
        stop: threading.Event,
        *,
        models: Sequence[str] | None = None,
        pull: bool = False,
        ready: Callable[[], None] = lambda: None,
        alive: Callable[[], None] = lambda: None,
        stuck: Callable[[str], None] = lambda error: None,  # noqa: ARG005
    ) -> None:
        """Works jobs and batches until `stop` is set; see `truthloop.predict.run.run_worker`."""
        run_worker(self.store, self.blobs, stop, models=models, pull=pull, ready=ready, alive=alive, stuck=stuck)

    def run_relay(
        self,
        stop: threading.Event,
        *,
        tell: Callable[[Standing], None] = lambda standing: None,  # noqa: ARG005
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes the events to Kafka until `stop` is set; see `truthloop.events.relay.run_relay`."""
        run_relay(self.store, stop, tell=tell, alive=alive)

    def why(self, image_id: str) -> Story:
        """One image's whole story, from its documents and the log; see `truthloop.datasets.why.why`."""
        return why(self.store, image_id)

    def events(self, *, after: str | None = None, limit: int = 100) -> EventPage:
        """A page of the event log, oldest first; see `truthloop.events.stream.list_events`."""
        return list_events(self.store, after=after, limit=limit)

    @cached_property
    def hub(self) -> EventHub:
        """The live event log: `hub.follow()` gives the events as they come."""
        return EventHub(self.store)

    def doctor(
        self,
        *,
        remove_unnamed_files: bool = False,
        progress: Callable[[str], None] = lambda text: None,  # noqa: ARG005
    ) -> Iterator[Finding]:
        """Whether the installation works and the data hold together; see `truthloop.monitor.doctor.examine`."""
        return examine(self.settings, remove_unnamed_files=remove_unnamed_files, progress=progress)

    def tidy(self, stop: threading.Event) -> None:
        """Removes what has had its time until `stop` is set; the service runs it on a thread."""
        tidy(self.store, lambda: self.blobs, self.outlines, stop)

    def follow_changes(self, stop: threading.Event) -> None:
        """Keeps the figures current until `stop` is set; the service runs it on a thread."""
        follow.follow(self.store, stop)


class DatasetVerbs:
    """What can be done with the training sets of a workspace, as `truthloop dataset` does it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def build(
        self, *, without_incorrect: bool = False, dry_run: bool = False, progress: Progress = unheard
    ) -> DatasetReport:
        """Builds the next version into `bbox_dataset`; see `truthloop.datasets.build.build`."""
        return build(self._store, without_incorrect=without_incorrect, dry_run=dry_run, progress=progress)

    def list(self, *, limit: int = 100, after: int | None = None) -> DatasetPage:
        """The versions, the newest first; see `truthloop.datasets.show.list_datasets`."""
        return list_datasets(self._store, limit=limit, after=after)

    def show(self, version: int | None = None) -> DatasetReport:
        """The report of a version, by default of the newest; see `truthloop.datasets.show.show_dataset`."""
        return show_dataset(self._store, version)

    def settle(self, stop: threading.Event) -> None:
        """Finishes or undoes builds that stopped in between; the service does so on a thread when it starts.

        Where one is running, or has died so lately that it may be, this waits until it is done or `stop` is set.
        """
        while not stop.is_set():
            with suppress(Unavailable):  # the next look may find MongoDB again
                if not settle_stopped(self._store)[1]:
                    return
            stop.wait(SETTLE_SECONDS)

    def left_out(self, version: int | None = None) -> Iterator[LeftOutImage]:
        """All images that a version left out, and why; see `truthloop.datasets.show.left_out`."""
        return left_out(self._store, version)

    def export(
        self,
        version: int | None = None,
        *,
        out: Path | str,
        format: Format = "jsonl",  # noqa: A002 - the option's name
        split: str = DEFAULT_SPLIT,
        progress: Progress = unheard,
    ) -> ExportReport:
        """Writes a version as files for training; see `truthloop.datasets.export.export`."""
        return export(self._store, version, out=Path(out), format=format, split=split, progress=progress)
