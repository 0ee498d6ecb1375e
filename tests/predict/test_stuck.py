"""A model that never answers: what becomes of what its worker holds, and of the worker."""

import subprocess
import sys
import threading
from typing import Any

import pytest

from predict.given import (
    ENTRY,
    OTHER,
    TinyModel,
    assert_whole,
    in_state,
    loaded,
    on_a_thread,
    png,
    queued,
    requeued,
    wait_until,
    working,
)
from truthloop.blobs import Blobs
from truthloop.errors import StorageUnavailable
from truthloop.ingest.images import StoredImage, store_image
from truthloop.models.catalogue import shipped_entries
from truthloop.predict import claim as claims
from truthloop.predict import jobs
from truthloop.predict import worker as module
from truthloop.predict.loaded import LoadedModels
from truthloop.predict.worker import Worker
from truthloop.store.connection import Store

WORKER = """
import sys, threading
from truthloop.cli import main
from truthloop.models.load import Model
from truthloop.predict import worker

worker.STUCK_SECONDS, worker.LOOK_SECONDS = 0.5, 0.1
Model.run = lambda model, batch: threading.Event().wait()
sys.argv[1:] = ["worker", "--models", "opencv_faces"]
main.main()
"""


class Hangs:
    """What a model does before it answers; it does when `answers` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def __call__(self, batch: list[float]) -> None:
        assert self.answers.wait(60)


@pytest.fixture(autouse=True)
def soon(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.5)


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each time that a worker has seen to leases that ran out elsewhere."""
    seen: list[None] = []
    sweep = module.sweep

    def counted(store: Store) -> int:
        seen.append(None)
        return sweep(store)

    monkeypatch.setattr(module, "sweep", counted)
    return seen


def test_what_a_model_does_not_answer_for_goes_back_with_the_reason(
    store: Store, blobs: Blobs, image: StoredImage
) -> None:
    model, told = Hangs(), []
    job = queued(store, image=image)
    with working(Worker(store, blobs, loaded(TinyModel(before_run=model))), stuck=told.append):
        wait_until(lambda: told)

        assert told == ["tiny has not answered for 0.5 s."]
        found = jobs.get(store, job.id)
        assert (found.state, found.attempts, found.error) == ("queued", 1, told[0])
        model.answers.set()
        wait_until(lambda: in_state(store, "succeeded") == 1)
    assert jobs.get(store, job.id).attempts == 2
    assert_whole(store)


def test_its_worker_takes_nothing_and_gives_no_sign_of_life_until_it_answers(
    store: Store, blobs: Blobs, image: StoredImage, beats: list[None]
) -> None:
    model, signs = Hangs(), []
    stuck = queued(store, image=image)
    worker = Worker(store, blobs, loaded(TinyModel(before_run=model)))
    with working(worker, alive=lambda: signs.append(None)):
        wait_until(lambda: requeued(store, stuck.id) == 1)
        behind = queued(store, image=image)
        last, before = len(signs), len(beats)
        wait_until(lambda: len(beats) > before + 10)

        assert in_state(store, "queued") == 2
        assert jobs.get(store, behind.id).attempts == 0
        assert len(signs) <= last + 1
        model.answers.set()
        wait_until(lambda: in_state(store, "succeeded") == 2)
        wait_until(lambda: len(signs) > last + 1)
    assert_whole(store)


def test_what_is_claimed_just_then_goes_back_without_an_attempt(
    store: Store, blobs: Blobs, image: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, looks, goes_on = Hangs(), threading.Event(), threading.Event()
    stuck = queued(store, image=image)
    look = claims.look

    def slowly(*arguments: Any, **more: Any) -> Any:
        found = look(*arguments, **more)
        if found and stuck.id not in [each.id for each in found]:
            looks.set()
            assert goes_on.wait(60)
        return found

    monkeypatch.setattr(claims, "look", slowly)
    with working(Worker(store, blobs, loaded(TinyModel(before_run=model)))):
        wait_until(lambda: in_state(store, "running") == 1)
        behind = queued(store, image=image)
        assert looks.wait(60)
        wait_until(lambda: requeued(store, stuck.id) == 1)
        goes_on.set()
        wait_until(lambda: requeued(store, behind.id) == 1)

        assert jobs.get(store, behind.id).attempts == 0
        model.answers.set()
        wait_until(lambda: in_state(store, "succeeded") == 2)
    assert_whole(store)


def test_it_goes_back_and_the_worker_ends_while_another_model_is_loaded(
    store: Store, blobs: Blobs, image: StoredImage
) -> None:
    model, loads, is_loaded = Hangs(), threading.Event(), threading.Event()
    tiny, other = TinyModel(before_run=model), TinyModel(entry=OTHER)

    def load(entry: Any) -> Any:
        if entry.name != "other":
            return tiny
        loads.set()
        assert is_loaded.wait(60)
        return other

    models = LoadedModels({"tiny": ENTRY, "other": OTHER}.__getitem__, load)
    stuck = queued(store, image=image)
    with on_a_thread(Worker(store, blobs, models).run) as stop:
        wait_until(lambda: in_state(store, "running") == 1)
        queued(store, OTHER, image=image)
        assert loads.wait(60)
        wait_until(lambda: requeued(store, stuck.id) == 1)
        stop.set()
        model.answers.set()
    is_loaded.set()
    assert in_state(store, "queued") == 2


def test_an_image_that_comes_slowly_is_not_taken_for_a_model_that_does_not_answer(
    store: Store, blobs: Blobs, image: StoredImage, beats: list[None]
) -> None:
    comes = threading.Event()

    class Slow:
        def get(self, key: str) -> bytes:
            assert comes.wait(60)
            raise StorageUnavailable("The blob store doesn't answer.")

    job = queued(store, image=image)
    with working(Worker(store, Slow(), loaded(TinyModel()))):  # type: ignore[arg-type]
        wait_until(lambda: in_state(store, "running") == 1)
        before = len(beats)
        wait_until(lambda: len(beats) > before + 12)  # for longer than a model may take
        assert in_state(store, "running") == 1
        comes.set()
        wait_until(lambda: requeued(store, job.id) >= 1)
    found = jobs.get(store, job.id)
    assert (found.attempts, found.error) == (0, "The blob store doesn't answer.")


def test_the_command_ends_with_the_reason_and_what_it_held_waits_again(store: Store) -> None:
    (faces,) = [entry for entry in shipped_entries() if entry.name == "opencv_faces"]
    job = queued(store, faces, image=store_image(Blobs.open(store.settings), store.settings, png(120)))

    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("opencv_faces has not answered for 0.5 s. What was in hand has gone back.")
    assert jobs.get(store, job.id).state == "queued"
