"""How the events of jobs and batches read in the terminal."""

from predict.given import FINDER, queued
from truthloop.events.stream import list_events
from truthloop.events.text import text
from truthloop.predict import batches, jobs
from truthloop.store.connection import Store


def test_events_of_jobs_and_batches_are_lines_that_say_what_became_of_them(store: Store) -> None:
    job = queued(store)
    jobs.cancel(store, job.id)
    batch = batches.create(store, entry=FINDER, image_ids=["a", "b"])

    lines = [text(event) for event in list_events(store, after=None, limit=10).items]

    assert lines == [
        f"Inference job (id: {job.id}) created: created",
        f"Inference job (id: {job.id}) queued: queued",
        f"Inference job (id: {job.id}) cancelled: cancelled",
        f"Batch (id: {batch.id}) created: queued, 0 of 2 images",
    ]
