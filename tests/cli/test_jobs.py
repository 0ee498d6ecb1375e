"""`jobs`, `batches`, `predict` and `worker`, as a person uses them."""

import errno
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cli.processes import Terminal, interrupt, on_a_terminal, wait_for
from truthloop.cli import jobs
from truthloop.errors import DatabaseUnavailable, FileRefused
from truthloop.predict.documents import BATCHES, JOBS
from truthloop.store.connection import Store

FACES = "opencv_faces"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small pictures without a face."""
    folder = tmp_path_factory.mktemp("pictures")
    for grey in (60, 120, 180):
        cv2.imwrite(str(folder / f"{grey}.png"), np.full((48, 64, 3), grey, np.uint8))
    return folder


@pytest.fixture
def filled(empty: Terminal, pictures: Path) -> Terminal:
    """A workspace with three images."""
    empty.answer("ingest", pictures)
    return empty


def read(terminal: Terminal, *arguments: str | Path) -> Any:
    return json.loads(terminal.answer(*arguments, "--json"))


def test_a_job_from_its_creation_to_its_result(filled: Terminal, pictures: Path, tmp_path: Path) -> None:
    job = read(filled, "jobs", "create", FACES)
    assert (job["state"], job["image_id"]) == ("created", None)
    assert read(filled, "jobs", "execute", job["id"], pictures / "60.png")["state"] == "queued"
    other = read(filled, "jobs", "submit", FACES, pictures / "120.png")
    cancelled = read(filled, "jobs", "cancel", other["id"])
    assert cancelled["state"] == "cancelled"

    early = filled.run("jobs", "result", job["id"])
    assert early.returncode == 1
    assert "it is queued" in early.stderr

    worker = filled.start("worker", "--models", f"{FACES},opencv_people", "--pull")
    try:
        assert worker.stdout is not None
        assert "The worker is ready for opencv_faces, opencv_people" in worker.stdout.readline()
        found = read(filled, "jobs", "result", job["id"], "--wait", "60", "--plot", tmp_path / "found.png")
        assert found["boxes"] == []
        assert (found["width"], found["height"]) == (64, 48)
        assert cv2.imread(str(tmp_path / "found.png")) is not None
    finally:
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0
    assert "Stopped." in errors

    listed = read(filled, "jobs", "list")
    assert [(each["id"], each["state"]) for each in listed["items"]] == [
        (other["id"], "cancelled"),
        (job["id"], "succeeded"),
    ]
    assert job["id"] in filled.answer("jobs", "list", "--state", "succeeded")
    assert "opencv_faces" in filled.answer("jobs", "show", job["id"])
    filled.answer("jobs", "delete", job["id"])
    assert filled.run("jobs", "show", job["id"]).returncode == 1
    lines = filled.answer("events", "--limit", "100")
    assert f"Inference job (id: {job['id']}) started: running" in lines
    assert f"Inference job (id: {job['id']}) deleted: succeeded" in lines


def test_predict_processes_the_workspace_and_then_has_nothing_to_do(filled: Terminal) -> None:
    batch = read(filled, "predict", "--unprocessed", "--model", FACES)
    assert (batch["state"], batch["predicted"], batch["record_as"]) == ("succeeded", 3, "1.0.0")
    assert read(filled, "status")["processed"]["count"] == 3

    again = filled.answer("predict", "--unprocessed", "--model", FACES, "--as", "6.1.0")
    assert "No image is unprocessed" in again
    assert "recorded" not in again
    assert "3 images had them before, as model version 1.0.0" in filled.answer(
        "predict", "--all", "--model", FACES
    )
    assert read(filled, "predict", "--all", "--model", FACES, "--as", "7.0.0")["predicted"] == 3
    listed = read(filled, "batches", "list")
    assert len(listed["items"]) == 3
    assert read(filled, "batches", "show", batch["id"])["done"] == 3
    older = filled.run("predict", "--all", "--model", "opencv_people", "--as", "0.5")
    assert older.returncode == 0
    assert "under version 7.0.0, which is newer than 0.5" in older.stderr


def test_a_prediction_that_is_stopped_by_ctrl_c_says_so_by_its_exit_code(empty: Terminal, tmp_path: Path) -> None:
    for grey in range(120):
        cv2.imwrite(str(tmp_path / f"{grey}.png"), np.full((480, 640, 3), 2 * grey, np.uint8))
    empty.answer("ingest", tmp_path)
    predicting = empty.start("predict", "--all", "--model", "opencv_people")
    wait_for(lambda: "running" in empty.answer("batches", "list"), "the first slice")

    code, said = interrupt(predicting)

    assert (code, said) == (130, "Interrupted.\n")
    assert read(empty, "batches", "list")["items"][0]["state"] == "running"


def test_a_folder_is_no_image(filled: Terminal, pictures: Path) -> None:
    done = filled.run("jobs", "submit", FACES, pictures)

    assert (done.returncode, done.stdout) == (1, "")
    assert f"{pictures} is a folder. Name a file" in done.stderr.replace("\n", " ")
    assert read(filled, "jobs", "list")["items"] == []


def test_an_image_that_is_neither_a_file_nor_an_id_ends_with_1_as_what_is_not_there_does_elsewhere(
    filled: Terminal,
) -> None:
    job = read(filled, "jobs", "create", FACES)["id"]
    for name in ("nofile", "a" * 300):  # no file can have the longer one
        for arguments in (("submit", FACES), ("create", FACES), ("execute", job)):
            done = filled.run("jobs", *arguments, name)
            assert (done.returncode, done.stdout) == (1, "")
            assert "No image has the id" in done.stderr
    assert filled.run("why", "nofile").returncode == 1


def test_an_image_of_the_workspace_may_have_a_file_s_name_as_its_id(filled: Terminal, store: Store) -> None:
    ingested = store["metadata"].find_one({})
    assert ingested is not None
    store["metadata"].insert_one({**ingested, "_id": "cat", "image_id": "cat.jpg"})

    assert read(filled, "jobs", "submit", FACES, "cat.jpg")["image_id"] == "cat.jpg"


def test_an_image_without_pixels_is_told_apart_from_a_file_that_is_not_there(
    filled: Terminal, store: Store
) -> None:
    ingested = store["metadata"].find_one({})
    assert ingested is not None
    bare = {name: value for name, value in ingested.items() if name not in ("blob", "original")}
    store["metadata"].insert_one({**bare, "_id": "cat", "image_id": "cat.jpg"})

    done = filled.run("jobs", "submit", FACES, "cat.jpg")

    assert done.returncode == 1
    assert "cat.jpg" in done.stderr
    assert "has no pixels here" in done.stderr


def test_a_file_that_may_not_be_looked_at_is_not_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> bool:  # as whoever runs this may be root, who may look everywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_dir", forbidden)

    with pytest.raises(FileRefused, match=r"closed/cat\.jpg can't be read: Permission denied"):
        jobs._is_file(Path("closed/cat.jpg"))


def test_a_job_that_was_not_executed_has_no_result_and_the_command_that_executes_it_is_named(
    filled: Terminal,
) -> None:
    job = read(filled, "jobs", "create", FACES)

    done = filled.run("jobs", "result", job["id"])

    assert done.returncode == 1
    assert "it has not been executed. Execute it, as `truthloop jobs execute` does." in done.stderr


def test_a_result_that_has_not_come_says_what_it_waits_for_and_how_to_read_it_later(
    filled: Terminal, pictures: Path
) -> None:
    waits = filled.run("jobs", "submit", FACES, pictures / "60.png", "--wait", "0.1")
    [job] = read(filled, "jobs", "list")["items"]

    assert waits.returncode == 1
    assert "`truthloop worker` is one" in waits.stderr
    assert f"truthloop jobs result {job['id']} --wait 60" in waits.stderr
    assert "truthloop worker" not in filled.run("jobs", "result", "nothing").stderr
    assert filled.run("jobs", "result", job["id"], "--json").stderr.count("\n") == 1


def test_a_job_that_is_not_done_is_there_for_a_program_with_its_id_and_is_no_missing_job(
    filled: Terminal, pictures: Path
) -> None:
    waits = filled.run("jobs", "submit", FACES, pictures / "60.png", "--wait", "0.1", "--json")
    job, problem = json.loads(waits.stdout), json.loads(waits.stderr)

    assert (waits.returncode, job["state"]) == (1, "queued")
    assert (problem["title"], problem["status"]) == ("Conflict", 409)
    assert problem["detail"] == f"Job {job['id']} has no result yet; it is queued."
    again = filled.run("jobs", "result", job["id"], "--json")
    assert (again.returncode, again.stdout, json.loads(again.stderr)) == (1, "", problem)
    assert json.loads(filled.run("jobs", "result", "nothing", "--json").stderr)["status"] == 404


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ctrl_c_while_a_job_is_waited_for_says_that_it_goes_on_and_how_to_read_its_result(
    filled: Terminal, pictures: Path, options: tuple[str, ...]
) -> None:
    waits = filled.start("jobs", "submit", FACES, pictures / "60.png", "--wait", "60", *options)
    wait_for(lambda: read(filled, "jobs", "list")["items"] != [], "the job")
    [job] = read(filled, "jobs", "list")["items"]

    code, said = interrupt(waits)

    assert code == 130
    assert f"Job {job['id']} goes on." in said
    assert f"truthloop jobs result {job['id']}" in said
    assert f"truthloop jobs cancel {job['id']}" in said
    assert said.endswith("Interrupted.\n")
    assert read(filled, "jobs", "show", job["id"])["state"] == "queued"


def test_the_id_of_a_job_is_not_lost_where_mongodb_goes_away_while_it_is_waited_for(
    filled: Terminal, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object) -> None:
        raise DatabaseUnavailable("MongoDB went away.")

    for name in ("TRUTHLOOP_HOME", "TRUTHLOOP_DATABASE"):
        monkeypatch.setenv(name, filled.environment[name])
    monkeypatch.setattr(jobs, "_wait", gone)
    for as_json in (False, True):
        with pytest.raises(DatabaseUnavailable):
            jobs.submit(FACES, str(pictures / "60.png"), wait=60, as_json=as_json)
        job = read(filled, "jobs", "list")["items"][0]["id"]
        shown = capsys.readouterr()
        if as_json:
            assert (json.loads(shown.out)["id"], shown.err) == (job, "")
        else:
            assert f"Job {job} goes on." in shown.err


def test_what_comes_after_a_job_is_made_or_queued_is_named_but_not_with_json(
    filled: Terminal, pictures: Path
) -> None:
    made = filled.run("jobs", "create", FACES)
    [job] = read(filled, "jobs", "list")["items"]
    whole = filled.run("jobs", "create", FACES, pictures / "60.png")
    queued = filled.run("jobs", "execute", job["id"], pictures / "60.png")
    submitted = filled.run("jobs", "submit", FACES, pictures / "60.png")

    assert made.stderr.endswith(f"truthloop jobs execute {job['id']} IMAGE\n")
    assert re.search(r"truthloop jobs execute \S+\n$", whole.stderr)
    assert queued.stderr.endswith(f"truthloop jobs result {job['id']} --wait 60\n")
    assert re.search(r"truthloop jobs result \S+ --wait 60\n$", submitted.stderr)
    assert filled.run("jobs", "create", FACES, "--json").stderr == ""
    assert filled.run("jobs", "submit", FACES, pictures / "60.png", "--json").stderr == ""


def test_a_job_s_image_file_that_is_no_image_is_named(filled: Terminal, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    job = read(filled, "jobs", "create", FACES)["id"]
    for arguments in (("submit", FACES), ("create", FACES), ("execute", job)):
        done = filled.run("jobs", *arguments, tmp_path / "bad.jpg")
        assert done.returncode == 2
        assert f"Error: {tmp_path / 'bad.jpg'}: The file is no image." in done.stderr


@pytest.mark.parametrize("columns", ["80", "60"])
def test_ids_and_models_names_are_never_broken(filled: Terminal, store: Store, columns: str) -> None:
    name = "a_detector_of_very_small_things_in_long_corridors"
    batch = read(filled, "predict", "--all", "--model", FACES)["id"]
    store[BATCHES].update_one({"_id": batch}, {"$set": {"model": name}})
    job = read(filled, "jobs", "create", FACES)["id"]
    store[JOBS].update_one({"_id": job}, {"$set": {"model": name}})
    filled.environment["COLUMNS"] = columns

    images = on_a_terminal(filled, "images", "--limit", "3")
    ids = [each["image_id"] for each in read(filled, "images")["items"]]

    assert {len(each) for each in ids} == {64}
    assert [each for each in ids if each in images] == ids
    assert images.count("unaudited") == len(ids)
    for shown in (on_a_terminal(filled, "batches", "list"), on_a_terminal(filled, "jobs", "list")):
        assert name in shown
    assert batch in on_a_terminal(filled, "batches", "list")
    assert job in on_a_terminal(filled, "jobs", "list")


def test_images_that_cannot_be_predicted_are_named_and_the_exit_code_tells(filled: Terminal) -> None:
    done = filled.run("predict", "nowhere", "--model", FACES)

    assert done.returncode == 1
    assert "1 image refused:" in done.stdout
    assert "1 (nowhere): No image has this id." in done.stdout
    listed = filled.answer("batches", "list").splitlines()
    assert listed[0].split()[-3:] == ["done", "images", "refused"]
    assert listed[1].split()[-3:] == ["1", "1", "1"]


def test_newer_boxes_are_told_of_only_where_something_is_recorded(filled: Terminal) -> None:
    filled.answer("predict", "--all", "--model", FACES, "--as", "2.0.0")

    nothing = filled.run("predict", "nowhere", "--model", "opencv_people", "--as", "1.0.0")

    assert nothing.returncode == 1
    assert "newer" not in nothing.stderr


def test_results_of_a_recorded_batch_say_where_its_boxes_are(filled: Terminal) -> None:
    batch = read(filled, "predict", "--all", "--model", FACES)

    done = filled.run("batches", "results", batch["id"])

    assert (done.returncode, done.stdout) == (0, "")
    assert "in `bbox.model`, under model version 1.0.0" in done.stderr
    missing = filled.run("batches", "show", "nope")
    assert "`truthloop batches list` shows those there are." in missing.stderr


def test_a_list_s_next_page_is_of_the_same_list_and_a_row_fits_the_screen(
    filled: Terminal, pictures: Path
) -> None:
    for _ in range(2):
        job = read(filled, "jobs", "submit", "ssd_mobilenet_v1_coco", pictures / "60.png", "--deadline", "1617150")
        filled.answer("jobs", "cancel", job["id"])

    listed = filled.run("jobs", "list", "--limit", "1", "--state", "cancelled")

    assert max(map(len, listed.stdout.splitlines())) <= 80
    assert listed.stderr.strip().endswith(f"--after {job['id']} --state cancelled --limit 1")
    assert "18.7 days" in filled.answer("jobs", "show", job["id"])


def test_a_tolerance_is_refused_for_a_model_that_finds_no_outlines(filled: Terminal, pictures: Path) -> None:
    done = filled.run("jobs", "submit", FACES, pictures / "60.png", "--tolerance", "3")

    assert done.returncode == 2
    assert "opencv_faces is a detection model, which finds no outlines" in done.stderr
    assert read(filled, "jobs", "list")["items"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--entity", "banana"), "there are batch, dataset, documents, image, job."),
        (("--type", "job.banana"), "job.succeeded"),
        (("--subject", "x"), "No such events."),
    ],
)
def test_events_that_there_are_not_are_told_of(filled: Terminal, arguments: tuple[str, ...], said: str) -> None:
    done = filled.run("events", *arguments)

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("No such events.")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("predict", "--model", FACES), "either image ids, --unprocessed or --all"),
        (("predict", "--all", "--unprocessed", "--model", FACES), "either image ids, --unprocessed or --all"),
        (("predict", "--all"), "give a model"),
        (("predict", "--all", "--model", FACES, "--as", ""), "must be numbers with dots between them"),
        (("predict", "--all", "--model", FACES, "--as", "banana"), "must be numbers with dots between them"),
        (("predict", "--all", "--model", "mobilenet_v2"), "truthloop jobs submit mobilenet_v2 IMAGE"),
        (("jobs", "list", "--state", "done"), "give one of created"),
    ],
)
def test_wrong_use_says_what_to_give(filled: Terminal, arguments: tuple[str, ...], said: str) -> None:
    done = filled.run(*arguments)

    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_who_waits_for_a_job_or_a_batch_is_told_that_its_model_can_t_be_had(
    filled: Terminal, pictures: Path, tmp_path: Path
) -> None:
    filled.environment |= {
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "https_proxy": "http://127.0.0.1:9",
        "PIP_NO_INDEX": "1",
        "UV_OFFLINE": "1",
    }
    ssd, folder = "ssd_mobilenet_v1_coco", str(tmp_path / "cache" / "truthloop" / "models")
    predicted = filled.run("predict", "--all", "--model", ssd)
    assert predicted.returncode == 1
    [batch] = read(filled, "batches", "list")["items"]
    for text in (predicted.stderr, batch["error"], filled.answer("batches", "show", batch["id"])):
        assert folder in text
    assert batch["state"] == "queued"

    worker = filled.start("worker", "--models", ssd)
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline()
        waits = filled.start("jobs", "submit", ssd, pictures / "60.png", "--wait", "100")
        assert waits.stderr is not None
        told = waits.stderr.readline()
        [job] = read(filled, "jobs", "list")["items"]
        once = filled.run("jobs", "result", job["id"], "--wait", "0.1")
        filled.answer("jobs", "cancel", job["id"])
        waits.communicate(timeout=60)
    finally:
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=60)
    assert told.startswith("The job waits: ")
    assert f"of the model {ssd} can't be fetched" in told
    assert (once.returncode, once.stderr.count("can't be fetched")) == (1, told.count("can't be fetched"))
    assert re.search(r"^Error: .* has no result yet; it is (queued|running)\.$", once.stderr, re.MULTILINE)
    assert "It waits for a worker" not in once.stderr
    [missing] = [line for line in errors.splitlines() if "models_not_there" in line]
    assert ssd in missing
    assert folder in missing


def test_an_unknown_model_names_those_there_are(filled: Terminal, pictures: Path) -> None:
    for arguments in (
        ("jobs", "submit", "nothing", pictures / "60.png"),
        ("predict", "--all", "--model", "nothing"),
    ):
        done = filled.run(*arguments)
        assert done.returncode == 2
        assert "opencv_faces" in done.stderr


def test_the_service_works_jobs_by_itself(alone: Terminal, pictures: Path) -> None:
    alone.answer("up", "--detach")
    job = read(alone, "jobs", "submit", FACES, pictures / "60.png")

    wait_for(lambda: read(alone, "jobs", "show", job["id"])["state"] == "succeeded", "the service's worker")


def test_a_file_that_is_not_there_is_not_taken_for_an_images_id(empty: Terminal) -> None:
    done = empty.run("jobs", "submit", "opencv_faces", "nofile.jpg")

    assert done.returncode == 1
    assert "There is no file nofile.jpg" in done.stderr
