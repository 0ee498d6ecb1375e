"""`truthloop failures`, as a user runs it."""

import json
import uuid
from pathlib import Path

import pytest
from PIL import Image

from cli.processes import Terminal
from truthloop.cli import failures as cli
from truthloop.failures.kinds import Kind
from truthloop.failures.selection import Size

ANNOTATED, ALONE = "24982f38d2d732ef367638a175d72eae", "88d081d7b18e1c5c9170dd4787c765db"


@pytest.fixture(scope="module")
def slice_terminal(server_home: Path, shared_data: Path) -> Terminal:
    """A terminal with the slice of real data; the tests that share it only read."""
    terminal = Terminal(server_home, TRUTHLOOP_DATABASE=f"test-{uuid.uuid4().hex[:12]}")
    terminal.answer("load", shared_data / "data" / "face-detection")
    return terminal


def test_the_answers_are_one_json_array(slice_terminal: Terminal) -> None:
    answers = json.loads(slice_terminal.answer("failures", ANNOTATED, ALONE, "--json"))

    assert [(answer["image_id"], answer["state"]) for answer in answers] == [
        (ANNOTATED, "annotated"),
        (ALONE, "not_annotated"),
    ]
    assert "items" not in answers[1]


def test_a_person_reads_the_deltas_and_what_is_not_there(slice_terminal: Terminal) -> None:
    shown = slice_terminal.answer("failures", ANNOTATED, ALONE)

    assert "delta            -0.006  -0.004  -0.041  -0.048" in shown
    assert "not annotated: nothing to compare with" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_stream_is_one_answer_a_line(slice_terminal: Terminal) -> None:
    lines = slice_terminal.answer(
        "failures", "--all", "--json", "--kind", "missed", "--size", "small"
    ).splitlines()
    kinds = {item["kind"] for line in lines for item in json.loads(line)["items"]}

    assert len(lines) > 10
    assert kinds == {"missed"}


def test_the_stream_for_people_is_one_item_a_line(slice_terminal: Terminal) -> None:
    lines = [line.split("\t") for line in slice_terminal.answer("failures", "--all").splitlines()]

    assert {len(line) for line in lines} == {6}
    assert {line[2] for line in lines} == {"misplaced", "unrelated", "missed", "spurious", "invalid"}


def test_the_summary_fits_a_terminal_and_names_its_bias(slice_terminal: Terminal) -> None:
    shown = slice_terminal.answer("failures", "--summary")

    assert "776 images compared of 2,443" in shown
    assert "People annotate mostly where a prediction was found wrong" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_summary_as_json_and_as_a_figure(slice_terminal: Terminal, tmp_path: Path) -> None:
    told = json.loads(
        slice_terminal.answer("failures", "--summary", "--json", "--worst", "3", "--png", tmp_path / "summary.png")
    )

    assert [version["model_version"] for version in told["model_versions"]] == ["2.0.0", "1.0.0"]
    assert len(told["worst"]) == 3
    with Image.open(tmp_path / "summary.png") as image:
        assert image.width == 1440


def test_the_picture_of_an_image(slice_terminal: Terminal, tmp_path: Path) -> None:
    slice_terminal.answer("failures", ANNOTATED, "--plot", tmp_path / "image.png")

    with Image.open(tmp_path / "image.png") as image:
        assert image.width == 1690


def test_the_picture_of_a_summary_is_that_of_its_worst_image(slice_terminal: Terminal, tmp_path: Path) -> None:
    done = slice_terminal.run("failures", "--summary", "--json", "--worst", "1", "--plot", tmp_path / "worst.png")
    worst = json.loads(done.stdout)["worst"][0]["image_id"]
    slice_terminal.answer("failures", worst, "--plot", tmp_path / "image.png")

    assert worst in done.stderr
    assert (tmp_path / "worst.png").read_bytes() == (tmp_path / "image.png").read_bytes()


def test_a_picture_that_cannot_be_written_is_said_in_a_line(slice_terminal: Terminal, tmp_path: Path) -> None:
    done = slice_terminal.run("failures", ANNOTATED, "--plot", tmp_path / "no" / "image.png")

    assert done.returncode == 1
    assert "can't be written" in done.stderr


def test_an_unknown_id_fails_and_names_it(slice_terminal: Terminal) -> None:
    done = slice_terminal.run("failures", ANNOTATED, "123abc")

    assert (done.returncode, done.stdout) == (1, "")
    assert "123abc: no such image" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (ANNOTATED, "--all"),
        ("--all", "--summary"),
        ("--summary", "--kind", "missed"),
        ("--all", "--plot", "x.png"),
        (ANNOTATED, ALONE, "--plot", "x.png"),
        (ANNOTATED, "--png", "x.png"),
        ("--all", "--kind", "wrong"),
        ("--all", "--min-iou", "2"),
        ("--summary", "--png", "x.jpg"),
    ],
)
def test_wrong_use_is_told_in_a_line(slice_terminal: Terminal, arguments: tuple[str, ...]) -> None:
    done = slice_terminal.run("failures", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_the_terminal_names_the_kinds_and_sizes_that_there_are() -> None:
    assert (tuple(Kind), tuple(Size)) == (cli.KINDS, cli.SIZES)
