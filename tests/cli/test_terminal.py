"""What holds for every command, without a database."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import truthloop
from cli.processes import Terminal, interrupt

COMMANDS = ["up", "down", "load", "sample", "status", "images", "events", "settings", "doctor"]


def loaded_by(statement: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, check=True
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_help_lists_every_command(nowhere: Terminal) -> None:
    shown = nowhere.answer("--help")

    assert [name for name in COMMANDS if f" {name} " not in shown] == []


def test_every_command_has_json_and_debug_and_its_help_fits_80_columns(nowhere: Terminal) -> None:
    for name in COMMANDS:
        shown = nowhere.answer(name, "--help")
        assert "--json" in shown
        assert "--debug" in shown
        assert max(map(len, shown.splitlines())) <= 80


def test_a_help_s_paragraphs_fill_the_screen_and_flags_show_no_value(nowhere: Terminal) -> None:
    shown = nowhere.answer("predict", "--help")

    assert " without their files are counted and left out; the exit code is 1 if any were." in shown
    assert "<bool>" not in shown


def test_importing_the_package_loads_nothing_else() -> None:
    loaded = loaded_by("import truthloop")

    assert [name for name in loaded if name.startswith("truthloop.")] == []


def test_help_waits_for_no_heavy_import() -> None:
    loaded = loaded_by("import truthloop.cli.main")

    assert loaded & {"fastapi", "uvicorn", "matplotlib", "pymongo", "numpy", "cloudevents", "structlog"} == set()


def test_only_the_service_and_its_clients_speak_of_routes() -> None:
    """What the stages say is read on terminals and in notebooks, too."""
    package = Path(truthloop.__file__).parent
    served = [package / "api", package / "simulate"]
    speaking = [
        path
        for path in package.rglob("*.py")
        if not any(map(path.is_relative_to, served))
        and re.search(r"/api/v\d|\b(POST|GET|PUT|DELETE) /", path.read_text())
    ]

    assert speaking == []


def test_the_version_is_the_package_s(nowhere: Terminal) -> None:
    from truthloop import __version__

    assert nowhere.answer("--version") == f"truthloop {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["imags"], "Did you mean 'images'? See `truthloop --help`."),
        (["status", "--colour"], "--colour"),
        (["images", "--state", "seen"], "'unprocessed'"),
        (["images", "--state", "correct", "--limit", "0"], "--limit"),
        (["load"], "PATH"),
        (["load", ".", "--into", "images"], "bbox.model"),
        (["up", "--port", "0"], "--port"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(nowhere: Terminal, arguments: list[str], says: str) -> None:
    done = nowhere.run(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["load", "MISSING"],
        ["ingest", "MISSING"],
        ["ingest", "HERE", "MISSING"],
        ["models", "add", "MISSING"],
        ["models", "try", "opencv_faces", "MISSING"],
        ["outline", "MISSING"],
        ["simulate", "--images", "MISSING"],
        ["worker", "--heartbeat", "MISSING/beat"],
        ["models", "try", "opencv_faces", "HERE", "--plot", "MISSING/a.png"],
    ],
)
def test_a_path_that_is_not_there_is_failed_work_for_every_command_and_makes_no_workspace(
    nowhere: Terminal, tmp_path: Path, arguments: list[str]
) -> None:
    here = tmp_path / "here.png"
    cv2.imwrite(str(here), np.full((48, 64, 3), 90, np.uint8))
    missing = tmp_path / "missing"
    done = nowhere.run(
        *(each.replace("HERE", str(here)).replace("MISSING", str(missing)) for each in arguments), "--json"
    )

    assert (done.returncode, done.stdout) == (1, "")
    problem = json.loads(done.stderr)
    assert problem["title"] == "File refused"
    assert str(missing) in problem["detail"]
    assert not nowhere.home.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["outline", "FOLDER"],
        ["models", "add", "FOLDER"],
        ["models", "try", "opencv_faces", "FOLDER"],
        ["worker", "--heartbeat", "FOLDER"],
        ["status", "--png", "FOLDER"],
        ["failures", "--summary", "--png", "FOLDER"],
        ["failures", "--summary", "--plot", "FOLDER"],
        ["outline", "a.jpg", "--plot", "FOLDER"],
        ["outline", "a.jpg", "--svg", "FOLDER"],
        ["outline", "a.jpg", "--coco", "FOLDER"],
        ["models", "try", "opencv_faces", "a.jpg", "--plot", "FOLDER"],
        ["jobs", "result", "some-job", "--plot", "FOLDER"],
    ],
)
def test_a_folder_in_the_place_of_a_file_is_failed_work_for_every_command(
    nowhere: Terminal, tmp_path: Path, arguments: list[str]
) -> None:
    done = nowhere.run(*(each.replace("FOLDER", str(tmp_path)) for each in arguments), "--json")

    assert (done.returncode, done.stdout) == (1, "")
    problem = json.loads(done.stderr)
    assert problem["title"] == "File refused"
    assert str(tmp_path) in problem["detail"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["outline", "a.jpg"],
        ["models", "try", "opencv_faces", "a.jpg"],
        ["status"],
        ["failures", "--summary"],
        ["jobs", "result", "some-job"],
    ],
)
def test_a_picture_that_its_name_says_is_no_png_file_is_wrong_use(nowhere: Terminal, arguments: list[str]) -> None:
    option = "--png" if arguments[0] == "status" else "--plot"
    done = nowhere.run(*arguments, option, "a.svg")

    assert (done.returncode, done.stdout) == (2, "")
    assert "a.svg isn't a PNG file by its name" in done.stderr


def test_a_wrong_setting_is_wrong_use(nowhere: Terminal) -> None:
    done = nowhere.run("settings", TRUTHLOOP_PORT="none")

    assert done.returncode == 2
    assert done.stderr.startswith("Error: TRUTHLOOP_PORT is 'none': ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "events", "images"])
def test_reading_makes_no_workspace(nowhere: Terminal, command: str) -> None:
    done = nowhere.run(command)

    assert done.returncode == 1
    assert "truthloop load PATH" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not nowhere.home.exists()


def test_with_json_an_error_is_a_problem(nowhere: Terminal) -> None:
    failed = nowhere.run("status", "--json")
    misused = nowhere.run("images", "--state", "seen", "--json")

    assert json.loads(failed.stderr)["status"] == 404
    assert json.loads(failed.stderr)["title"] == "No workspace"
    assert json.loads(misused.stderr)["status"] == 422


def test_only_debug_shows_a_traceback(nowhere: Terminal) -> None:
    assert "Traceback" not in nowhere.run("status").stderr
    assert "Traceback" in nowhere.run("status", "--debug").stderr
    assert "Traceback" in nowhere.run("--debug", "status").stderr


def test_settings_hide_secrets_and_start_nothing(nowhere: Terminal) -> None:
    secret = "s3cret-" * 6
    done = nowhere.run("settings", "--json", TRUTHLOOP_TOKEN=secret)
    rows = {row["name"]: row for row in json.loads(done.stdout)["items"]}

    assert secret not in done.stdout
    assert rows["TRUTHLOOP_TOKEN"]["value"] == "(hidden)"
    assert rows["TRUTHLOOP_TOKEN"]["origin"] == "TRUTHLOOP_TOKEN"
    assert rows["TRUTHLOOP_PORT"] == {
        "name": "TRUTHLOOP_PORT",
        "value": 8080,
        "origin": "default",
        "description": rows["TRUTHLOOP_PORT"]["description"],
    }
    assert not nowhere.home.exists()


def test_down_is_fine_where_nothing_runs(nowhere: Terminal) -> None:
    assert nowhere.answer("down") == "Nothing was running.\n"
    assert not nowhere.home.exists()


def test_a_closed_pipe_is_silent(nowhere: Terminal) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "truthloop", "settings"],
            env=nowhere.environment,
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)

    assert done.stderr == b""
    assert done.returncode == 141


def test_ctrl_c_while_modules_are_imported_ends_without_a_traceback(nowhere: Terminal, tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(100)\n")
    nowhere.environment["PYTHONPATH"] = str(tmp_path)
    process = nowhere.start("--version")
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"

    assert interrupt(process) == (130, "Interrupted.\n")


def test_ctrl_c_after_the_command_is_done_ends_it_without_a_traceback_and_as_it_was(nowhere: Terminal) -> None:
    statement = (
        "import atexit, sys, time\n"
        "atexit.register(lambda: (print('ending', flush=True), time.sleep(100)))\n"
        "from truthloop.__main__ import main\n"
        "sys.argv = ['truthloop', 'imags']\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", statement],
        env=nowhere.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ending\n"

    code, said = interrupt(process)

    assert (code, said.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("truthloop st", {"status"}),
        ("truthloop images --state un", {"unprocessed", "unaudited"}),
        ("truthloop load --into bbox.h", {"bbox.human_audit", "bbox.human_annotation"}),
    ],
)
def test_the_shell_completes(nowhere: Terminal, typed: str, completed: set[str]) -> None:
    done = nowhere.run(
        _TRUTHLOOP_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(typed.split()) - 1)
    )

    assert set(done.stdout.split()) >= completed
    assert not any(word.startswith("process") or word == "metadata" for word in done.stdout.split())


def test_doctor_names_a_broken_setting(nowhere: Terminal) -> None:
    done = nowhere.run("doctor", "--json", TRUTHLOOP_PORT="none")

    assert done.returncode == 1
    assert json.loads(done.stdout)["healthy"] is False
    assert "TRUTHLOOP_PORT" in json.loads(done.stdout)["items"][0]["text"]
