"""What `make up` does once everything is installed."""

import json
import subprocess
import sys
from pathlib import Path

from cli.processes import TIMEOUT_SECONDS, Terminal
from truthloop.cli import place

ROOT = Path(__file__).parent.parent.parent


def make_up(terminal: Terminal, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`make up`, but for the installation: what runs is what these tests run with."""
    installed = ("--assume-old=.venv/python", "--assume-old=.venv/installed", "--assume-old=system")
    return subprocess.run(
        ["make", "--no-print-directory", *installed, f"BIN={Path(sys.executable).parent}", "up", *arguments],
        cwd=ROOT,
        env=terminal.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def is_ready(terminal: Terminal) -> bool:
    service = place.find(terminal.home)
    return service is not None and service.is_ready()


def test_without_data_it_makes_a_sample_once(alone: Terminal) -> None:
    first, second = make_up(alone), make_up(alone)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "Truthloop is running" in first.stdout
    assert "no sample was made" in second.stdout
    assert "Dataset version 1" in first.stdout
    assert "Dataset version 1" in second.stdout
    assert "images predicted by opencv_faces 1.0.0, recorded as model version 1.0.0" in first.stdout
    assert (alone.home / "failure.png").read_bytes().startswith(b"\x89PNG")
    assert "already running" in second.stdout
    assert is_ready(alone)


def test_one_refused_document_keeps_nothing_from_being_looked_at(alone: Terminal, tmp_path: Path) -> None:
    folder = tmp_path / "my $HOME's data"
    folder.mkdir()
    (folder / "metadata.json").write_text(json.dumps([{"image_id": "a"}, {"image_id": 5}]))

    done = make_up(alone, f"DATA={str(folder).replace('$', '$$')}")

    assert done.returncode != 0
    assert "[1].image_id: not text" in done.stdout
    assert "1 image " in done.stdout
    assert "Truthloop is running" in done.stdout
    assert "Not everything was loaded" in done.stderr
    assert is_ready(alone)


def test_a_folder_that_isnt_there_starts_nothing(alone: Terminal, tmp_path: Path) -> None:
    done = make_up(alone, f"DATA={tmp_path / 'none'}")

    assert done.returncode != 0
    assert "none" in done.stderr
    assert not alone.home.exists()
