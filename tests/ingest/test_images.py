"""Images as documents and blobs: each once, whole or not at all."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hostile import KINDS, encoded, picture
from truthloop.blobs import Blobs
from truthloop.errors import Conflict, FileRefused, ImageRefused, InputRefused, NotFound
from truthloop.ingest import image_paths, together
from truthloop.ingest.image_paths import ingest_paths
from truthloop.ingest.images import NewImage, find_image, image_bytes, record_images, store_image
from truthloop.ingest.ingest_image import ingest_image
from truthloop.ingest.thumbnails import thumbnail
from truthloop.ingest.together import Entrance

PROCESS = Path(__file__).with_name("processes_of_ingest.py")


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def turned(orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    exif.get_ifd(34665)[36867] = "2023:04:14 23:38:26"
    exif[34665] = 0
    return encoded("JPEG", picture(64, 48), exif=exif)


def images(workspace) -> list[dict]:
    return list(workspace.store["metadata"].find({}, {"_id": 0}))


def events(workspace) -> list[dict]:
    return list(workspace.store["truthloop.events"].find())


def blobs(workspace) -> list[str]:
    folder = workspace.settings.home / "blobs"
    return sorted(path.name for path in folder.glob("??/??/*"))


def test_an_image_becomes_a_document_a_blob_and_one_event(workspace):
    data = encoded("PNG", picture(64, 48))
    image_id = hashlib.sha256(data).hexdigest()
    answer = workspace.ingest_image(data, name="/home/me/cat.png")

    assert images(workspace) == [
        {
            "image_id": image_id,
            "width": 64,
            "height": 48,
            "blob": image_id,
            "media_type": "image/png",
            "source": "cat.png",
        }
    ]
    (event,) = events(workspace)
    assert (event["type"], event["subject"], event["sequence"]) == ("dev.truthloop.image.ingested", image_id, 1)
    assert blobs(workspace) == [image_id]
    assert (answer.image_id, answer.state, answer.source) == (image_id, "new", "cat.png")
    assert workspace.status().images == 1


def test_what_exif_turns_is_kept_as_it_came_with_one_upright_copy_beside_it(workspace):
    data = turned()
    answer = workspace.ingest_image(data)
    found = find_image(workspace.store, answer.image_id)

    assert (answer.width, answer.height) == (found.width, found.height) == (48, 64)
    assert (
        answer.capture_timestamp == found.captured_at == images(workspace)[0]["capture_timestamp"] == 1681515506.0
    )
    assert sorted(blobs(workspace)) == sorted([found.blob, found.original])
    assert workspace.image_file(answer.image_id, original=True).data == data
    upright = Image.open(io.BytesIO(workspace.image_file(answer.image_id).data))
    assert (upright.size, upright.getexif().get(274)) == ((48, 64), None)


def test_the_same_bytes_twice_are_one_image_and_keep_their_first_name(workspace):
    workspace.ingest_image(turned(), name="first.jpg")
    again = workspace.ingest_image(turned(), name="second.jpg")

    assert (again.state, again.source) == ("already_there", "first.jpg")
    assert len(images(workspace)) == len(events(workspace)) == 1


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_refused_leaves_nothing_behind(workspace, kind):
    with pytest.raises(ImageRefused):
        workspace.ingest_image(kind.body)

    assert images(workspace) == events(workspace) == blobs(workspace) == []


def test_storing_alone_leaves_the_figures_as_they_are(workspace):
    stored = store_image(workspace.blobs, workspace.settings, turned())

    assert images(workspace) == events(workspace) == []
    assert workspace.blobs.get(stored.original) == turned()
    assert (stored.width, stored.height, stored.media_type) == (48, 64, "image/jpeg")


def test_documents_that_came_first_get_the_pixels_and_keep_what_they_say(workspace):
    data = turned()
    image_id = hashlib.sha256(data).hexdigest()
    workspace.store["metadata"].insert_one(
        {"_id": "theirs", "image_id": image_id, "capture_timestamp": 1, "camera": "north"}
    )
    with pytest.raises(ImageRefused, match="no pixels here"):
        find_image(workspace.store, image_id)
    with pytest.raises(NotFound, match="no pixels here"):
        workspace.image_file(image_id)

    assert workspace.ingest_image(data).state == "new"
    (document,) = workspace.store["metadata"].find()
    assert (document["_id"], document["camera"], document["capture_timestamp"]) == ("theirs", "north", 1)
    assert find_image(workspace.store, image_id).width == 48
    assert workspace.ingest_image(data).state == "already_there"
    assert len(events(workspace)) == 1


def test_a_blob_that_was_lost_comes_back_with_the_same_file(workspace):
    image_id = workspace.ingest_image(turned()).image_id
    for key in blobs(workspace):
        workspace.blobs.delete(key)

    assert workspace.ingest_image(turned()).state == "already_there"
    assert workspace.image_file(image_id).data


def test_an_id_that_no_image_has_is_not_found(workspace):
    for ask in (find_image, lambda store, image_id: image_bytes(store, workspace.blobs, image_id)):
        with pytest.raises(NotFound, match="No image has the id"):
            ask(workspace.store, "nobody")


@pytest.mark.parametrize("blob", ["../../etc/passwd", "a" * 64, None, 7, {"$gt": ""}])
def test_a_blob_that_a_loaded_document_claims_reaches_no_file(workspace, blob):
    workspace.store["metadata"].insert_one({"image_id": "x", "blob": blob, "width": 1, "height": 1})

    with pytest.raises(NotFound):
        workspace.image_file("x")
    with pytest.raises(NotFound):
        workspace.thumbnail("x")


def test_a_type_that_a_loaded_document_claims_is_not_believed(workspace):
    key = workspace.blobs.put(encoded("PNG"))
    workspace.store["metadata"].insert_one(
        {"image_id": "x", "blob": key, "width": 64, "height": 48, "media_type": "text/html"}
    )

    assert workspace.image_file("x").media_type == "image/png"
    assert find_image(workspace.store, "x").media_type == "application/octet-stream"


def test_made_up_data_and_real_images_don_t_stand_together(workspace):
    workspace.sample(images=3)

    with pytest.raises(Conflict, match="made-up"):
        workspace.ingest_image(turned())
    assert blobs(workspace) == []


def test_eight_threads_that_send_one_file_make_one_image(workspace):
    answers, start = [], threading.Barrier(8)

    def send() -> None:
        start.wait()
        answers.append(workspace.ingest_image(turned()).state)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == ["already_there"] * 7 + ["new"]
    assert len(images(workspace)) == len(events(workspace)) == 1


def test_images_that_come_while_others_are_entered_go_together_next(workspace, monkeypatch):
    batches, first, others = [], threading.Event(), threading.Event()

    def slowly(store, new):
        batches.append(len(new))
        if len(batches) == 1:
            first.set()
            others.wait(60)
        return record_images(store, new)

    monkeypatch.setattr(together, "record_images", slowly)
    entrance = Entrance(workspace.store)
    stored = [
        store_image(workspace.blobs, workspace.settings, encoded("PNG", picture(9 + i, 9))) for i in range(9)
    ]
    answers = []
    threads = [
        threading.Thread(target=lambda image=image: answers.append(entrance.enter(NewImage(image, None))))
        for image in stored
    ]
    threads[0].start()
    assert first.wait(60)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 60
    while len(entrance._waiting) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    others.set()
    for thread in threads:
        thread.join(60)

    assert (batches, answers) == ([1, 8], [True] * 9)
    assert len(images(workspace)) == len(events(workspace)) == 9


def test_of_images_that_come_together_only_the_refused_one_is_told_so(workspace, monkeypatch):
    workspace.store.database.command({"collMod": "metadata", "validator": {"width": {"$ne": 12}}})
    told, start = {}, threading.Barrier(8)

    def send(width: int) -> None:
        start.wait()
        try:
            told[width] = workspace.ingest_image(encoded("PNG", picture(width, 9))).state
        except ImageRefused as error:
            told[width] = str(error)

    threads = [threading.Thread(target=send, args=(width,)) for width in range(10, 18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert "metadata refuses" in told.pop(12)
    assert set(told.values()) == {"new"}
    assert len(events(workspace)) == 7


# -- files and folders


def fill(folder: Path, number: int) -> None:
    for index in range(number):
        (folder / f"{index:03}.png").write_bytes(encoded("PNG", picture(16 + index, 16)))


def test_a_folder_is_searched_through_and_hidden_files_are_left_alone(workspace, folder):
    (folder / "a" / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("x.jpg", "a/b/no-ending", ".secret.png", ".hidden/y.png"):
        (folder / name).write_bytes(encoded("JPEG", picture(20 + len(name), 20)))
    report = workspace.ingest(folder)

    assert (report.read, report.new, report.ok, report.rejects) == (2, 2, True, None)
    assert {image["source"] for image in images(workspace)} == {"x.jpg", "no-ending"}


def test_links_that_go_round_are_harmless(workspace, folder):
    fill(folder, 2)
    (folder / "round").symlink_to(folder, target_is_directory=True)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "up").symlink_to("..", target_is_directory=True)

    assert workspace.ingest([folder, folder]).read == 2


def test_the_workspace_s_own_folder_is_left_out(workspace, folder):
    workspace.settings = workspace.store.settings = workspace.settings.model_copy(update={"home": folder / "home"})
    fill(folder, 2)
    workspace.ingest(folder)

    assert workspace.ingest(folder).read == 2


def test_a_bad_file_is_named_with_its_reason_and_the_rest_goes_on(workspace, folder):
    fill(folder, 3)
    (folder / "001.png").write_bytes(b"no image")
    (folder / "lost.jpg").symlink_to("nowhere")
    report = workspace.ingest(folder)

    assert (report.read, report.new, report.refused, report.ok) == (4, 2, 2, False)
    assert [(Path(each.file).name, each.state) for each in report.refusals] == [
        ("001.png", "refused"),
        ("lost.jpg", "refused"),
    ]
    assert "no image" in report.refusals[0].reason
    lines = [json.loads(line) for line in Path(report.rejects).read_text().splitlines()]
    assert lines == [each.model_dump() for each in report.refusals]
    assert Path(report.rejects).stat().st_mode & 0o777 == 0o600


def test_the_file_of_rejects_has_all_however_many(workspace, folder):
    for index in range(image_paths.NAMED + 5):
        (folder / f"{index}.jpg").write_bytes(b"no")
    report = workspace.ingest(folder)

    assert (report.refused, len(report.refusals)) == (image_paths.NAMED + 5, image_paths.NAMED)
    assert len(Path(report.rejects).read_text().splitlines()) == image_paths.NAMED + 5


def test_a_file_that_is_too_large_is_not_even_read(workspace, folder):
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(100 * 1024**3)

    assert "too large" in workspace.ingest(folder).refusals[0].reason


def test_names_that_are_not_utf_8_are_told_and_stored(workspace, folder):
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded("PNG"))
    (folder / os.fsdecode(b"bad\xff.png")).write_bytes(b"no")
    report = workspace.ingest(folder)

    assert report.refusals[0].file.endswith("bad\ufffd.png")
    assert images(workspace)[0]["source"] == "caf\ufffd.png"


def test_the_same_file_twice_in_a_folder_is_one_image(workspace, folder):
    fill(folder, 1)
    (folder / "copy.png").write_bytes((folder / "000.png").read_bytes())
    report = workspace.ingest(folder)

    assert (report.read, report.new, report.already_there) == (2, 1, 1)
    assert len(images(workspace)) == len(events(workspace)) == 1


def test_a_dry_run_says_what_would_come_and_stores_nothing(workspace, folder):
    fill(folder, 3)
    (folder / "copy.png").write_bytes((folder / "000.png").read_bytes())
    (folder / "turned.jpg").write_bytes(turned())
    (folder / "bad.png").write_bytes(b"no")
    dry = workspace.ingest(folder, dry_run=True)
    assert images(workspace) == events(workspace) == blobs(workspace) == []
    wet = workspace.ingest(folder)

    what = ("read", "new", "already_there", "refused", "turned", "refusals")
    assert [getattr(dry, each) for each in what] == [getattr(wet, each) for each in what]
    assert wet.turned == 1


def test_a_dry_run_needs_no_workspace_and_anything_else_does(settings, folder):
    fill(folder, 2)

    assert ingest_paths(None, None, [folder], settings=settings, dry_run=True).new == 2
    with pytest.raises(InputRefused, match="no workspace"):
        ingest_paths(None, None, [folder], settings=settings)


@pytest.mark.parametrize("name", ["not-there", "empty"])
def test_what_holds_no_file_is_told_before_anything_is_done(workspace, folder, name):
    (folder / "empty").mkdir()

    with pytest.raises(FileRefused, match=name):
        workspace.ingest([folder / name])


def test_an_ingest_that_was_interrupted_is_made_good_by_the_same_again(workspace, folder, monkeypatch):
    monkeypatch.setattr(image_paths, "BATCH_IMAGES", 4)
    fill(folder, 20)

    def interrupt(now) -> None:
        if now.done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workspace.ingest(folder, progress=interrupt)
    before = len(images(workspace))
    assert 0 < before < 20
    report = workspace.ingest(folder)

    assert (report.new, report.already_there) == (20 - before, before)
    assert len(images(workspace)) == len(events(workspace)) == 20


def test_progress_tells_how_many_of_how_many(workspace, folder):
    fill(folder, 5)
    told = []
    workspace.ingest(folder, progress=lambda now: told.append((now.done, now.total, now.refused)))

    assert told == [(done, 5, 0) for done in range(1, 6)]


def test_a_rule_of_the_customer_s_refuses_one_image_and_not_its_batch(workspace, folder):
    workspace.store.database.command(
        {"collMod": "metadata", "validator": {"$or": [{"width": {"$exists": False}}, {"width": {"$ne": 18}}]}}
    )
    fill(folder, 5)
    report = workspace.ingest(folder)

    assert (report.new, report.refused) == (4, 1)
    assert "metadata refuses" in report.refusals[0].reason
    assert len(events(workspace)) == 4


def test_two_processes_that_ingest_one_folder_at_once_make_each_image_once(workspace, folder):
    fill(folder, 60)
    environment = os.environ | {"TRUTHLOOP_BLOBS": f"file://{workspace.settings.home}/blobs"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROCESS), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    reports = [json.loads(process.communicate(timeout=120)[0]) for process in processes]

    assert sum(report["new"] for report in reports) == 60
    assert all(report["read"] == 60 for report in reports)
    assert len(images(workspace)) == len(events(workspace)) == 60


# -- thumbnails


@pytest.mark.parametrize(("size", "expected"), [(128, (96, 128)), (256, (192, 256)), (512, (384, 512))])
def test_a_thumbnail_is_upright_and_as_long_as_asked(workspace, size, expected):
    exif = Image.Exif()
    exif[274] = 6
    image_id = workspace.ingest_image(encoded("JPEG", picture(1200, 900), exif=exif)).image_id
    made = Image.open(io.BytesIO(workspace.thumbnail(image_id, size=size).data))
    whole = Image.open(io.BytesIO(workspace.image_file(image_id).data)).resize(made.size)

    assert (made.format, made.size) == ("WEBP", expected)
    assert np.abs(np.asarray(made.convert("RGB")).astype(int) - np.asarray(whole)).mean() < 8


def test_a_thumbnail_is_never_larger_than_its_image(workspace):
    image_id = workspace.ingest_image(encoded("PNG", picture(40, 30))).image_id

    assert Image.open(io.BytesIO(workspace.thumbnail(image_id, size=512).data)).size == (40, 30)


def test_a_line_of_pixels_has_a_thumbnail_too(workspace):
    image_id = workspace.ingest_image(encoded("PNG", picture(5000, 1))).image_id

    assert Image.open(io.BytesIO(workspace.thumbnail(image_id, size=128).data)).size == (128, 1)


def test_a_thumbnail_is_made_once_and_kept(workspace):
    image_id = workspace.ingest_image(encoded("PNG")).image_id
    made = workspace.thumbnail(image_id, size=128)
    workspace.blobs.delete(made.key)

    assert workspace.thumbnail(image_id, size=128) == made
    with pytest.raises(NotFound):
        workspace.thumbnail(image_id, size=256)


def test_without_room_for_its_cache_a_thumbnail_is_made_all_the_same(workspace):
    image_id = workspace.ingest_image(encoded("PNG")).image_id
    (workspace.settings.home / "thumbnails").write_text("a file in its place")

    assert workspace.thumbnail(image_id, size=128).data


def test_the_blobs_of_a_workspace_may_be_anywhere(workspace, tmp_path):
    blobs = Blobs.open(workspace.settings.model_copy(update={"blobs": f"file://{tmp_path}/elsewhere"}))
    image_id = ingest_image(Entrance(workspace.store), blobs, encoded("PNG")).image_id

    assert (tmp_path / "elsewhere" / image_id[:2] / image_id[2:4] / image_id).is_file()
    assert thumbnail(workspace.store, blobs, image_id, 128).data
