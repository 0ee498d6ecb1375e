"""The verbs of jobs: what each changes, what it refuses, and the event that tells of it."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from predict.given import ENTRY, OTHER, Image, events_of, queued, take_next
from truthloop.blobs import Blobs
from truthloop.errors import Conflict, CursorRefused, InputRefused, NotFound, QueueFull, RevisionMismatch
from truthloop.predict import jobs, results
from truthloop.predict.documents import Job, JobState
from truthloop.predict.held import put_back
from truthloop.predict.queue_limit import QueueLimit
from truthloop.store.connection import Store

CUTTER = ENTRY.model_copy(update={"name": "cutter", "task": "segmentation"})


@pytest.fixture
def limit(store: Store) -> QueueLimit:
    return QueueLimit(store)


def test_a_job_is_created_and_then_executed_with_an_event_each(store: Store, limit: QueueLimit) -> None:
    created = jobs.create(store, entry=CUTTER, image=Image(), options={"tolerance": 2}, deadline_seconds=60)
    executed = jobs.execute(store, limit, created.id)

    assert (created.state, created.revision, created.model, created.model_version) == ("created", 1, "cutter", "1")
    assert created.options.tolerance == 2
    assert created.queued_at is None
    assert (executed.state, executed.revision, executed.image_id) == ("queued", 2, Image().image_id)
    assert executed.queued_at is not None
    assert jobs.get(store, created.id) == executed
    assert events_of(store, created.id) == [(1, "job.created", "created"), (2, "job.queued", "queued")]


def test_a_submitted_job_has_the_events_of_both_steps(store: Store) -> None:
    job = queued(store)

    assert (job.state, job.revision) == (JobState.QUEUED, 2)
    assert events_of(store, job.id) == [(1, "job.created", "created"), (2, "job.queued", "queued")]


def test_names_with_a_dollar_are_kept_as_they_are(store: Store) -> None:
    job = jobs.create(store, entry=ENTRY.model_copy(update={"version": "$NOW"}), image=Image(image_id="$state"))

    assert (job.model_version, job.image_id) == ("$NOW", "$state")


def test_a_job_is_executed_once(store: Store, limit: QueueLimit) -> None:
    job = jobs.create(store, entry=ENTRY, image=Image())
    outcomes: list[object] = []

    def execute() -> None:
        try:
            outcomes.append(jobs.execute(store, limit, job.id))
        except Conflict as conflict:
            outcomes.append(conflict)

    threads = [threading.Thread(target=execute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(isinstance(outcome, Job) for outcome in outcomes) == 1
    assert [verb for _, verb, _ in events_of(store, job.id)] == ["job.created", "job.queued"]


def test_a_job_without_an_image_is_not_executed(store: Store, limit: QueueLimit) -> None:
    job = jobs.create(store, entry=ENTRY)

    with pytest.raises(InputRefused, match="no image") as refused:
        jobs.execute(store, limit, job.id)
    assert refused.value.errors == {"image_id": "missing"}

    assert jobs.execute(store, limit, job.id, image=Image()).image_id == Image().image_id


def test_only_a_created_job_is_changed_and_only_at_its_revision(store: Store, limit: QueueLimit) -> None:
    job = jobs.create(store, entry=ENTRY, deadline_seconds=5)

    changed = jobs.update(store, job.id, revision=1, entry=OTHER, deadline_seconds=None)
    assert (changed.model, changed.model_version, changed.deadline_seconds) == ("other", "7", None)
    assert changed.revision == 2
    with pytest.raises(RevisionMismatch, match="revision 2, not 1"):
        jobs.update(store, job.id, revision=1, entry=ENTRY)
    assert jobs.update(store, job.id, image=Image()).image_id == Image().image_id
    jobs.execute(store, limit, job.id)
    with pytest.raises(Conflict, match="is queued"):
        jobs.update(store, job.id, entry=ENTRY)

    assert [verb for _, verb, _ in events_of(store, job.id)] == [
        *("job.created", "job.updated", "job.updated", "job.queued")
    ]


def test_a_queued_job_is_cancelled_at_once_and_only_once(store: Store) -> None:
    job = queued(store)

    assert jobs.cancel(store, job.id).state == JobState.CANCELLED
    with pytest.raises(Conflict, match="has ended"):
        jobs.cancel(store, job.id)
    assert events_of(store, job.id)[-1] == (3, "job.cancelled", "cancelled")


def test_deleting_a_waiting_job_cancels_it_first(store: Store) -> None:
    job = queued(store)

    jobs.delete(store, job.id)

    assert events_of(store, job.id)[2:] == [(3, "job.cancelled", "cancelled"), (4, "job.deleted", "cancelled")]
    for verb in (jobs.get, jobs.delete, jobs.cancel):
        with pytest.raises(NotFound):
            verb(store, job.id)


def test_pages_show_all_jobs_once_the_newest_first(store: Store) -> None:
    made = [jobs.create(store, entry=ENTRY if number % 2 else OTHER).id for number in range(7)]

    seen: list[str] = []
    page = jobs.list(store, limit=3)
    while True:
        seen += [job.id for job in page.items]
        if page.next is None:
            break
        page = jobs.list(store, limit=3, after=page.next)

    assert seen == sorted(made, reverse=True)
    assert {job.id for job in jobs.list(store, model="other").items} == set(made[::2])


def test_jobs_are_found_by_state_and_time(store: Store) -> None:
    first, second = jobs.create(store, entry=ENTRY), queued(store)
    now = datetime.now(UTC)

    assert [job.id for job in jobs.list(store, state="queued").items] == [second.id]
    assert [job.id for job in jobs.list(store, created_before=now + timedelta(hours=1)).items] == [
        second.id,
        first.id,
    ]
    assert jobs.list(store, created_after=now + timedelta(hours=1)).items == []
    assert jobs.list(store, created_after=first.created_at, created_before=first.created_at).items == []
    assert first.id in {job.id for job in jobs.list(store, created_after=first.created_at).items}


@pytest.mark.parametrize(
    ("wrong", "error", "field"),
    [
        ({"limit": 0}, InputRefused, "limit"),
        ({"limit": 1001}, InputRefused, "limit"),
        ({"state": "done"}, InputRefused, "state"),
        ({"after": "abc"}, CursorRefused, "after"),
    ],
)
def test_a_page_that_cannot_be_is_refused_by_field(
    store: Store, wrong: dict[str, object], error: type[InputRefused], field: str
) -> None:
    with pytest.raises(error) as refused:
        jobs.list(store, **wrong)  # type: ignore[arg-type]
    assert list(refused.value.errors) == [field]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"deadline_seconds": float("nan")}, "deadline_seconds"),
        ({"deadline_seconds": 1e9}, "deadline_seconds"),
        ({"options": {"tolerance": -1}}, "options.tolerance"),
        ({"options": {"tolerance": 3}}, "options.tolerance"),
        ({"options": {"speed": 1}}, "options.speed"),
    ],
)
def test_a_job_that_cannot_be_is_refused_by_field(store: Store, wrong: dict[str, object], field: str) -> None:
    with pytest.raises(InputRefused) as refused:
        jobs.create(store, entry=ENTRY, **wrong)  # type: ignore[arg-type]
    assert list(refused.value.errors) == [field]
    assert jobs.list(store).items == []


def test_a_change_leaves_no_tolerance_with_a_model_that_finds_no_outlines(store: Store) -> None:
    known = {entry.name: entry for entry in (ENTRY, CUTTER)}.__getitem__
    cut = jobs.create(store, entry=CUTTER, options={"tolerance": 2})
    plain = jobs.create(store, entry=ENTRY)

    for job_id, changes in ((cut.id, {"entry": ENTRY}), (plain.id, {"options": {"tolerance": 2}})):
        with pytest.raises(InputRefused) as refused:
            jobs.update(store, job_id, known=known, **changes)  # type: ignore[arg-type]
        assert list(refused.value.errors) == ["options.tolerance"]
    assert (jobs.get(store, cut.id), jobs.get(store, plain.id)) == (cut, plain)
    both = jobs.update(store, cut.id, known=known, entry=ENTRY, options=None)
    assert (both.model, both.options.tolerance) == ("tiny", None)


def test_a_full_queue_takes_no_more_until_one_has_left(store: Store) -> None:
    store.settings = store.settings.model_copy(update={"max_queued_jobs": 2})
    limit = QueueLimit(store)
    first, created = queued(store), jobs.create(store, entry=ENTRY, image=Image())
    jobs.execute(store, limit, created.id)
    third = jobs.create(store, entry=ENTRY, image=Image())

    with pytest.raises(QueueFull, match="2 jobs wait"):
        jobs.execute(store, limit, third.id)
    assert jobs.get(store, third.id).state == JobState.CREATED
    with pytest.raises(QueueFull):
        jobs.submit(store, limit, entry=ENTRY, image=Image())
    jobs.cancel(store, first.id)

    assert jobs.execute(store, limit, third.id).state == JobState.QUEUED


def test_waiting_ends_with_the_job_or_with_the_time(store: Store) -> None:
    job = queued(store)

    assert results.wait(store, job.id, seconds=0.05).state == JobState.QUEUED
    canceller = threading.Thread(target=jobs.cancel, args=(store, job.id))
    canceller.start()
    assert results.wait(store, job.id).state == JobState.CANCELLED
    canceller.join()
    with pytest.raises(NotFound):
        results.wait(store, "no such job")


def test_who_waits_is_told_why_a_job_was_put_back(store: Store, tmp_path: Path) -> None:
    job = queued(store)
    claim = take_next(store, worker="me")
    assert claim is not None
    told: list[str | None] = []

    def tell(now: Job) -> None:
        told.append(now.error)
        if len(told) == 1:
            put_back(store, claim.token, claim.jobs, error="the model is away", unavailable=True)
        elif now.error is not None:
            jobs.cancel(store, job.id)

    results.wait(store, job.id, seconds=60, progress=tell)

    assert told[0] is None
    assert told[-1] == "the model is away"
    other = queued(store)
    claim = take_next(store, worker="me")
    assert claim is not None
    put_back(store, claim.token, claim.jobs, error="the model is away", unavailable=True)
    blobs = Blobs.open(store.settings.model_copy(update={"blobs": f"file://{tmp_path}/blobs"}))
    with pytest.raises(NotFound, match="no result yet; it is queued: the model is away"):
        results.result(store, blobs, other.id)
