import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from predict.given import ENTRY, OTHER, TinyModel, loaded, queued, take_next, wait_until
from truthloop.blobs import Blobs
from truthloop.monitor import doctor, follow
from truthloop.monitor.doctor import examine
from truthloop.monitor.finding import Finding
from truthloop.monitor.status import status
from truthloop.monitor.unnamed_files import workspace_id
from truthloop.predict import at_work, batches, run
from truthloop.predict.held import put_back
from truthloop.settings import Settings
from truthloop.store import lease as leases
from truthloop.store.connection import Store


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """With files of its own: the tests of a run share a workspace folder."""
    return settings.model_copy(update={"blobs": str(tmp_path / "blobs")})


def findings(settings: Settings) -> dict[str, Finding]:
    """By name; where one name has several, the worst."""
    order = ["ok", "warning", "failure"]
    return {found.name: found for found in sorted(examine(settings), key=lambda found: order.index(found.level))}


def test_a_sound_workspace_has_nothing_to_mend(store: Store):
    store["metadata"].insert_many([{"image_id": f"{n}"} for n in range(50)])

    found = findings(store.settings)

    assert {finding.level for finding in found.values()} == {"ok"}
    assert found["figures"].text == "equal a recount of 50 images"


def test_figures_that_differ_from_a_recount_are_found_and_the_named_command_mends_them(store: Store):
    store["metadata"].insert_many([{"image_id": f"{n}"} for n in range(5)])
    status(store)
    store[follow.COLLECTION].update_one({}, {"$set": {"states": {"unprocessed unaudited unannotated": 4}}})

    found = findings(store.settings)["figures"]
    assert found.level == "failure"
    assert "truthloop status --recount" in found.mend

    follow.void(store)
    assert findings(store.settings)["figures"].level == "ok"


def test_a_state_that_was_tampered_with_is_found_and_its_image_named(store: Store):
    store["metadata"].insert_many([{"image_id": f"{n}"} for n in range(5)])
    status(store)
    store["truthloop.image_states"].update_one({"_id": "3"}, {"$set": {"annotated": True}})

    found = findings(store.settings)["figures"]

    assert found.level == "failure"
    assert "such as image 3" in found.text


def test_a_missing_index_and_pre_images_that_are_off_are_found(store: Store):
    store["bbox.model"].drop_indexes()
    store.database.command({"collMod": "metadata", "changeStreamPreAndPostImages": {"enabled": False}})

    found = findings(store.settings)

    assert found["indexes"].text == "missing on bbox.model"
    assert found["pre-images"].text == "off on metadata"


def test_documents_that_no_reader_can_use_and_duplicates_are_named(store: Store):
    store["metadata"].insert_many([{"image_id": "twice"}, {"image_id": "twice"}])
    store["bbox.human_audit"].insert_one({"_id": "broken", "image_id": 7})

    found = findings(store.settings)

    assert "twice" in found["metadata"].text
    assert "such as _id broken" in found["bbox.human_audit"].text


def test_without_a_workspace_the_installation_is_looked_at_all_the_same(settings: Settings, tmp_path: Path):
    found = findings(settings.model_copy(update={"home": tmp_path / ".truthloop"}))

    assert found["Python"].level == "ok"
    assert found["mongod"].level == "ok"
    assert found["MongoDB"].level == "failure"
    assert "truthloop load" in found["MongoDB"].text


