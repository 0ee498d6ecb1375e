"""`truthloop failures`, as a user runs it."""

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cli.processes import Terminal, on_a_terminal
from truthloop.cli import failures_report
from truthloop.failures.kinds import Kind
from truthloop.failures.selection import Size

ANNOTATED, ALONE = "24982f38d2d732ef367638a175d72eae", "88d081d7b18e1c5c9170dd4787c765db"
SWAPPED = "0c8ab894bf50daa46320126e4d731a35"  # its annotation is


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
    assert answers[1]["predictions"] == [
        {
            "model_version": "1.0.0",
            "verdict": False,
            "boxes": [{"top": 0.507, "left": 0.21, "bottom": 0.595, "right": 0.276}],
        }
    ]


def test_a_person_reads_the_deltas_and_what_is_not_there(slice_terminal: Terminal) -> None:
    shown = slice_terminal.answer("failures", ANNOTATED, ALONE)

    assert "delta            -0.006  -0.004  -0.041  -0.048" in shown
    assert "not annotated: nothing to compare with" in shown
    assert "1.0.0  incorrect   predicted  0.210  0.507  0.276   0.595" in shown
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

    assert {len(line) for line in lines if line[2] != "invalid"} == {6}
    assert {line[2] for line in lines} == {"misplaced", "unrelated", "missed", "spurious", "invalid"}
    assert [line for line in lines if line[2] == "invalid"] == [
        [SWAPPED, "", "invalid", "", "", "0.345,0.398,0.339,0.628", "annotated: left >= right"]
    ]


def test_the_stream_and_the_summary_agree_on_what_is_spurious(slice_terminal: Terminal) -> None:
    lines = slice_terminal.answer("failures", "--all", "--kind", "spurious", "--kind", "unrelated").splitlines()
    told = json.loads(slice_terminal.answer("failures", "--summary", "--json"))

    assert len(lines) == sum(version["counts"]["spurious"] for version in told["model_versions"]) == 624
    assert not [line for line in lines if line.startswith(SWAPPED)]


def test_on_a_terminal_the_stream_fits_80_columns_and_nothing_stands_between_its_lines(
    slice_terminal: Terminal,
) -> None:
    lines = on_a_terminal(slice_terminal, "failures", "--all").splitlines()
    first = next(number for number, line in enumerate(lines) if re.match("[0-9a-f]{32}$", line))

    assert max(map(len, lines)) <= 80
    assert len(lines) - first > 1000
    assert not [line for line in lines[first:] if "Counting" in line]


def test_what_goes_into_a_file_does_not_go_to_the_screen(slice_terminal: Terminal, tmp_path: Path) -> None:
    shown = on_a_terminal(slice_terminal, "failures", "--all", "--kind", "spurious", into=tmp_path / "all.tsv")

    assert len((tmp_path / "all.tsv").read_text().splitlines()) == 363
    assert "\t" not in shown
    assert "363 items on 264 images." in shown


def test_the_summary_fits_a_terminal_and_names_its_bias(slice_terminal: Terminal) -> None:
    shown = slice_terminal.answer("failures", "--summary")

    assert "776 images compared of 2,443" in shown
    assert f"1 with annotations or predictions that can't be used:\n  {SWAPPED}" in shown
    assert "People annotate mostly where a prediction was found wrong" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_summary_of_one_model_version_counts_its_images_alone(slice_terminal: Terminal) -> None:
    shown = slice_terminal.answer("failures", "--summary", "--model-version", "2.0.0")

    assert "474 images compared of 2,443" in shown
    assert "1,175 not predicted by model 2.0.0" in shown


def test_what_a_model_version_has_not_seen_is_said(slice_terminal: Terminal) -> None:
    shown = slice_terminal.answer("failures", ANNOTATED, "--model-version", "2.0.0")

    assert "not predicted: model 2.0.0 hasn't looked at it" in shown


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
    assert '"123abc": no such image' in done.stderr


def test_what_does_not_print_is_escaped_and_warns_of_nothing(empty: Terminal, tmp_path: Path) -> None:
    box = {"left": 0.2, "top": 0.2, "right": 0.4, "bottom": 0.4}
    image_id = "cam\t1\x1b[2J 木"
    documents: dict[str, dict[str, Any]] = {
        "metadata": {"image_id": image_id, "capture_timestamp": 1},
        "bbox.model": {"image_id": image_id, "model_version": "1.0.0", "bboxes": [box]},
        "bbox.human_annotation": {
            "image_id": image_id,
            "bbox": None,
            "annotator": "x",
            "task_version": "1.0.0",
            "timestamp": 1,
        },
    }
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps([document]))
    empty.answer("load", tmp_path)

    assert empty.answer("failures", "--all").split("\t")[0] == r"cam\t1\x1b[2J 木"
    assert empty.answer("failures", image_id).startswith(r"cam\t1\x1b[2J 木  1 spurious")
    assert "arning" not in empty.run("failures", image_id, "--plot", tmp_path / "image.png").stderr


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
        ("--all", "--model-version", "9.9.9"),
        ("--summary", "--model-version", "9.9.9"),
        ("--all", "--iou-at-least", "0.4", "--iou-below", "0.2"),
        ("--all", "--kind", "missed", "--iou-below", "0.5"),
        ("--summary", "--png", "x.jpg"),
    ],
)
def test_wrong_use_is_told_in_a_line(slice_terminal: Terminal, arguments: tuple[str, ...]) -> None:
    done = slice_terminal.run("failures", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_the_terminal_names_the_kinds_and_sizes_that_there_are() -> None:
    assert (tuple(Kind), tuple(Size)) == (failures_report.KINDS, failures_report.SIZES)


def test_the_picture_shows_the_image_where_its_pixels_are_there(empty: Terminal, tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), (10, 200, 30)).save(tmp_path / "green.png")
    empty.answer("ingest", tmp_path / "green.png")
    empty.answer("predict", "--all", "--model", "opencv_faces")
    (line,) = empty.answer("images").splitlines()
    empty.answer("failures", line.partition("\t")[0], "--plot", tmp_path / "plot.png")

    with Image.open(tmp_path / "plot.png") as image:
        colours = {colour: number for number, colour in image.convert("RGB").getcolors(1 << 20) or ()}
    assert colours[(10, 200, 30)] > 10_000
