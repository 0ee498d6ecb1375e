"""`truthloop dataset` and `truthloop why`, as a user runs them."""

import json

import pytest

from cli.processes import wait_for
from datasets.processes_of_build import killed, start_build


@pytest.fixture(scope="module")
def built(sampled):
    sampled.answer("dataset", "build")
    return sampled


def test_a_build_tells_where_boxes_come_from_and_who_was_left_out(sampled):
    told = sampled.answer("dataset", "build", "--dry-run")

    assert "nothing was built" in told
    assert "SYNTHETIC SAMPLE DATA" in told
    assert "a person has seen" in told
    assert "unseen: neither" in told
    assert all(len(line) <= 80 for line in told.splitlines())


def test_show_tells_the_same_as_json_and_accounts_for_every_image(built):
    report = json.loads(built.answer("dataset", "show", "--json"))

    assert report["images"] == report["entries"] + report["left_out"]["count"] == 300
    assert f"Dataset version {report['version']}" in built.answer("dataset", "show", report["version"])


def test_show_names_everybody_who_was_left_out(built):
    report = json.loads(built.answer("dataset", "show", "--json"))
    lines = built.answer("dataset", "show", "--left-out").splitlines()
    items = [json.loads(line) for line in built.answer("dataset", "show", "--left-out", "--json").splitlines()]

    assert len(lines) == len(items) == report["left_out"]["count"]
    assert [line.split("\t")[0] for line in lines] == [item["image_id"] for item in items]


def test_list_says_which_version_is_in_place(built):
    page = json.loads(built.answer("dataset", "list", "--json"))

    assert [item["current"] for item in page["items"]] == [True] + [False] * (len(page["items"]) - 1)
    assert "current" in built.answer("dataset", "list")


def test_export_writes_a_folder_once(built, tmp_path):
    assert "read back and compared" in built.answer("dataset", "export", "--out", tmp_path / "out")
    again = built.run("dataset", "export", "--out", tmp_path / "out")

    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "train.jsonl",
        "val.jsonl",
        "test.jsonl",
        "export.json",
    }


def test_what_is_not_there_is_one_line(built, empty, tmp_path):
    missing = built.run("dataset", "show", "99")
    wrong = built.run("dataset", "export", "--out", tmp_path / "out", "--split", "1/2")

    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_doctor_holds_the_collection_against_its_version(built):
    assert "bbox_dataset is version" in built.answer("doctor")


def test_why_tells_an_images_story(built):
    image_id = json.loads(built.answer("images", "--state", "audited", "--limit", "1", "--json"))["items"][0][
        "image_id"
    ]
    told = built.answer("why", image_id)

    assert told.startswith(image_id)
    for chapter in ("Came", "Models saw", "People drew", "In the dataset"):
        assert chapter in told
    assert json.loads(built.answer("why", image_id, "--json"))["image_id"] == image_id
    assert built.run("why", "nobody").returncode == 1


def test_the_service_finishes_a_build_that_was_killed_after_its_swap(alone, monkeypatch):
    alone.answer("sample", "--images", "50")
    for name, value in alone.environment.items():
        monkeypatch.setenv(name, value)
    assert killed(start_build("swapped"))
    alone.answer("up", "--detach")

    wait_for(lambda: "current" in alone.answer("dataset", "list"), "the end of the build")


def test_a_number_that_cannot_be_a_version_is_wrong_use(built):
    done = built.run("dataset", "show", "99999999999999999999")

    assert done.returncode == 2
    assert "version" in done.stderr


def test_a_list_without_older_versions_says_so(built):
    assert "no version older than 1" in built.answer("dataset", "list", "--after", "1")
