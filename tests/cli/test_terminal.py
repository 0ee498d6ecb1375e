"""What holds for every command, without a database."""

import json
import os
import subprocess
import sys

import pytest

from cli.processes import Terminal

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


def test_the_version_is_the_package_s(nowhere: Terminal) -> None:
    from truthloop import __version__

    assert nowhere.answer("--version") == f"truthloop {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["imags"], "Did you mean 'images'?"),
        (["status", "--colour"], "--colour"),
        (["images", "--state", "seen"], "'unprocessed'"),
        (["images", "--state", "correct", "--limit", "0"], "--limit"),
        (["load", "no-such-file.json"], "no-such-file.json"),
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
