import threading
from pathlib import Path

import pytest

from truthloop.monitor import doctor, follow
from truthloop.monitor.doctor import Finding, examine
from truthloop.monitor.status import status
from truthloop.settings import Settings
from truthloop.store import lease as leases
from truthloop.store.connection import Store


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
