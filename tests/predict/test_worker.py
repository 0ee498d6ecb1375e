"""Workers: what they take, what they write, and what becomes of what they can't finish."""

import threading
import time
from typing import Any

import pytest

from predict.given import (
    ENTRY,
    OTHER,
    Image,
    TinyModel,
    assert_whole,
    events_of,
    in_state,
    loaded,
    png,
    queued,
    requeued,
    take_next,
    wait_until,
    with_result,
    working,
)
from truthloop.blobs import Blobs
from truthloop.errors import Conflict, ModelUnavailable, StorageUnavailable
from truthloop.ingest.images import StoredImage, store_image
from truthloop.predict import claim as claims
from truthloop.predict import jobs, results
from truthloop.predict.documents import JobState
from truthloop.predict.held import Done, finish, put_back, renew, sweep
from truthloop.predict.loaded import LoadedModels
from truthloop.predict.worker import Worker
from truthloop.store.connection import Store

RESULT = {"width": 4, "height": 3, "answer": {"labels": []}}


def lease_of(store: Store, seconds: float) -> None:
    store.settings = store.settings.model_copy(update={"job_lease_seconds": seconds})


def expire(store: Store) -> None:
    """Lets the leases of all running jobs run out."""
    store["truthloop.jobs"].update_many(
        {"state": "running"}, [{"$set": {"lease.expires_at": {"$subtract": ["$$NOW", 1]}}}]
    )


def test_a_submitted_job_is_run_and_its_result_can_be_read(store: Store, blobs: Blobs, image: StoredImage) -> None:
    with working(Worker(store, blobs, loaded(TinyModel()))):
        job = queued(store, image=image)
        ended = results.wait(store, job.id, seconds=60)

    assert (ended.state, ended.attempts, ended.revision) == ("succeeded", 1, 4)
    found = results.result(store, blobs, job.id)
    assert found.labels is not None
    assert [(label.label, round(label.score, 3)) for label in found.labels] == [("mean", 0.2)]
    assert (found.width, found.height, found.image_id) == (4, 4, image.image_id)
    assert [verb for _, verb, _ in events_of(store, job.id)] == [
        *("job.created", "job.queued", "job.started", "job.succeeded")
    ]
    assert_whole(store)


def test_an_image_that_cannot_be_decoded_fails_its_job_at_once_and_no_other(
    store: Store, blobs: Blobs, image: StoredImage
) -> None:
    broken = Image(blob=blobs.put(b"no image at all"))
    wrong, missing, good = queued(store, image=broken), queued(store, image=Image()), queued(store, image=image)

    with working(Worker(store, blobs, loaded(TinyModel(batch_size=8)))):
        wait_until(lambda: in_state(store, "queued", "running") == 0)

    told = {job: jobs.get(store, job) for job in (wrong.id, missing.id, good.id)}
    assert [told[job.id].state for job in (wrong, missing, good)] == ["failed", "failed", "succeeded"]
    assert [told[job.id].attempts for job in (wrong, missing, good)] == [1, 1, 1]
    assert "file is gone" in (told[missing.id].error or "")
    with pytest.raises(Conflict, match="it is failed: "):
        results.result(store, blobs, wrong.id)
    assert_whole(store)


def test_an_unknown_model_fails_its_jobs_at_once(store: Store, blobs: Blobs, image: StoredImage) -> None:
    unknown = queued(store, entry=OTHER, image=image)
    outdated = queued(store, entry=ENTRY.model_copy(update={"version": "0"}), image=image)

    with working(Worker(store, blobs, loaded(TinyModel()))):
        wait_until(lambda: in_state(store, "queued", "running") == 0)

    assert [jobs.get(store, job.id).state for job in (unknown, outdated)] == ["failed", "failed"]
    assert "has tiny 1, not 0" in (jobs.get(store, outdated.id).error or "")
    assert_whole(store)


