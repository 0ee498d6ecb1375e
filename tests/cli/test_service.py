"""`up` and `down`: one service a workspace, whatever happened to the last one."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest

from cli.processes import Terminal, wait_for
from truthloop.cli import place


def is_ready(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
        return bool(answer.status == 200)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_life_of_a_detached_service(alone: Terminal) -> None:
    first = json.loads(alone.answer("up", "--detach", "--json"))
    assert is_ready(first["url"])
    assert first["already_running"] is False
    assert mode(alone.home / "token") == 0o600
    assert mode(alone.home / "service.json") == 0o600
    assert (alone.home / "token").read_text().strip() in first["link"]

    # A second one does no harm and says where the first is.
    assert json.loads(alone.answer("up", "--detach", "--json")) == first | {"already_running": True}
    refused = alone.run("up", TRUTHLOOP_PORT=str(int(alone.environment["TRUTHLOOP_PORT"]) - 1))
    assert refused.returncode == 1
    assert first["url"] in refused.stderr
    assert refused.stderr.count("\n") == 1

    # What kill -9 leaves behind is no obstacle, and the token stays.
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: not place.is_held(alone.home), "the end of the killed service")
    assert (alone.home / "service.json").exists()
    second = json.loads(alone.answer("up", "--detach", "--json"))
    assert second["already_running"] is False
    assert second["link"] == first["link"]
    assert is_ready(second["url"])

    assert json.loads(alone.answer("down", "--json")) == {"service_stopped": True, "mongodb_stopped": True}
    assert not (alone.home / "service.json").exists()
    assert json.loads(alone.answer("down", "--json")) == {"service_stopped": False, "mongodb_stopped": False}


def test_a_folder_is_made_for_who_brings_a_token(alone: Terminal) -> None:
    alone.environment["TRUTHLOOP_TOKEN"] = "x" * 40

    assert is_ready(json.loads(alone.answer("up", "--detach", "--json"))["url"])
    assert mode(alone.home) == 0o700


def test_sigterm_stops_a_service_in_the_foreground_cleanly(alone: Terminal) -> None:
    process = alone.start("up", "--json")
    assert process.stdout is not None
    said = json.loads(_document(process.stdout))
    wait_for(lambda: place.Service(pid=said["pid"], url=said["url"]).is_ready(), "the service")
    process.terminate()
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert not place.is_held(alone.home)


def _document(lines: Iterable[str]) -> str:
    text = ""
    for line in lines:
        text += line
        if line == "}\n":
            break
    return text


def test_a_taken_port_is_said_plainly(alone: Terminal) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for arguments in (["up"], ["up", "--detach"]):
            done = alone.run(*arguments, "--port", port)
            assert done.returncode == 1
            assert f"Port {port} is taken" in done.stderr
            assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("environment", [{}, {"TRUTHLOOP_TOKEN": ""}])
def test_beyond_this_machine_only_with_a_token_of_ones_own(alone: Terminal, environment: dict[str, str]) -> None:
    done = alone.run("up", "--host", "0.0.0.0", **environment)

    assert done.returncode == 2
    assert "TRUTHLOOP_TOKEN" in done.stderr


HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_down_kills_no_stranger_whom_an_old_record_names(alone: Terminal) -> None:
    alone.home.mkdir(mode=0o700)
    stranger = subprocess.Popen(["sleep", "600"])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, alone.home / place.LOCK_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        (alone.home / "service.json").write_text(json.dumps({"pid": stranger.pid, "url": "http://127.0.0.1:1"}))

        done = alone.run("down")

        assert place.find(alone.home) is None
        assert done.returncode == 1
        assert "can't be seen from here" in done.stderr
        assert (stranger.poll(), holder.poll()) == (None, None)
    finally:
        stranger.kill()
        holder.kill()
        stranger.wait()
        holder.communicate()


def test_a_record_of_the_holder_itself_is_the_service(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / place.LOCK_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        said = place.Service(pid=holder.pid, url="http://127.0.0.1:1")
        (tmp_path / "service.json").write_text(json.dumps({"pid": said.pid, "url": said.url}))

        assert place.find(tmp_path) == said
        assert place.send(tmp_path, said, signal.SIGTERM)
        assert holder.wait(60) == -signal.SIGTERM
        assert not place.send(tmp_path, said, signal.SIGTERM)
        assert place.find(tmp_path) is None
    finally:
        holder.kill()
        holder.communicate()


def test_a_start_that_fails_shows_the_end_of_its_log(alone: Terminal) -> None:
    alone.home.mkdir(mode=0o700)
    (alone.home / "mongodb").write_text("in the way of MongoDB's folder")
    done = alone.run("up", "--detach")

    assert done.returncode == 1
    assert "service.log" in done.stderr
    assert "Error: " in done.stderr.partition("service.log")[2]


def test_a_log_that_has_grown_begins_anew(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.write_text("x" * 100)
    with log.open("a") as writer:
        place.bound_log(log, limit=50)
        writer.write("after")

    assert log.read_text() == "after"
    assert (tmp_path / "service.log.1").read_text() == "x" * 100