def test_a_mongod_that_cannot_run_is_found_with_what_to_install(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = tmp_path / "mongod"
    broken.write_text("#!/bin/sh\necho 'error while loading shared libraries: libcurl.so.4' >&2\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setattr(doctor.embedded, "find_mongod", lambda: broken)

    found = findings(settings.model_copy(update={"home": tmp_path / ".truthloop"}))["mongod"]

    assert found.level == "failure"
    assert "libcurl4" in found.mend


def test_a_model_s_entry_that_can_t_be_used_is_found(store: Store, settings: Settings, tmp_path: Path):
    (tmp_path / "mine.model.json").write_text("{")
    found = findings(settings.model_copy(update={"models": tmp_path}))["models"]

    assert found.level == "warning"
    assert "mine.model.json isn't valid JSON" in found.text


def test_a_folder_of_models_that_is_not_there_is_found(store: Store, settings: Settings, tmp_path: Path):
    found = findings(settings.model_copy(update={"models": tmp_path / "gone"}))["models"]

    assert found.level == "warning"
    assert f"TRUTHLOOP_MODELS is {tmp_path / 'gone'}, which is no folder" in found.text


def test_a_token_that_others_can_read_is_found(store: Store, settings: Settings):
    token = settings.home / "token"
    token.write_text("secret")
    token.chmod(0o644)
    try:
        assert findings(settings)["token"].mend == f"chmod 600 {token}"
    finally:
        token.unlink()


def test_a_workspace_that_a_service_keeps_is_sound_right_after_a_write(store: Store):
    stop = threading.Event()
    thread = threading.Thread(target=follow.follow, args=(store, stop))
    thread.start()
    try:
        for number in range(5):
            store["metadata"].insert_many([{"image_id": f"{number}-{n}"} for n in range(100)])
            assert findings(store.settings)["figures"].level == "ok"
    finally:
        stop.set()
        thread.join()


def test_a_service_whose_figures_stand_still_is_found(store: Store, monkeypatch: pytest.MonkeyPatch):
    status(store)
    monkeypatch.setattr(follow, "UP_TO_NOW_SECONDS", 0.3)
    leases.acquire(store, follow.LEASE_NAME, holder="one that hangs", seconds=60)

    found = findings(store.settings)["figures"]

    assert found.level == "failure"
    assert "truthloop up --detach" in found.text


def blobs_of(store: Store) -> Blobs:
    return Blobs.open(store.settings, owner=lambda: workspace_id(store))


def left_over(store: Store, data: bytes) -> str:
    """A file that nobody has named for two days."""
    key = blobs_of(store).put(data)
    then = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    os.utime(Path(store.settings.blobs or "") / key[:2] / key[2:4] / key, (then, then))
    return key


def test_files_that_nobody_names_are_counted_with_the_command_that_removes_them(store: Store):
    left_over(store, bytes(1_500_000))

    found = findings(store.settings)["files"]

    assert found.level == "warning"
    assert "named by no document: 1 (1.50 MB)" in found.text
    assert "truthloop doctor --remove-unnamed-files" in found.mend
    assert found.figures["unnamed_bytes"] == 1_500_000


def test_the_doctor_removes_them_only_when_told_to(store: Store):
    key = left_over(store, b"nobody's")
    findings(store.settings)
    assert blobs_of(store).has(key)

    (found,) = [each for each in examine(store.settings, remove_unnamed_files=True) if each.name == "files"]

    assert not blobs_of(store).has(key)
    assert (found.level, found.mend) == ("ok", "")
    assert findings(store.settings)["files"].figures["set_aside"] == 1


def test_files_of_two_workspaces_in_one_place_are_told_of(store: Store):
    Blobs.open(store.settings, owner=lambda: "another").put(b"another's")

    found = findings(store.settings)["files"]

    assert found.level == "warning"
    assert "TRUTHLOOP_BLOBS" in found.mend


def test_a_blob_store_that_can_t_be_used_is_a_failure_and_the_rest_is_looked_at(store: Store, tmp_path: Path):
    (tmp_path / "file").write_text("a file in its place")

    found = findings(store.settings.model_copy(update={"blobs": str(tmp_path / "file" / "blobs")}))

    assert found["files"].level == "failure"
    assert found["figures"].level == "ok"


def test_jobs_that_wait_without_any_worker_are_told_of_with_what_to_start(store: Store):
    queued(store)
    queued(store)

    found = findings(store.settings)

    assert found["workers"].level == "warning"
    assert "none was at work in the last day; what waits for one: jobs: 2" in found["workers"].text
    assert "truthloop worker" in found["workers"].mend
    assert found["jobs"].figures["waiting"] == 2


def test_without_jobs_no_worker_is_missed(store: Store):
    assert findings(store.settings)["workers"].level == "ok"


def test_since_when_the_first_job_waits_is_told(store: Store):
    first = queued(store)
    queued(store)
    long_ago = datetime.now(UTC) - timedelta(minutes=10)
    store["truthloop.jobs"].update_one({"_id": first.id}, {"$set": {"first_queued_at": long_ago}})

    found = findings(store.settings)["jobs"]

    assert found.text == "waiting: 2, the first for 10 min"
    assert 600 <= found.figures["waiting_seconds"] < 660


def test_a_job_that_was_put_back_still_waits_since_it_was_queued_first(store: Store):
    job = queued(store)
    long_ago = datetime.now(UTC) - timedelta(minutes=10)
    times = {"created_at": long_ago, "queued_at": long_ago, "first_queued_at": long_ago}
    store["truthloop.jobs"].update_one({"_id": job.id}, {"$set": times})
    for reason in (None, "The blob store is away."):
        taken = take_next(store, worker="w")
        assert taken is not None
        put_back(store, taken.token, taken.jobs, error=reason, unavailable=reason is not None)

    assert "the first for 10 min" in findings(store.settings)["jobs"].text


def test_a_worker_leaves_its_trace_and_says_when_it_ends(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "catalogue_models", lambda _: loaded(TinyModel()))
    stop = threading.Event()
    worker = threading.Thread(target=run.run_worker, args=(store, blobs_of(store), stop))
    worker.start()
    try:
        wait_until(lambda: findings(store.settings)["workers"].figures["at_work"] == 1)
        assert f"worker {os.getpid()} on " in findings(store.settings)["workers"].text
    finally:
        stop.set()
        worker.join()

    assert "none is at work; the last sign of one is from" in findings(store.settings)["workers"].text


def test_a_worker_that_was_killed_is_missed_when_it_has_been_silent_for_a_while(store: Store):
    with at_work.traced(store, None) as leave_trace:
        leave_trace()
        queued(store)
        assert findings(store.settings)["workers"].level == "ok"
        silent = datetime.now(UTC) - timedelta(seconds=at_work.SILENT_SECONDS + 60)
        store[at_work.COLLECTION].update_one({}, {"$set": {"seen": silent}})

        assert findings(store.settings)["workers"].level == "warning"


def test_jobs_of_a_model_that_no_worker_takes_are_told_of(store: Store):
    queued(store, ENTRY)
    queued(store, OTHER)
    with at_work.traced(store, ["tiny"]) as leave_trace:
        leave_trace()
        found = findings(store.settings)

    assert found["workers"].level == "ok"
    assert "waiting for other: 1" in found["jobs"].text
    assert found["jobs"].mend == "Start one that does: truthloop worker --models other"


def test_where_no_worker_takes_a_model_its_files_are_named(store: Store):
    queued(store, ENTRY.model_copy(update={"name": "selfie_segmentation"}))
    with at_work.traced(store, ["tiny"]) as leave_trace:
        leave_trace()
        mend = findings(store.settings)["jobs"].mend

    assert "truthloop worker --models selfie_segmentation. It needs selfie_" in mend
    assert mend.endswith(": truthloop models pull selfie_segmentation")


def test_jobs_that_were_put_back_are_told_of_with_the_reason(store: Store):
    queued(store)
    taken = take_next(store, worker="w")
    assert taken is not None
    put_back(store, taken.token, taken.jobs, error="The blob store is away.", unavailable=True)

    found = findings(store.settings)["jobs"]

    assert found.level == "warning"
    assert "put back: 1, the newest because: The blob store is away." in found.text


def test_jobs_whose_worker_is_gone_are_told_of(store: Store):
    queued(store)
    assert take_next(store, worker="w") is not None
    lapsed = datetime.now(UTC) - timedelta(minutes=1)
    store["truthloop.jobs"].update_one({}, {"$set": {"lease.expires_at": lapsed}})

    found = findings(store.settings)

    assert "without a sign of life from the worker: 1" in found["jobs"].text
    assert found["workers"].level == "warning"


def test_a_batch_that_does_not_get_on_is_told_of_with_the_reason(store: Store):
    store["metadata"].insert_one({"image_id": "a"})
    batch = batches.create(store, entry=ENTRY, image_ids=["a"])
    assert findings(store.settings)["batches"].level == "ok"
    store["truthloop.batches"].update_one({"_id": batch.id}, {"$set": {"error": "The blob store is away."}})

    found = findings(store.settings)["batches"]

    assert found.level == "warning"
    assert batch.id in found.text
    assert found.text.endswith("The blob store is away.")