@pytest.mark.usefixtures("impatient")
def test_a_job_waits_without_counting_attempts_while_its_model_or_its_image_is_out_of_reach(
    store: Store, blobs: Blobs, image: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {"model", "storage"}
    stored_get = Blobs.get

    def load(entry: object) -> Any:
        if "model" in away:
            raise ModelUnavailable("tiny can't be fetched; put it into the folder /models.")
        return TinyModel()

    def get(self: Blobs, key: str) -> bytes:
        if "storage" in away:
            raise StorageUnavailable("The blob store can't be reached.")
        return stored_get(self, key)

    monkeypatch.setattr(Blobs, "get", get)
    job = queued(store, image=image)
    with working(Worker(store, blobs, LoadedModels({"tiny": ENTRY}.__getitem__, load))):
        wait_until(lambda: requeued(store, job.id) > 4)
        assert jobs.get(store, job.id).error == "tiny can't be fetched; put it into the folder /models."
        away.discard("model")
        wait_until(lambda: jobs.get(store, job.id).error == "The blob store can't be reached.")
        before = requeued(store, job.id)
        wait_until(lambda: requeued(store, job.id) > before + 4)
        away.discard("storage")
        wait_until(lambda: in_state(store, "succeeded") == 1)

    assert jobs.get(store, job.id).attempts == 1
    assert_whole(store)


def test_a_job_waits_longer_each_time_for_what_is_away_and_fails_after_an_hour_or_at_its_deadline(
    store: Store,
) -> None:
    job = queued(store, deadline_seconds=10_000)
    delays = []
    for minutes_ago in (0, 0.1, 0.5, 5, 61):
        store["truthloop.jobs"].update_one({"_id": job.id}, [{"$set": {"due_at": "$$NOW"}}])
        taken = take_next(store, worker="me")
        assert taken is not None
        if minutes_ago:
            ago = {"$subtract": ["$$NOW", round(minutes_ago * 60_000)]}
            store["truthloop.jobs"].update_one({"_id": job.id}, [{"$set": {"away_since": ago}}])
        assert put_back(store, taken.token, taken.jobs, error="It is away.", unavailable=True) == 1
        there = store["truthloop.jobs"].find_one({"_id": job.id})
        assert there is not None
        if there["state"] == "queued":
            assert (there["attempts"], there["started_at"]) == (0, None)  # it never ran
            delays.append((there["due_at"] - there["queued_at"]).total_seconds())

    assert [round(delay) for delay in delays] == [2, 6, 30, 60]
    ended = jobs.get(store, job.id)
    assert (ended.state, ended.error) == ("failed", "It has waited for more than an hour. It is away.")

    late = queued(store, deadline_seconds=1000)
    taken = take_next(store, worker="me")
    assert taken is not None
    put_back(store, taken.token, taken.jobs, error="It is away.", unavailable=True)
    store["truthloop.jobs"].update_one({"_id": late.id}, [{"$set": {"deadline_at": "$$NOW"}}])
    assert sweep(store) == 1
    ended = jobs.get(store, late.id)
    assert ended.error == "No worker took it within its deadline of 1000 s. It is away."
    assert_whole(store)


def test_a_job_that_crashes_its_workers_takes_no_other_with_it(store: Store) -> None:
    poison, *others = (queued(store).id for _ in range(8))
    while (taken := take_next(store, worker="mortal")) is not None:
        ids = [job.id for job in taken.jobs]
        if poison in ids:
            expire(store)
            sweep(store)
        else:
            finish(store, taken.token, [Done(job=job, result=RESULT) for job in taken.jobs])

    assert jobs.get(store, poison).state == JobState.FAILED
    assert {jobs.get(store, job).state for job in others} == {JobState.SUCCEEDED}
    assert_whole(store)


def test_nothing_is_in_hand_beside_a_job_that_was_begun_before(
    store: Store, blobs: Blobs, image: StoredImage
) -> None:
    suspects = {queued(store, image=image).id for _ in range(3)}
    assert take_next(store, worker="mortal") is not None
    expire(store)
    others = {queued(store, image=image).id for _ in range(30)}
    beside: list[tuple[int, int]] = []

    def count(batch: list[float]) -> None:
        running = [job["attempts"] for job in store["truthloop.jobs"].find({"state": "running"})]
        beside.append((sum(attempts > 1 for attempts in running), len(running)))

    with working(Worker(store, blobs, loaded(TinyModel(before_run=count)))):
        wait_until(lambda: in_state(store, "queued", "running") == 0)

    assert all(not begun_before or running == 1 for begun_before, running in beside)
    assert {jobs.get(store, job).attempts for job in suspects} == {2}
    assert {jobs.get(store, job).attempts for job in others} == {1}
    assert_whole(store)


def test_the_model_never_stands_still_while_jobs_wait(
    store: Store, blobs: Blobs, image: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Were the worker to wait for the time instead of for room, it would wait for ever.
    monkeypatch.setattr("truthloop.predict.worker.LOOK_SECONDS", 1e6)
    monkeypatch.setattr("truthloop.predict.worker.RETRY_SECONDS", 1e6)
    made = [queued(store, image=image) for _ in range(200)]
    model = TinyModel(before_run=lambda _: time.sleep(0.004))
    with working(Worker(store, blobs, loaded(model))):
        wait_until(lambda: in_state(store, "succeeded") == len(made))
    assert len(model.runs) == len(made)


def test_a_worker_that_stops_does_not_wait_for_a_model_that_is_being_loaded(
    store: Store, blobs: Blobs, image: StoredImage
) -> None:
    loading, go_on = threading.Event(), threading.Event()
    job = queued(store, image=image)

    def load(entry: object) -> Any:
        loading.set()
        assert go_on.wait(120)
        return TinyModel()

    with working(Worker(store, blobs, LoadedModels({"tiny": ENTRY}.__getitem__, load))) as stop:
        assert loading.wait(60)
        stop.set()
    # It has ended, and the model isn't loaded yet.
    go_on.set()
    wait_until(lambda: not any(thread.name == "truthloop-claim" for thread in threading.enumerate()))
    assert (jobs.get(store, job.id).state, jobs.get(store, job.id).attempts) == ("queued", 0)


def test_a_busy_worker_of_other_models_fails_the_jobs_that_are_overdue(
    store: Store, blobs: Blobs, image: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truthloop.predict.worker.LOOK_SECONDS", 0.05)
    go_on = threading.Event()
    model = TinyModel(before_run=lambda _: go_on.wait(60))
    for _ in range(20):
        queued(store, image=image)
    with working(Worker(store, blobs, loaded(model), models=["tiny"])):
        wait_until(lambda: in_state(store, "running") > 4)
        late = queued(store, entry=OTHER, image=image, deadline_seconds=0.001)
        wait_until(lambda: jobs.get(store, late.id).state == JobState.FAILED)
        go_on.set()


def test_a_model_that_fails_on_one_image_does_not_take_the_others_with_it(
    store: Store, blobs: Blobs, image: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truthloop.predict.held.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("truthloop.predict.worker.LOOK_SECONDS", 0.05)

    def fail_on_black(batch: list[float]) -> None:
        if 0.0 in batch:
            raise RuntimeError("no light")

    black = queued(store, image=store_image(blobs, store.settings, png(0)))
    others = [queued(store, image=image) for _ in range(5)]
    model = TinyModel(batch_size=4, before_run=fail_on_black)
    with working(Worker(store, blobs, loaded(model))):
        wait_until(lambda: in_state(store, "queued", "running") == 0)

    assert {jobs.get(store, job.id).state for job in others} == {JobState.SUCCEEDED}
    assert jobs.get(store, black.id).state == JobState.FAILED
    assert "no light" in (jobs.get(store, black.id).error or "")
    assert_whole(store)


def test_a_runtime_that_takes_batches_gets_them(store: Store, blobs: Blobs, image: StoredImage) -> None:
    model = TinyModel(batch_size=4)
    for _ in range(8):
        queued(store, image=image)
    with working(Worker(store, blobs, loaded(model))):
        wait_until(lambda: in_state(store, "succeeded") == 8)

    assert max(model.runs) == 4


def test_jobs_of_several_models_are_claimed_by_model(store: Store) -> None:
    first, other, third = queued(store), queued(store, entry=OTHER), queued(store)

    taken = take_next(store, worker="me")
    assert taken is not None
    assert [job.id for job in taken.jobs] == [first.id, third.id]
    taken = take_next(store, worker="me")
    assert taken is not None
    assert [job.id for job in taken.jobs] == [other.id]
    assert take_next(store, worker="me") is None


def test_a_worker_takes_only_the_models_that_it_is_for(store: Store) -> None:
    queued(store)
    other = queued(store, entry=OTHER)

    taken = take_next(store, worker="me", models=["other"])
    assert taken is not None
    assert [job.id for job in taken.jobs] == [other.id]
    assert claims.look(store, without=["tiny"]) == ()


def test_the_result_of_a_cancelled_or_deleted_job_is_dropped_and_the_others_are_kept(store: Store) -> None:
    cancelled, deleted, kept = (queued(store) for _ in range(3))
    taken = take_next(store, worker="me")
    assert taken is not None
    jobs.cancel(store, cancelled.id)
    jobs.delete(store, deleted.id)

    assert finish(store, taken.token, [Done(job=job, result=RESULT) for job in taken.jobs]) == 1

    assert jobs.get(store, cancelled.id).state == JobState.CANCELLED
    assert jobs.get(store, kept.id).state == JobState.SUCCEEDED
    assert with_result(store) == {kept.id}
    assert events_of(store, deleted.id)[-2:] == [
        (4, "job.cancelled", "cancelled"),
        (5, "job.deleted", "cancelled"),
    ]
    assert_whole(store)


def test_the_result_that_comes_after_the_lease_was_lost_is_dropped(store: Store) -> None:
    job = queued(store)
    late = take_next(store, worker="slow")
    assert late is not None
    expire(store)
    assert sweep(store) == 1
    assert jobs.get(store, job.id).state == JobState.QUEUED
    taken = take_next(store, worker="quick")
    assert taken is not None

    assert finish(store, late.token, [Done(job=late.jobs[0], error="too late")]) == 0
    assert put_back(store, late.token, late.jobs, error="too late") == 0
    assert jobs.get(store, job.id).state == JobState.RUNNING
    assert finish(store, taken.token, [Done(job=taken.jobs[0], result=RESULT)]) == 1
    assert finish(store, late.token, [Done(job=late.jobs[0], result=RESULT)]) == 0

    assert jobs.get(store, job.id).attempts == 2
    assert_whole(store)


def test_a_job_whose_workers_all_die_fails_after_three_attempts_with_the_last_error(store: Store) -> None:
    job = queued(store)
    for _ in range(3):
        assert take_next(store, worker="mortal") is not None
        expire(store)
        assert sweep(store) == 1

    ended = jobs.get(store, job.id)
    assert (ended.state, ended.attempts) == ("failed", 3)
    assert "mortal has given no sign of life" in (ended.error or "")
    assert_whole(store)


def test_a_lease_that_is_renewed_does_not_run_out(store: Store) -> None:
    queued(store)
    taken = take_next(store, worker="me")
    assert taken is not None
    expire(store)

    assert renew(store, taken.token, [taken.jobs[0].id]) == 1
    assert sweep(store) == 0
    jobs.cancel(store, taken.jobs[0].id)
    assert renew(store, taken.token, [taken.jobs[0].id]) == 0


def test_a_job_that_waits_beyond_its_deadline_fails_and_is_not_taken(store: Store) -> None:
    late, patient = queued(store, deadline_seconds=0.001), queued(store, deadline_seconds=1000)
    time.sleep(0.02)

    taken = take_next(store, worker="me")
    assert taken is not None
    assert [job.id for job in taken.jobs] == [patient.id]
    assert sweep(store) == 1
    assert jobs.get(store, late.id).state == JobState.FAILED
    assert "deadline of 0.001 s" in (jobs.get(store, late.id).error or "")


def test_a_worker_that_stops_gives_back_what_it_has_not_begun(
    store: Store, blobs: Blobs, image: StoredImage
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(batch: list[float]) -> None:
        begun.set()
        assert go_on.wait(60)

    made = [queued(store, image=image) for _ in range(6)]
    with working(Worker(store, blobs, loaded(TinyModel(before_run=wait)))) as stop:
        assert begun.wait(60)
        stop.set()
        go_on.set()

    states = [jobs.get(store, job.id) for job in made]
    assert [job.state for job in states] == ["succeeded"] + ["queued"] * 5
    # Nobody has tried them, so it doesn't count.
    assert [job.attempts for job in states] == [1] + [0] * 5
    with working(Worker(store, blobs, loaded(TinyModel()))):
        wait_until(lambda: in_state(store, "succeeded") == 6)
    assert_whole(store)


def test_a_worker_renews_the_leases_of_what_takes_long(store: Store, blobs: Blobs, image: StoredImage) -> None:
    lease_of(store, 1.0)
    go_on = threading.Event()
    job = queued(store, image=image)

    def wait(batch: list[float]) -> None:
        assert go_on.wait(60)

    with working(Worker(store, blobs, loaded(TinyModel(before_run=wait)))):
        wait_until(lambda: in_state(store, "running") == 1)
        begun = time.monotonic()
        wait_until(lambda: time.monotonic() - begun > 1.5)
        assert sweep(store) == 0
        go_on.set()
        wait_until(lambda: in_state(store, "succeeded") == 1)
    assert jobs.get(store, job.id).attempts == 1


def test_two_workers_share_a_queue(store: Store, blobs: Blobs, image: StoredImage) -> None:
    together = threading.Barrier(2)
    met = threading.Event()

    def meet(batch: list[float]) -> None:
        if not met.is_set():
            together.wait(60)
            met.set()

    made = [queued(store, image=image) for _ in range(60)]
    one, two = TinyModel(before_run=meet), TinyModel(before_run=meet)
    with working(Worker(store, blobs, loaded(one))), working(Worker(store, blobs, loaded(two))):
        wait_until(lambda: in_state(store, "queued", "running") == 0)

    assert in_state(store, "succeeded") == 60
    assert min(sum(one.runs), sum(two.runs)) > 0
    assert {jobs.get(store, job.id).attempts for job in made} == {1}
    assert_whole(store)


def test_a_large_result_lies_in_the_blob_store(
    store: Store, blobs: Blobs, image: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_STORED_BYTES", 10)
    job = queued(store, image=image)
    with working(Worker(store, blobs, loaded(TinyModel()))):
        wait_until(lambda: in_state(store, "succeeded") == 1)

    stored = store["truthloop.results"].find_one({"_id": job.id})
    assert stored is not None
    assert "answer" not in stored
    assert with_result(store) == {job.id}
    assert results.result(store, blobs, job.id).labels is not None


def test_a_small_result_lies_in_its_job_and_a_larger_one_beside_it(store: Store, blobs: Blobs) -> None:
    small, large = queued(store), queued(store)
    many = {**RESULT, "answer": {"labels": [{"label": "x" * 100, "score": 0.5}] * 100}}
    taken = take_next(store, worker="me")
    assert taken is not None
    outcomes = [Done(job=job, result=RESULT if job.id == small.id else many) for job in taken.jobs]

    assert finish(store, taken.token, outcomes) == 2

    assert [found["_id"] for found in store["truthloop.results"].find()] == [large.id]
    assert with_result(store) == {small.id, large.id}
    assert [len(results.result(store, blobs, each.id).labels or ()) for each in (small, large)] == [0, 100]
    jobs.delete(store, small.id)
    jobs.delete(store, large.id)
    assert with_result(store) == set()
