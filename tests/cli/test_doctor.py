"""`truthloop doctor` about files."""

import json
import os
from pathlib import Path

import pytest

from cli.processes import Terminal
from truthloop.blobs import Blobs
from truthloop.store.connection import Store


@pytest.fixture
def terminal(store: Store, tmp_path: Path) -> Terminal:
    """With files of its own, one of which nobody has named for years."""
    blobs = str(tmp_path / "blobs")
    key = Blobs.open(store.settings.model_copy(update={"blobs": blobs})).put(b"left over")
    os.utime(tmp_path / "blobs" / key[:2] / key[2:4] / key, (0, 0))
    return Terminal(store.settings.home, TRUTHLOOP_DATABASE=store.settings.database, TRUTHLOOP_BLOBS=blobs)


def files(answer: str) -> dict:
    (found,) = [each for each in json.loads(answer)["items"] if each["name"] == "files"]
    return found


def test_doctor_counts_files_that_nobody_names_and_removes_them_by_the_command_that_it_tells(terminal: Terminal):
    told = files(terminal.answer("doctor", "--json"))
    assert told["figures"]["unnamed"] == 1
    command = told["mend"].partition(": truthloop ")[2]

    assert "named by no document, set aside now: 1 (0.00 MB)" in terminal.answer(*command.split())

    assert files(terminal.answer("doctor", "--json"))["figures"]["set_aside"] == 1
