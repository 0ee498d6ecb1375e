"""`truthloop ingest` and `truthloop sample --photos`, as a user runs them."""

import importlib.util
import json
import os
import pty
import subprocess
import sys

import pytest

from cli.processes import Terminal, interrupt, wait_for
from hostile import encoded, picture
from truthloop.errors import FileRefused
from truthloop.ingest import photographs as stage
from truthloop.ingest.image_file import check

HAS_DEMO = importlib.util.find_spec("skimage") is not None


@pytest.fixture
def terminal(empty, tmp_path) -> Terminal:
    """A terminal with a database of its own, and files of its own."""
    empty.environment["TRUTHLOOP_BLOBS"] = f"file://{tmp_path}/blobs"
    return empty


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(encoded("PNG", picture(20 + index, 20)))
    return folder


def test_a_folder_becomes_a_workspace_and_the_same_again_brings_nothing(terminal, folder):
    first = json.loads(terminal.answer("ingest", folder, "--json"))
    again = terminal.answer("ingest", folder)

    assert (first["new"], first["ok"]) == (3, True)
    assert again == "3 files: 0 new, 3 there already, 0 refused\n"
    assert json.loads(terminal.answer("status", "--json"))["images"] == 3


def test_what_is_refused_is_told_with_its_reason_and_the_exit_code_is_1(terminal, folder):
    (folder / "broken.jpg").write_bytes(encoded("JPEG")[:-100])
    told = terminal.run("ingest", folder)
    as_json = terminal.run("ingest", folder, "--json")

    assert (told.returncode, as_json.returncode) == (1, 1)
    assert "4 files: 3 new, 0 there already, 1 refused" in told.stdout
    assert "broken.jpg" in told.stdout
    assert "The JPEG is cut off or damaged. Copy the file again." in told.stdout
    (refusal,) = json.loads(as_json.stdout)["refusals"]
    assert (refusal["file"], refusal["state"]) == (str(folder / "broken.jpg"), "refused")


def test_on_a_terminal_of_80_columns_no_line_is_longer(terminal, folder):
    (folder / ("a-name-of-many-words-" * 8 + ".jpg")).write_bytes(b"no image")
    controller, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "truthloop", "ingest", str(folder), "--dry-run"],
        env=terminal.environment | {"TERM": "dumb", "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=end,
        stderr=subprocess.DEVNULL,
    )
    os.close(end)
    said = b""
    while True:
        try:
            piece = os.read(controller, 65_536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
    os.close(controller)
    assert process.wait() == 1

    lines = said.decode().replace("\r", "").splitlines()
    assert any("refused" in line for line in lines)
    # The file of what was refused stands on one line, so that it can be copied; how long it is nobody knows here.
    assert [line for line in lines if len(line) > 80 and not line.startswith("All that was refused")] == []


def test_a_dry_run_makes_no_workspace(nowhere, folder):
    report = json.loads(nowhere.answer("ingest", folder, "--dry-run", "--json"))

    assert (report["new"], report["dry_run"]) == (3, True)
    assert not nowhere.home.exists()


def test_a_path_that_is_not_there_makes_no_workspace(nowhere, tmp_path):
    missing = nowhere.run("ingest", tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    empty = nowhere.run("ingest", tmp_path / "empty")

    assert (missing.returncode, empty.returncode) == (1, 1)
    assert "holds no file" in empty.stderr
    assert not nowhere.home.exists()


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_what_was_stopped_is_taken_up_by_the_same_again(terminal, tmp_path, how):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(2_500):
        (folder / f"{index}.png").write_bytes(encoded("PNG", picture(20 + index, 4)))
    process = terminal.start("ingest", folder)
    wait_for(lambda: any((tmp_path / "blobs").glob("*/*/*")), "the first blob")
    if how == "Ctrl-C":
        assert interrupt(process) == (130, "Interrupted.\n")
    else:
        process.kill()
        process.communicate()
    report = json.loads(terminal.answer("ingest", folder, "--json"))

    assert report["new"] + report["already_there"] == 2_500
    assert report["new"] > 0
    assert json.loads(terminal.answer("status", "--json"))["images"] == 2_500
    events = terminal.answer("events", "--json", "--limit", "5000").splitlines()
    assert len({json.loads(line)["subject"] for line in events}) == len(events) == 2_500


def test_real_images_don_t_go_into_a_workspace_of_made_up_data(sampled, folder):
    refused = sampled.run("ingest", folder)

    assert (refused.returncode, "made-up" in refused.stderr) == (1, True)


# -- the photographs


def test_the_photographs_that_are_installed_are_images(monkeypatch):
    installed = [each for each in stage.PHOTOGRAPHS if importlib.util.find_spec(each.package)]
    monkeypatch.setattr(stage, "PHOTOGRAPHS", installed)

    paths = stage.photographs()
    assert paths[0].name == "grace_hopper.jpg"
    assert len(paths) == len(installed)
    for path in paths:
        assert check(path.read_bytes(), max_bytes=10**7, max_pixels=10**7).width >= 400


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch):
    missing = stage.Photograph("no_package_of_this_name", "data/x.png", "nothing", "none")
    monkeypatch.setattr(stage, "PHOTOGRAPHS", (*stage.PHOTOGRAPHS[:1], missing))

    with pytest.raises(FileRefused, match=r"pip install 'truthloop\[demo\]'.*grace_hopper\.jpg"):
        stage.photographs()


@pytest.mark.skipif(not HAS_DEMO, reason="needs the extra demo: pip install 'truthloop[demo]'")
def test_the_photographs_make_a_workspace_of_real_images(terminal):
    assert json.loads(terminal.answer("sample", "--photos", "--json"))["new"] == len(stage.PHOTOGRAPHS)
    assert "SYNTHETIC" not in terminal.answer("status")
