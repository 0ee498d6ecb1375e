"""Running a worker with the models of the catalogue: for good, or until one batch is done."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from truthloop.blobs import Blobs
from truthloop.errors import InputRefused, ModelUnavailable, NotFound, TruthloopError
from truthloop.logs import get_logger
from truthloop.predict import batches
from truthloop.predict.at_work import traced
from truthloop.predict.batch_change import OPEN
from truthloop.predict.documents import Batch
from truthloop.predict.loaded import LoadedModels
from truthloop.predict.slice_claim import claim_slice, say_why_it_waits
from truthloop.predict.worker import WITHOUT_SECONDS, ClaimSlice, Worker
from truthloop.store.connection import Document, Store

if TYPE_CHECKING:
    from truthloop.models.documents import CatalogueEntry
    from truthloop.predict.work import Work
    from truthloop.settings import Settings

log = get_logger(__name__)

# How soon it is seen that a load is to stop.
STOP_SECONDS = 0.2
# Between two looks at a batch whose last slices other workers have in hand.
LOOK_SECONDS = 0.5


def run_worker(
    store: Store,
    blobs: Blobs,
    stop: threading.Event,
    *,
    models: Collection[str] | None = None,
    pull: bool = False,
    threads: int | None = None,
    ready: Callable[[], None] = lambda: None,
    alive: Callable[[], None] = lambda: None,
    stuck: Callable[[str], None] = lambda error: None,  # noqa: ARG005
) -> None:
    """Works jobs and batches until `stop` is set, then finishes what it has begun or gives it back.

    Args:
        store: the workspace.
        blobs: its blob store.
        stop: ends it.
        models: the names of the models that it works; None for any.
        pull: fetches the files of these models, or of all that the catalogue has, before it is ready.
        threads: how many read and decode images; by default one for each processor.
        ready: called once when it looks for work.
        alive: called every few seconds, for as long as it reaches MongoDB and its model answers.
        stuck: called with what to say when a model has not answered for ten minutes; see `Worker.run`.

    Raises:
        NotFound: one of the models isn't in the catalogue.
        ModelUnavailable: a file can't be fetched beforehand.
        DatabaseUnavailable, StorageUnavailable: as their texts say.
    """
    from truthloop.models.catalogue import Catalogue

    catalogue = Catalogue.open(store.settings)
    chosen = catalogue.entries() if models is None else [catalogue.entry(name) for name in models]
    loaded = catalogue_models(store)
    if pull:
        for entry in chosen:
            loaded.get(entry.name, entry.version)
    _say_what_is_missing(store.settings, chosen, are_named=models is not None)
    claim = slices_of(store, blobs, loaded, stop, worker="worker")
    worker = Worker(store, blobs, loaded, models=models, threads=threads, claim_slice=claim)
    with traced(store, models) as leave_trace:

        def beat() -> None:
            leave_trace()
            alive()

        worker.run(stop, ready=ready, alive=beat, stuck=stuck)


def work_batch(
    store: Store,
    blobs: Blobs,
    batch_id: str,
    stop: threading.Event,
    *,
    loaded: LoadedModels | None = None,
    progress: Callable[[Batch], None] = lambda batch: None,  # noqa: ARG005
    stuck: Callable[[str], None] = lambda error: None,  # noqa: ARG005
) -> Batch:
    """Works one batch in this process until it has ended or `stop` is set; other workers may help.

    Args:
        store: the workspace.
        blobs: its blob store.
        batch_id: which batch.
        stop: ends it; what is in hand goes back.
        loaded: the models; by default those of the catalogue.
        progress: called twice a second with the batch as it stands.
        stuck: called with what to say when the model has not answered for ten minutes; see `Worker.run`.

    Returns:
        The batch as it stands then.

    Raises:
        ModelUnavailable: the model's file isn't here and can't be fetched; the batch stays open.
    """
    loaded = loaded or catalogue_models(store)
    batch = batches.get(store, batch_id)
    if batch.state in OPEN:
        try:
            _load(loaded, stop, batch.model, batch.model_version)
        except ModelUnavailable as error:
            say_why_it_waits(store, batch_id, str(error))
            raise ModelUnavailable(f"{error} {batches.goes_on(batch)}") from error
        except (NotFound, InputRefused):
            pass  # the worker refuses the batch for it
    claim = slices_of(store, blobs, loaded, stop, worker="truthloop predict", batch_id=batch_id)
    worker = Worker(store, blobs, loaded, jobs=False, claim_slice=claim)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            progress(batches.get(store, batch_id))

    watcher = threading.Thread(target=watch, name="truthloop-progress", daemon=True)
    watcher.start()
    try:
        while not stop.is_set():
            worker.run(stop, stuck=stuck, until_empty=True)
            if batches.get(store, batch_id).state not in OPEN:
                break
            time.sleep(LOOK_SECONDS)
    finally:
        ended.set()
        watcher.join()
    batch = batches.get(store, batch_id)
    progress(batch)
    return batch


def catalogue_models(store: Store) -> LoadedModels:
    """The models of the catalogue, loaded as they are needed; one that was added meanwhile is found."""
    from truthloop.models.catalogue import Catalogue
    from truthloop.models.load import load_model

    return LoadedModels(
        lambda name: Catalogue.open(store.settings).entry(name),
        lambda entry: load_model(store.settings, entry, fetch=True),
    )


def _say_what_is_missing(settings: "Settings", entries: "Sequence[CatalogueEntry]", *, are_named: bool) -> None:
    """Logs in one line which models' files aren't there, before a job waits for them in vain."""
    from truthloop.models.files import is_there
    from truthloop.models.folders import folder_for, missing_folder

    missing = [entry.name for entry in entries if not is_there(settings, entry)]
    if missing:
        tell = log.warning if are_named else log.info  # who names none may want none of these
        tell(
            "models_not_there",
            models=missing,
            fetched="when they are needed",
            or_put_into=str(folder_for(settings)),
        )
    if (text := missing_folder(settings)) is not None:
        log.warning("models_folder_missing", error=text)


def slices_of(
    store: Store,
    blobs: Blobs,
    loaded: LoadedModels,
    stop: threading.Event,
    *,
    worker: str,
    batch_id: str | None = None,
) -> ClaimSlice:
    """What gives a worker its slices: of any batch, or of one. Each comes with its model loaded.

    A model that can't be had is left to other workers for a while, as it is for jobs. Once `stop` is set no model
    is waited for.
    """
    away: dict[str, float] = {}  # by model: until when

    def load(batch: Document) -> bool:
        try:
            return _load(loaded, stop, batch["model"], batch["model_version"], batch["provenance"])
        except ModelUnavailable:
            away[batch["model"]] = time.monotonic() + WITHOUT_SECONDS
            raise

    def claim(
        size: Callable[[str], int], models: Collection[str] | None, without: Collection[str]
    ) -> "Work | None":
        now = time.monotonic()
        left = {*without, *(model for model, until in away.items() if until > now)}
        return claim_slice(
            store,
            blobs,
            worker=worker,
            size=size,
            models=models,
            without=left,
            batch_id=batch_id,
            load=load,
        )

    return claim


def _load(
    loaded: LoadedModels,
    stop: threading.Event,
    name: str,
    version: str,
    wanted: Mapping[str, Any] | None = None,
) -> bool:
    """Loads a model on a thread of its own; false if `stop` is set before.

    A runtime's own errors are passed over.
    """
    loading: Future[object] = Future()

    def load() -> None:
        try:
            loading.set_result(loaded.get(name, version, wanted))
        except BaseException as error:
            loading.set_exception(error)

    if loaded.has(name, version):
        load()
    else:
        threading.Thread(target=load, name="truthloop-load", daemon=True).start()
    while not stop.is_set():
        try:
            loading.result(STOP_SECONDS)
        except TimeoutError:
            if loading.done():
                return True  # its own
            continue
        except TruthloopError:
            raise
        except Exception:  # the worker tells of it when it begins the slice
            log.debug("model_not_loaded", model=name, exc_info=True)
        return True
    return False
