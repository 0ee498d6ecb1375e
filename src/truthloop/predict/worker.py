"""A worker: takes what waits, decodes ahead while the model runs, and writes down what it found.

Each kind of thread has one thing to do, so that none waits for another's: one hears of new work, one claims and
loads models, a few read and decode images, one runs models (the caller's), one writes, one renews the leases of
what is in hand, one sees to those that ran out elsewhere. At most two claims and two slices of batches are in hand
besides those being written: one that runs, one that is decoded meanwhile.
"""

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from truthloop.blobs import Blobs
from truthloop.errors import (
    ImageRefused,
    InputRefused,
    ModelRefused,
    ModelUnavailable,
    NotFound,
    StorageUnavailable,
    TruthloopError,
    Unavailable,
)
from truthloop.logs import get_logger
from truthloop.predict import claim as claims
from truthloop.predict.hands import Hand, Hands
from truthloop.predict.held import sweep
from truthloop.predict.loaded import LoadedModels
from truthloop.predict.wake import WakeUp, wake_up
from truthloop.predict.work import Item, JobsWork, Outcome, Work
from truthloop.store.connection import Store

if TYPE_CHECKING:
    from truthloop.models.documents import Prediction
    from truthloop.models.load import Model

log = get_logger(__name__)

# Whatever wakes a worker is a hint; it also looks this often, for what is due later and for leases that ran out.
LOOK_SECONDS = 5.0
# As many jobs are claimed as take about so long, so that a slow model's jobs don't wait behind one worker.
CLAIM_SECONDS = 0.5
FIRST_CLAIM = 4
# A slice of a batch is stored at once: so much work is lost at most when a worker is killed.
SLICE_SECONDS = 2.0
FIRST_SLICE = 32
MAX_SLICE = 256
# The largest batch that is given to a runtime at once: more gains nothing and keeps jobs waiting.
MAX_RUN = 16
# A model that can't be had is left to other workers for so long.
WITHOUT_SECONDS = 30.0
# Between two attempts while MongoDB doesn't answer.
RETRY_SECONDS = 0.5
# A model that has not answered for so long is not waited for any more: what it was given goes back.
STUCK_SECONDS = 600.0
# How long the thread that claims may take to end: enough for a claim that is being written.
JOIN_SECONDS = 1.0

ClaimSlice = Callable[[Callable[[str], int], Collection[str] | None, Collection[str]], Work | None]


