"""The parts of the embedded server that decide without a server: paths, locks, options, what a failure means."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truthloop.errors import DiskFull, EmbeddedServerFailed
from truthloop.store import supervisor
from truthloop.store.locks import lock_holder
from truthloop.store.mongod_failure import Failure, explain, readable
from truthloop.store.mongod_files import (
    Files,
    Record,
    make_socket_folder,
    read_record,
    socket_folders,
    socket_in,
    write_record,
)

FILES = Files(Path("/home/ada/faces/.truthloop/mongodb"))

# Takes a lock as the supervisor does, says so, and holds it until its input ends.
HOLD_LOCK = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""

RECORD = Record(state="ready", supervisor_pid=7, folder="/f", socket="/s")


@given(runtime=st.text(max_size=150), folder=st.text(min_size=1, max_size=80))
def test_each_path_of_a_socket_is_short_and_plain(runtime: str, folder: str) -> None:
    for found in socket_folders(Path("/", folder), {"XDG_RUNTIME_DIR": runtime}, uid=1000):
        path = str(socket_in(found))
        assert len(path.encode()) <= 107
        assert path == path.lower()  # PyMongo asks for a member's host in lower case
        assert not set(path) & set(":,%? ")


def test_two_workspaces_never_share_a_socket() -> None:
    first, second = (next(socket_folders(Path(name), {}, uid=1000)) for name in ("/a", "/b"))

    assert first != second


def test_a_runtime_folder_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    made = make_socket_folder(iter([tmp_path / "gone" / "truthloop-1", tmp_path / "truthloop-1"]))

    assert made == tmp_path / "truthloop-1"


def test_a_socket_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "truthloop-1").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(PermissionError):
        make_socket_folder(iter([tmp_path / "truthloop-1"]))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_socket_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "truthloop-1").mkdir()
    os.chown(tmp_path / "truthloop-1", 65534, 65534)

    with pytest.raises(PermissionError):
        make_socket_folder(iter([tmp_path / "truthloop-1"]))


def test_a_socket_folder_of_ours_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "truthloop-1").mkdir(mode=0o755)

    assert make_socket_folder(iter([tmp_path / "truthloop-1"])).stat().st_mode & 0o777 == 0o700


def test_a_record_is_read_as_it_was_written_whatever_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"x" * 9000)
    descriptor = os.open(path, os.O_RDWR)
    write_record(descriptor, RECORD)
    os.close(descriptor)

    assert read_record(path) == RECORD


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "ready"}', "\0\0"])
def test_half_a_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record").write_text(text)

    assert read_record(tmp_path / "record") is None


def test_the_holder_of_a_lock_is_known_without_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert lock_holder(path) == holder.pid
        holder.communicate()

    assert lock_holder(path) is None
    assert lock_holder(tmp_path / "none") is None


def test_a_second_supervisor_leaves_at_once(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(tmp_path / "supervisor.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as first:
        assert first.stdout is not None
        first.stdout.readline()
        command = [sys.executable, "-P", "-m", supervisor.__name__, "--folder", str(tmp_path)]
        subprocess.run(
            [*command, "--mongod", "/bin/false", "--idle-seconds", "1", "--report", str(write_end)],
            pass_fds=[write_end],
            check=True,
        )
        os.close(write_end)
        with os.fdopen(read_end) as answer:
            assert json.loads(answer.read()) == {"state": "taken"}
        first.communicate(b"\n")


def test_the_supervisor_loads_no_driver() -> None:
    code = f"import sys, {supervisor.__name__}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"pymongo", "bson", "pydantic"} & set(done.stdout.split())


def test_the_cache_is_a_quarter_of_the_memory_within_bounds() -> None:
    assert 0.25 <= supervisor.cache_gigabytes() <= 4.0


def _explained(log: list[str] | None = None, **facts: object) -> Exception:
    failure = Failure.of({"kind": "exit", "status": 1, **facts})
    return explain(failure, files=FILES, log=log or [])


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libcurl.so.4", "apt-get install libcurl4"),
        ("libcrypto.so.3", "libssl3"),
        ("libx.so.1", "that has libx.so.1"),
    ],
)
def test_a_missing_library_is_named_with_its_package(library: str, package: str) -> None:
    output = f"mongod: error while loading shared libraries: {library}: cannot open shared object file"
    error = _explained(status=127, output=output)

    assert isinstance(error, EmbeddedServerFailed)
    assert library in str(error)
    assert package in str(error)
    assert "TRUTHLOOP_MONGODB_URI" in str(error)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"status": -signal.SIGILL}, "lacks AVX"),
        ({"status": -signal.SIGKILL}, "was killed while it started"),
        ({"output": "mongod: libc.so.6: version `GLIBC_2.34' not found"}, "needs GLIBC_2.34"),
        ({"kind": "in_use"}, "Another MongoDB works on"),
        ({"kind": "os", "errno": errno.ENOEXEC, "path": "/x/mongod", "text": "Exec format error"}, "can't be run"),
        ({"kind": "os", "errno": errno.EPERM, "path": "/tmp/truthloop-1"}, "belongs to somebody else"),
        ({"kind": "os", "errno": errno.EMFILE, "text": "Too many open files"}, "Too many open files"),
        ({"kind": "python", "text": "No module named truthloop"}, "No module named truthloop"),
        ({"status": 2, "output": "Error parsing command line"}, "Error parsing command line"),
    ],
)
def test_each_failure_says_what_it_is(facts: dict[str, object], told: str) -> None:
    error = _explained(**facts)

    assert isinstance(error, EmbeddedServerFailed)
    assert told in str(error)


@pytest.mark.parametrize(
    "facts",
    [{"kind": "disk_full", "free_bytes": 1}, {"kind": "os", "errno": errno.ENOSPC}, {"errno": errno.EDQUOT}],
)
def test_no_room_is_its_own_error(facts: dict[str, object]) -> None:
    assert isinstance(_explained(**facts), DiskFull)


def test_no_room_is_seen_in_the_log() -> None:
    message = {"msg": "__posix_file_write:621: pwrite", "error_str": "No space left on device"}
    line = json.dumps({"s": "E", "c": "WT", "msg": "WiredTiger error message", "attr": {"message": message}})

    assert isinstance(_explained([line]), DiskFull)


def test_a_newer_version_is_told_from_damage() -> None:
    line = json.dumps(
        {
            "s": "F",
            "c": "CONTROL",
            "msg": "** IMPORTANT: UPGRADE PROBLEM",
            "attr": {"error": {"errmsg": "Invalid"}},
        }
    )

    assert "another version of MongoDB wrote" in str(_explained([line]))


@given(
    st.lists(
        st.text()
        | st.builds(
            json.dumps,
            st.dictionaries(
                st.sampled_from(["s", "c", "msg", "attr"]),
                st.none()
                | st.text()
                | st.dictionaries(st.sampled_from(["error", "message"]), st.text() | st.integers() | st.none()),
            ),
        )
    )
)
def test_any_log_can_be_read(lines: list[str]) -> None:
    shown = readable(lines)

    assert len(shown) <= 8
    assert all(len(line) <= 300 for line in shown)
