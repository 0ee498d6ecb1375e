"""Workers and what another transaction holds: of a worker that claims as well, or of one that was killed."""

import threading
import time

import pytest

from predict.given import FINDER, TinyModel, assert_whole, in_state, loaded, png, queued, wait_until, working
from truthloop.blobs import Blobs
from truthloop.ingest.images import StoredImage
from truthloop.predict import batches, jobs
from truthloop.predict.documents import BatchState
from truthloop.predict.run import slices_of
from truthloop.predict.worker import Worker
from truthloop.store.connection import Store
from truthloop.workspace import Workspace


def test_two_workers_that_claim_at_the_same_moment_leave_no_job_behind(
    store: Store, blobs: Blobs, image: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A job that both left would wait for a look that never comes.
    monkeypatch.setattr("truthloop.predict.worker.LOOK_SECONDS", 1e6)

    def burst() -> None:
        for _ in range(10):
            queued(store, image=image)

    one, two = Worker(store, blobs, loaded(TinyModel())), Worker(store, blobs, loaded(TinyModel()))
    with working(one), working(two):
        for number in range(1, 6):
            clients = [threading.Thread(target=burst) for _ in range(4)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            wait_until(lambda made=40 * number: in_state(store, "succeeded") == made)
    assert_whole(store)


@pytest.mark.parametrize("held", [(0, 1, 2, 3), (2,), (5,), (1, 4)])
def test_jobs_that_a_killed_workers_transaction_holds_keep_back_none_of_the_others(
    store: Store, blobs: Blobs, image: StoredImage, held: tuple[int, ...]
) -> None:
    made = [queued(store, image=image) for _ in range(6)]
    with store.client.start_session() as session:
        session.start_transaction()
        ids = {"_id": {"$in": [made[number].id for number in held]}}
        store["truthloop.jobs"].update_many(ids, {"$set": {"deadline_seconds": 1e6}}, session=session)

        with working(Worker(store, blobs, loaded(TinyModel(before_run=lambda _: time.sleep(0.2))))):
            wait_until(lambda: in_state(store, "succeeded") == len(made) - len(held))
            session.commit_transaction()  # so it was open until now
            wait_until(lambda: in_state(store, "succeeded") == len(made))
    assert {jobs.get(store, job.id).attempts for job in made} == {1}
    assert_whole(store)


def test_a_batch_that_a_killed_workers_transaction_holds_keeps_back_no_job(
    store: Store, blobs: Blobs, image: StoredImage
) -> None:
    listed = Workspace(store).ingest_image(png(99), name="one.png")
    batch = batches.create(store, entry=FINDER, image_ids=[listed.image_id])
    models, stop = loaded(TinyModel(), TinyModel(entry=FINDER)), threading.Event()
    claim = slices_of(store, blobs, models, stop, worker="w")
    with store.client.start_session() as session:
        session.start_transaction()
        store["truthloop.batches"].update_one({"_id": batch.id}, {"$set": {"record_as": None}}, session=session)

        with working(Worker(store, blobs, models, claim_slice=claim)):
            queued(store, image=image)
            wait_until(lambda: in_state(store, "succeeded") == 1)
            session.commit_transaction()  # so it was open until now
            wait_until(lambda: batches.get(store, batch.id).state == BatchState.SUCCEEDED)
