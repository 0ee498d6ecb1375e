"""What a distribution of the package must have, and must not."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from truthloop import __version__

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["version"] == __version__ == metadata.version("truthloop")


def requirements() -> list[str]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = pyproject["dependency-groups"]
    return [*pyproject["project"]["dependencies"], *groups["build"], *groups["dev"]]


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def locked(lock: str) -> dict[str, str]:
    text = (ROOT / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", text, flags=re.MULTILINE))


def test_the_lock_has_every_dependency() -> None:
    assert [name for name in map(name_of, requirements()) if name not in locked("requirements-dev.lock")] == []


def test_both_locks_agree() -> None:
    tests = locked("requirements-dev.lock")

    assert {name: tests.get(name) for name in locked("requirements.lock")} == locked("requirements.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host_and_no_folder(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")

    assert re.findall(r"https?://|--index|--find-links|^/|\s/\w", text) == []


def test_the_wheel_is_typed_and_complete(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    import zipfile

    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = set(wheel.namelist())
    source = ROOT / "src"
    files = {
        str(path.relative_to(source))
        for path in (source / "truthloop").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert files - held == set()
    assert "truthloop/py.typed" in held
