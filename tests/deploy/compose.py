"""The compose file as Docker Compose itself reads it: with its own library, in Go."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "docker-compose.yaml"
PROGRAM = Path(__file__).parent / "compose_check"
# Any will do: 32 characters.
TOKEN = "only-for-tests-0123456789abcdef0"
# The program is compiled at its first run.
TIMEOUT_SECONDS = 600

Document = dict[str, Any]


def need(program: str, why: str) -> str:
    """Where a program is; the test is skipped where it isn't, except in CI."""
    found = shutil.which(program)
    if found is None:
        reason = f"{program} isn't on the PATH, {why}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def read(file: Path = FILE, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Has Compose's library read a file, with these variables as the only ones of ours."""
    go = need("go", "1.23 or newer, which compiles Docker Compose's own reading of its files")
    others = {name: value for name, value in os.environ.items() if not name.startswith("TRUTHLOOP_")}
    return subprocess.run(
        [go, "run", ".", str(file)],
        cwd=PROGRAM,
        env=others | variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def project(**variables: str) -> Document:
    """The whole project, with every variable and default filled in."""
    done = read(**variables)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def seconds(duration: str) -> float:
    """A duration as Compose writes it, such as 1m0s."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", duration)
    assert "".join(number + unit for number, unit in parts) == duration
    return sum(float(number) * units[unit] for number, unit in parts)