class Worker:
    """Works jobs and batches until it is stopped.

    Args:
        store: the workspace.
        blobs: its images, and its larger results.
        loaded: the models.
        models: the names of those it works; None for any.
        jobs: whether it takes jobs.
        claim_slice: takes a slice of a batch, given how many images of a model at most, which models, and which
            not; None if it takes none.
        threads: how many read and decode images; by default one for each processor.
    """

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        loaded: LoadedModels,
        *,
        models: Collection[str] | None = None,
        jobs: bool = True,
        claim_slice: ClaimSlice | None = None,
        threads: int | None = None,
    ) -> None:
        self._store, self._blobs, self._loaded = store, blobs, loaded
        self._models, self._jobs, self._claim_slice = models, jobs, claim_slice
        self._name = f"worker {os.getpid()} on {socket.gethostname()}"
        self._threads = threads or os.cpu_count() or 1
        self._max_pixels = store.settings.max_image_pixels
        self._seconds: dict[str, float] = {}  # by model: for one image, lately
        self._without: dict[str, float] = {}  # by model: until when it is left to others
        self._locked: dict[str, float] = {}  # by job: until when it is passed over, since a transaction holds it
        self._writing: queue.SimpleQueue[tuple[Hand, list[Outcome]] | None] = queue.SimpleQueue()
        self._running: tuple[Hand, float] | None = None  # what the model is running, and since when
        self._failure: BaseException | None = None

    def run(
        self,
        stop: threading.Event,
        *,
        ready: Callable[[], None] = lambda: None,
        alive: Callable[[], None] = lambda: None,
        stuck: Callable[[str], None] = lambda error: None,  # noqa: ARG005
        until_empty: bool = False,
    ) -> None:
        """Works until `stop` is set, then gives back what it has not begun.

        Args:
            stop: ends it, within about a second and the time of one run of the model; a model that is being
                loaded or fetched is not waited for.
            ready: called once when it begins to look for work.
            alive: called every few seconds, for as long as it reaches MongoDB and its model answers.
            stuck: called with what to say when a model has not answered for ten minutes, and all that was in hand
                has gone back. Only the end of the process ends such a run; until it answers nothing is taken.
            until_empty: ends it also when a look finds nothing to do and nothing is in hand.
        """
        self._hands = Hands()
        wake = None if until_empty else wake_up(self._store, self._hands.announce, models=self._models)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="truthloop-decode")
        writer = threading.Thread(target=self._write, name="truthloop-write", daemon=True)
        claimer = threading.Thread(
            target=self._claim_all, args=(stop, ready, until_empty, wake), name="truthloop-claim", daemon=True
        )
        done = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(done, stuck), name="truthloop-leases", daemon=True)
        sweeper = threading.Thread(target=self._sweep, args=(done, alive), name="truthloop-sweep", daemon=True)
        for thread in (writer, claimer, keeper, sweeper):
            thread.start()
        try:
            while (hand := self._hands.next(stop)) is not None:
                self._run(stop, hand)
        finally:
            self._hands.end()
            # A model that is being loaded or fetched is left to itself; what it is for goes back then.
            claimer.join(JOIN_SECONDS)
            self._writing.put(None)
            writer.join()
            done.set()
            keeper.join()
            sweeper.join(JOIN_SECONDS)  # it may be waiting for a lock that a killed process has left
            self._pool.shutdown(cancel_futures=True)
        if self._failure is not None:
            raise self._failure

    # -- claiming, on its own thread

    def _claim_all(
        self, stop: threading.Event, ready: Callable[[], None], until_empty: bool, wake: WakeUp | None
    ) -> None:
        kinds = {is_slice for is_slice, takes in ((False, self._jobs), (True, bool(self._claim_slice))) if takes}
        # Of what there may be some that wait: of nothing after a look that found none, until something comes.
        to_look = {*kinds}
        looked = time.monotonic()
        try:
            if wake is not None:
                wake.begin()
            ready()
            while not stop.is_set():
                due = min([looked + LOOK_SECONDS, *self._locked.values()])
                left = due - time.monotonic()
                turn = self._hands.wait_for_turn(to_look, seconds=left, or_empty=until_empty and not to_look)
                if turn.has_ended:
                    return
                # A job that comes alone needs no look: neither for it, nor at once for others behind it.
                new = turn.new if self._jobs and turn.is_empty and not to_look else None
                is_due = time.monotonic() >= due
                if new is None and (turn.is_told or is_due or not to_look):
                    to_look |= kinds
                    looked = time.monotonic()
                try:
                    if new is not None:
                        self._take_jobs(
                            claims.announced(new, models=self._models, without=_current(self._without))
                        )
                    else:
                        self._claim(to_look)
                except TruthloopError as error:
                    log.warning("worker_waits", error=str(error))
                    to_look |= kinds
                    stop.wait(RETRY_SECONDS)
                    continue
                if until_empty and turn.is_empty and not to_look and not self._hands.held():
                    return
        except BaseException as error:
            self._failure = error
            log.exception("worker_failed")
        finally:
            if wake is not None:
                wake.end()
            self._hands.end()

    def _claim(self, to_look: set[bool]) -> None:
        """Takes the next work that there is room for and hands it on, jobs before batches.

        Args:
            to_look: for what to look, jobs (False) or slices (True); loses what it finds none of.
        """
        without, locked = _current(self._without), _current(self._locked)
        if False in to_look and self._hands.has_room(slices=False):
            chosen = claims.look(
                self._store, size=self._job_count, models=self._models, without=without, locked=locked
            )
            if chosen and chosen[0].attempts > 1 and self._hands.held():
                self._hands.empty_first()
                return
            if chosen:
                self._take_jobs(chosen)
                return
            to_look.discard(False)
        if True in to_look and self._hands.has_room(slices=True):
            assert self._claim_slice is not None
            taken = self._claim_slice(self._slice_count, self._models, without)
            if taken is None:
                to_look.discard(True)
            elif not self._begin(Hand(taken, is_slice=True)):
                taken.put_back(None)

    def _take_jobs(self, chosen: Sequence[claims.ClaimedJob]) -> None:
        if not chosen:
            return
        jobs = JobsWork(self._store, self._blobs, chosen)
        # One that was begun before may be what has killed its worker: nothing else is in hand beside it.
        if self._begin(Hand(jobs, is_slice=False, is_alone=chosen[0].attempts > 1)):
            # Only now: images are decoded and the model runs while the claim is being written.
            for job_id in jobs.take(self._name):
                self._locked[job_id] = time.monotonic() + LOOK_SECONDS
            if jobs.lost.is_set():  # given up while the claim was written
                jobs.put_back(None)

    def _begin(self, hand: Hand) -> bool:
        """Loads the model, begins to decode and hands it all on; false if the worker has ended meanwhile."""
        work = hand.work
        self._hands.hold(hand)
        try:
            model = self._loaded.get(work.model, work.model_version)
        except ModelUnavailable as error:
            self._without[work.model] = time.monotonic() + WITHOUT_SECONDS
            hand.unavailable = str(error)
        except (NotFound, InputRefused) as error:
            hand.refused = str(error)
        except Exception as error:  # a runtime's own, for a file that it can't read
            log.exception("model_not_loaded", model=work.model)
            hand.refused = f"{work.model} can't be loaded: {_told(error)}"
        else:
            if not self._hands.has_ended():
                ahead = max(2 * min(model.batch_size, MAX_RUN), 2 * self._threads)
                hand.decode_ahead(model, self._submit, ahead)
        if self._hands.give(hand):
            return True
        self._hands.drop(hand)
        return False

    def _job_count(self, model: str) -> int:
        seconds = self._seconds.get(model)
        return FIRST_CLAIM if seconds is None else max(1, min(claims.MAX_CLAIM, int(CLAIM_SECONDS / seconds)))

    def _slice_count(self, model: str) -> int:
        seconds = self._seconds.get(model)
        return FIRST_SLICE if seconds is None else max(1, min(MAX_SLICE, int(SLICE_SECONDS / seconds)))

    # -- decoding, on the pool's threads

    def _submit(self, model: "Model", item: Item) -> "Future[Any]":
        return self._pool.submit(self._prepare, model, item)

    def _prepare(self, model: "Model", item: Item) -> Any:
        from truthloop.ingest.image_file import decode

        return model.prepare(decode(self._blobs.get(item.blob), max_pixels=self._max_pixels))

    # -- running, on the caller's thread

    def _run(self, stop: threading.Event, hand: Hand) -> None:
        try:
            outcomes = self._outcomes(stop, hand)
        finally:
            self._hands.make_room(hand)
        if self._hands.is_waiting():
            self._writing.put((hand, outcomes))
        else:  # nothing else is to be run, so a lone job need not wait for another thread to wake
            self._finish(hand, outcomes)

    def _outcomes(self, stop: threading.Event, hand: Hand) -> list[Outcome]:
        """What became of the items that it came to; a slice lets jobs pass between two runs of the model."""
        outcomes: list[Outcome] = []
        model = hand.model
        if model is None:
            return outcomes
        size = max(1, min(model.batch_size, MAX_RUN))
        spent = 0.0
        while len(outcomes) < len(hand.work.items):
            if stop.is_set() or hand.work.lost.is_set():
                return outcomes
            began = time.perf_counter()
            outcomes += self._run_batch(hand, model, hand.next(size, self._submit))
            spent += time.perf_counter() - began
            hand.work.taken.wait()  # no more than one run is made for what another may have taken
            while hand.is_slice and (job := self._hands.next_job()) is not None:
                self._run(stop, job)
        if outcomes:
            seconds = spent / len(outcomes)
            self._seconds[hand.work.model] = (self._seconds.get(hand.work.model, seconds) + seconds) / 2
        return outcomes

    def _run_batch(self, hand: Hand, model: "Model", prepared: "Sequence[Future[Any]]") -> list[Outcome]:
        outcomes: list[Outcome | None] = []
        inputs = []
        for future in prepared:
            try:
                inputs.append(future.result())
                outcomes.append(None)
            except ImageRefused as error:
                outcomes.append(Outcome(error=str(error)))
            except NotFound as error:
                outcomes.append(Outcome(error=f"The image's file is gone. {error}"))
            except StorageUnavailable as error:
                outcomes.append(Outcome(retry=str(error), unavailable=True))
            except Exception as error:
                outcomes.append(Outcome(retry=f"The image can't be prepared: {_told(error)}"))
        predicted = iter(self._predict(hand, model, inputs))
        return [outcome or next(predicted) for outcome in outcomes]

    def _predict(self, hand: Hand, model: "Model", inputs: list[Any]) -> Iterator[Outcome]:
        if not inputs:
            return
        try:
            predictions = self._answer(hand, model, inputs)
        except Exception as error:
            if len(inputs) == 1 and isinstance(error, ModelRefused):
                yield Outcome(error=str(error))
                return
            if len(inputs) == 1:
                log.exception("model_failed", model=model.entry.name)
                yield Outcome(retry=f"{model.entry.name} failed on it: {_told(error)}")
                return
            for single in inputs:  # one that a model fails on must not take the others with it
                yield from self._predict(hand, model, [single])
            return
        for prediction in predictions:
            yield Outcome(prediction=prediction)

    def _answer(self, hand: Hand, model: "Model", inputs: list[Any]) -> "Sequence[Prediction]":
        self._running = (hand, time.monotonic())
        try:
            return model.run(inputs)
        finally:
            self._running = None

    # -- writing, on its own thread

    def _write(self) -> None:
        while (write := self._writing.get()) is not None:
            self._finish(*write)

    def _finish(self, hand: Hand, outcomes: list[Outcome]) -> None:
        """Stores what was found; tries again for as long as the lease may last."""
        deadline = time.monotonic() + self._store.settings.job_lease_seconds
        try:
            while True:
                try:
                    hand.finish(outcomes)
                    return
                except Unavailable as error:
                    if time.monotonic() > deadline:
                        log.warning("work_lost", error=str(error))
                        if isinstance(error, StorageUnavailable):
                            hand.work.put_back(str(error), unavailable=True)
                        return
                    time.sleep(RETRY_SECONDS)
        except Exception as error:
            log.exception("result_not_stored", model=hand.work.model)
            with suppress(TruthloopError):  # else its lease runs out
                hand.work.put_back(f"The result could not be stored: {_told(error)}")
        finally:
            self._hands.drop(hand)

    # -- renewing leases, on its own thread

    def _keep(self, done: threading.Event, stuck: Callable[[str], None]) -> None:
        given_up: set[Hand] = set()
        while not done.wait(self._beat_seconds()):
            running = self._stuck()
            self._hands.shut(is_shut=running is not None)
            if running is not None:
                self._give_up(running, given_up, stuck)
                continue
            given_up.clear()
            for hand in self._hands.held():
                with suppress(TruthloopError):  # the server may come back before the lease has run out
                    hand.work.renew()

    def _stuck(self) -> Hand | None:
        """What the model has been running for so long that it may never answer."""
        running = self._running
        return running[0] if running and time.monotonic() - running[1] > STUCK_SECONDS else None

    def _give_up(self, running: Hand, given_up: set[Hand], stuck: Callable[[str], None]) -> None:
        """Puts back what is in hand, first what the model runs; adds to `given_up` what has gone back."""
        left = {*self._hands.held()} - given_up
        if not left:
            return
        error = f"{running.work.model} has not answered for {STUCK_SECONDS:g} s."
        if running in left:
            log.error(
                "model_stuck", error=f"{error} Nothing is taken until it does; a new start of this process helps."
            )
        for hand in sorted(left, key=lambda each: each is not running):
            hand.work.lost.set()
            if hand.work.taken.is_set():  # else whoever claims it puts it back
                with suppress(TruthloopError):  # it is tried again
                    hand.work.put_back(error if hand is running else None)
                    given_up.add(hand)
        if given_up.issuperset(left):
            stuck(error)

    def _beat_seconds(self) -> float:
        return min(self._store.settings.job_lease_seconds / 3, LOOK_SECONDS)

    # -- seeing to leases that ran out elsewhere, on its own thread: one may wait long for what a killed worker
    #    has locked, and the leases of what is in hand must not wait with it

    def _sweep(self, done: threading.Event, alive: Callable[[], None]) -> None:
        while True:
            try:
                sweep(self._store)  # of all models, also of those that it doesn't work
                if self._stuck() is None:
                    alive()
            except TruthloopError as error:
                log.warning("sweep_waits", error=str(error))
            except Exception:
                log.exception("sweep_failed")
            if done.wait(self._beat_seconds()):
                return


def _current(until: dict[str, float]) -> Collection[str]:
    """The models or jobs whose time hasn't come; the others are forgotten."""
    now = time.monotonic()
    for key in [key for key, end in until.items() if end <= now]:
        del until[key]
    return until


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
