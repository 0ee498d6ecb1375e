"""Files that no document names: found, set aside, removed a day later, and never while somebody relies on one."""

import hashlib
import os
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from predict.given import ENTRY, TinyModel, loaded, png, queued, wait_until, working
from truthloop.blobs import Blobs
from truthloop.errors import NotFound, StorageUnavailable
from truthloop.ingest.images import store_image
from truthloop.ingest.ingest_image import ingest_image
from truthloop.ingest.together import Entrance
from truthloop.monitor import unnamed_files
from truthloop.monitor.tidy import tidy
from truthloop.monitor.unnamed_files import Amount, AnotherIsAtIt, forget_old, look, workspace_id
from truthloop.predict import jobs, results
from truthloop.predict.documents import JOBS, RESULTS, JobState
from truthloop.predict.outlines import OutlineVerbs
from truthloop.predict.verbs import JobVerbs
from truthloop.predict.worker import Worker
from truthloop.settings import Settings
from truthloop.store import lease as leases
from truthloop.store.connection import Store

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
OVER = 10_000


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"blobs": str(tmp_path / "blobs")})


@pytest.fixture
def blobs(store: Store) -> Blobs:
    return Blobs.open(store.settings, owner=lambda: workspace_id(store))


@pytest.fixture
def verbs(store: Store, blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> JobVerbs:
    verbs = JobVerbs(store, lambda: blobs)
    monkeypatch.setattr(verbs._catalogue, "entry", {"tiny": ENTRY}.__getitem__)
    return verbs


def folder(blobs: Blobs) -> Path:
    assert blobs._folder is not None
    return blobs._folder


def age(blobs: Blobs, by: timedelta = DAY + HOUR) -> None:
    """Makes all files older, as if so much time had passed."""
    for path in folder(blobs).rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - by.total_seconds()
            os.utime(path, (then, then))


def in_use(blobs: Blobs) -> set[str]:
    return {each.key for page in blobs.files() for each in page}


def aside(blobs: Blobs) -> set[str]:
    return {each.key for page in blobs.files_aside() for each in page}


def some_key() -> str:
    return hashlib.sha256(random.randbytes(8)).hexdigest()


def test_a_file_that_nobody_names_is_counted_and_nothing_is_removed(store, blobs):
    blobs.put(b"left by an upload that was cut short")
    age(blobs)

    found = look(store, blobs)

    assert found.stored == found.unnamed == Amount(1, 36)
    assert len(in_use(blobs)) == 1


def test_every_document_that_names_a_file_keeps_it(store, blobs):
    keys = [blobs.put(bytes([n])) for n in range(6)]
    received, upright, of_job, job_received, result, nobodys = keys
    store["metadata"].insert_one({"image_id": received, "blob": upright})
    job: dict[str, Any] = {"revision": 1, "state": "created", "model": "m", "model_version": "1", "attempts": 0}
    job |= {"created_at": datetime.now(UTC), "image_id": job_received, "image": {"blob": of_job}}
    store[JOBS].insert_one({"_id": "job", **job})
    store[RESULTS].insert_one({"_id": "batch/image", "model": "m", "model_version": "1", "blob": result})
    age(blobs)

    look(store, blobs, remove=True)

    assert in_use(blobs) == {*keys} - {nobodys}
    assert aside(blobs) == {nobodys}


def test_a_file_of_less_than_a_day_may_be_on_its_way_and_is_left_alone(store, blobs):
    key = blobs.put(b"its document is not committed yet")
    age(blobs, DAY - HOUR)

    assert look(store, blobs, remove=True).unnamed == Amount()
    assert in_use(blobs) == {key}


def test_what_was_set_aside_is_removed_for_good_a_day_later(store, blobs):
    key = blobs.put(b"nobody's")
    age(blobs)
    look(store, blobs, remove=True)
    assert forget_old(store, blobs) == Amount()
    assert blobs.get(key) == b"nobody's"

    age(blobs)

    assert forget_old(store, blobs) == Amount(1, 8)
    with pytest.raises(NotFound):
        blobs.get(key)


def test_what_a_document_names_by_then_is_put_back(store, blobs):
    key = blobs.put(b"its document comes back")
    age(blobs)
    look(store, blobs, remove=True)
    store["metadata"].insert_one({"image_id": key, "blob": key})
    age(blobs)

    assert forget_old(store, blobs) == Amount()
    assert (in_use(blobs), aside(blobs)) == ({key}, set())


def test_a_file_that_a_document_names_is_read_also_while_it_is_aside(store, blobs):
    data = png(90)
    key = blobs.put(data)
    blobs.set_aside(key)
    job = queued(store, image=store_image(Blobs(blobs._store, place="x"), store.settings, data))
    blobs.delete(key)  # as for one who stored it just before it was set aside

    with working(Worker(store, blobs, loaded(TinyModel()))):
        wait_until(lambda: jobs.get(store, job.id).state is JobState.SUCCEEDED)

    assert results.result(store, blobs, job.id).labels[0].score == pytest.approx(90 / 255)


def interrupted(blobs: Blobs, monkeypatch: pytest.MonkeyPatch, name: str, then: Callable[[], object]) -> None:
    """Has something happen right before a method of `blobs` is called for the first time."""
    real, is_done = getattr(blobs, name), threading.Event()

    def method(key: str) -> None:
        if not is_done.is_set():
            is_done.set()
            then()
        real(key)

    monkeypatch.setattr(blobs, name, method)


def test_an_upload_of_the_same_bytes_between_look_up_and_removal_loses_nothing(store, blobs, monkeypatch):
    data = png(3)
    key = blobs.put(data)
    age(blobs)
    entrance = Entrance(store)
    # Stored, and its document committed, when the file is already known as nobody's.
    interrupted(blobs, monkeypatch, "set_aside", lambda: ingest_image(entrance, blobs, data))

    look(store, blobs, remove=True)
    assert blobs.get(key) == data
    age(blobs)
    look(store, blobs, remove=True)

    assert blobs.get(key) == data
    assert (in_use(blobs), aside(blobs)) == ({key}, set())


def test_a_job_that_stored_its_file_before_and_is_committed_after_the_removal_keeps_it(store, blobs):
    data = png(4)
    key = blobs.put(data)
    age(blobs)
    image = store_image(blobs, store.settings, data)  # finds the file there, and relies on it
    look(store, blobs, remove=True)
    job = queued(store, image=image)
    age(blobs)

    look(store, blobs, remove=True)

    assert jobs.get(store, job.id).image_id == key
    assert (in_use(blobs), aside(blobs)) == ({key}, set())


def test_no_file_of_an_acknowledged_job_is_lost_while_files_are_removed_all_the_time(store, blobs, monkeypatch):
    """No file is too young to be removed here: what protects one is only that it is set aside first."""
    monkeypatch.setattr(unnamed_files, "SAFE_AGE", timedelta(0))
    real_forget, may_forget, forgotten = blobs.forget, set[str](), list[str]()

    def forget(key: str) -> None:
        if key in may_forget:
            real_forget(key)
            forgotten.append(key)

    monkeypatch.setattr(blobs, "forget", forget)
    pictures = [png(grey) for grey in range(4)]
    turns, lost = [0, 0, 0], list[str]()
    is_over = threading.Event()

    def submit(number: int) -> None:
        rng = random.Random(number)
        try:
            while turns[number] < 40 or (len(forgotten) < 3 and collector.is_alive() and not lost):
                job = queued(store, image=store_image(blobs, store.settings, rng.choice(pictures)))
                turns[number] += 1
                try:
                    blobs.get(job.image_id)
                except NotFound:
                    lost.append(job.image_id)
                jobs.delete(store, job.id)
            queued(store, image=store_image(blobs, store.settings, pictures[number]))
        finally:
            turns[number] = OVER

    def collect() -> None:
        while not is_over.is_set():
            look(store, blobs, remove=True)
            # A day is longer than any commit takes; here it's until all that had begun are done.
            set_aside, begun = aside(blobs), [*turns]
            wait_until(lambda: all(now > then or now == OVER for now, then in zip(turns, begun, strict=True)))  # noqa: B023
            may_forget.update(set_aside)
            forget_old(store, blobs)
            may_forget.clear()

    collector = threading.Thread(target=collect)
    submitters = [threading.Thread(target=submit, args=(number,)) for number in range(3)]
    for thread in (collector, *submitters):
        thread.start()
    for thread in submitters:
        thread.join()
    is_over.set()
    collector.join()

    assert lost == []
    named = {job["image_id"] for job in store[JOBS].find()}
    assert named <= in_use(blobs) | aside(blobs)


def test_deleting_a_job_sets_its_files_aside(store, blobs, verbs):
    job = verbs.submit("tiny", image=png(5))

    verbs.delete(job.id)

    assert (in_use(blobs), aside(blobs)) == (set(), {job.image_id})


def test_deleting_a_job_sets_its_large_result_aside(store, blobs, verbs):
    job = verbs.submit("tiny", image=png(6))
    key = blobs.put(b"a result of more than 1 MB")
    store[RESULTS].insert_one({"_id": job.id, "model": "tiny", "model_version": "1", "blob": key})

    verbs.delete(job.id)

    assert aside(blobs) == {job.image_id, key}


def test_deleting_a_job_leaves_a_file_that_another_names(store, blobs, verbs):
    first, second = verbs.submit("tiny", image=png(7)), verbs.submit("tiny", image=png(7))

    verbs.delete(first.id)
    assert in_use(blobs) == {first.image_id}

    verbs.delete(second.id)
    assert in_use(blobs) == set()


def test_a_job_is_deleted_also_while_the_blob_store_is_away(store, blobs, verbs, monkeypatch):
    job = verbs.submit("tiny", image=png(8))

    def away(key: str) -> None:
        raise StorageUnavailable("The blob store is away.")

    monkeypatch.setattr(blobs, "set_aside", away)

    verbs.delete(job.id)

    with pytest.raises(NotFound):
        verbs.get(job.id)


def test_two_workspaces_in_one_blob_store_remove_nothing(store, blobs):
    key = Blobs.open(store.settings, owner=lambda: "another").put(b"another's")
    blobs.put(b"mine")
    blobs.set_aside(blobs.put(b"mine, and aside"))
    age(blobs)

    found = look(store, blobs, remove=True)

    assert found.others == ["another"]
    assert found.unnamed == found.removed == Amount()
    assert key in in_use(blobs)
    assert len(aside(blobs)) == 1


def test_a_workspace_leaves_its_mark_with_its_first_file(store, blobs):
    blobs.put(b"mine")

    assert Blobs.open(store.settings, owner=lambda: "another").others() == [workspace_id(store)]


def test_what_a_killed_writer_left_half_written_is_counted_and_removed(store, blobs):
    key = blobs.put(b"whole")
    store["metadata"].insert_one({"image_id": key, "blob": key})
    torn = folder(blobs) / key[:2] / key[2:4] / f"{key}#1"
    torn.write_bytes(b"wh")
    assert look(store, blobs, remove=True).unnamed == Amount()
    age(blobs)

    assert look(store, blobs, remove=True).unnamed == Amount(1, 2)
    assert not torn.exists()
    assert blobs.get(key) == b"whole"


def test_one_process_at_a_time_removes_files(store, blobs):
    lease = leases.acquire(store, unnamed_files.LEASE_NAME, holder="another", seconds=60)
    assert lease is not None

    with pytest.raises(AnotherIsAtIt):
        look(store, blobs, remove=True)
    leases.release(store, lease)
    look(store, blobs, remove=True)


def test_an_object_store_s_files_are_found_and_removed_as_a_folder_s(store, monkeypatch):
    monkeypatch.setattr(unnamed_files, "SAFE_AGE", timedelta(0))
    blobs = Blobs(MemoryStore(), place="memory", owner=lambda: workspace_id(store))
    named, nobodys = blobs.put(b"named"), blobs.put(b"nobody's")
    store["metadata"].insert_one({"image_id": named})

    look(store, blobs, remove=True)
    assert (in_use(blobs), aside(blobs)) == ({named}, {nobodys})
    assert blobs.get(nobodys) == b"nobody's"
    forget_old(store, blobs)

    assert (in_use(blobs), aside(blobs)) == ({named}, set())


def test_names_are_looked_up_by_indexes_also_where_a_million_jobs_have_one_image(store):
    job: dict[str, Any] = {"revision": 1, "state": "created", "model": "m", "model_version": "1", "attempts": 0}
    job |= {"created_at": datetime.now(UTC), "image_id": (one := some_key()), "image": {"blob": one}}
    store[JOBS].insert_many([{"_id": f"{n}", **job} for n in range(2000)])
    store["metadata"].insert_many([{"image_id": some_key(), "blob": some_key()} for _ in range(2000)])
    store[RESULTS].insert_many([{"_id": f"{n}", "model": "m", "model_version": "1"} for n in range(2000)])
    keys = [one, *(some_key() for _ in range(100))]

    def examined(name: str, field: str, *, with_type: bool = False) -> int:
        which: dict[str, Any] = {"$in": keys} | ({"$type": "string"} if with_type else {})
        explained = store.database.command(
            "explain", {"distinct": name, "key": field, "query": {field: which}}, verbosity="executionStats"
        )["executionStats"]
        return max(explained["totalKeysExamined"], explained["totalDocsExamined"])

    assert examined("metadata", "image_id") <= 2 * len(keys)
    assert examined("metadata", "blob", with_type=True) <= 2 * len(keys)
    assert examined(JOBS, "image_id") <= 2 * len(keys)
    assert examined(JOBS, "image.blob") <= 2 * len(keys)
    assert examined(RESULTS, "blob", with_type=True) <= 2 * len(keys)


def test_outline_tasks_go_a_day_after_their_upload_with_files_and_event_and_jobs_stay(store, blobs, verbs):
    outlines = OutlineVerbs(store, verbs)
    old = verbs.submit("tiny", image=png(11), source="outline")
    new = verbs.submit("tiny", image=png(12), source="outline")
    job = verbs.submit("tiny", image=png(13))
    long_ago = datetime.now(UTC) - DAY - HOUR
    store[JOBS].update_many({"_id": {"$in": [old.id, job.id]}}, {"$set": {"created_at": long_ago}})

    assert outlines.remove_old(threading.Event()) == 1

    assert {each["_id"] for each in store[JOBS].find()} == {new.id, job.id}
    assert aside(blobs) == {old.image_id}
    assert store["truthloop.events"].count_documents({"subject": old.id, "type": "dev.truthloop.job.deleted"}) == 1
    with pytest.raises(NotFound, match="kept for 24 hours"):
        outlines.job(old.id)


def test_the_service_removes_what_has_had_its_time_by_itself(store, blobs, verbs):
    task = verbs.submit("tiny", image=png(14), source="outline")
    store[JOBS].update_one({"_id": task.id}, {"$set": {"created_at": datetime.now(UTC) - DAY - HOUR}})
    blobs.set_aside(blobs.put(b"set aside long ago"))
    age(blobs)
    stop = threading.Event()
    thread = threading.Thread(target=tidy, args=(store, lambda: blobs, OutlineVerbs(store, verbs), stop))
    thread.start()
    try:
        wait_until(lambda: aside(blobs) == {task.image_id})
    finally:
        stop.set()
        thread.join()

    assert store[JOBS].find_one({"_id": task.id}) is None
