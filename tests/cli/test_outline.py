"""`truthloop outline`, as a user runs it."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from cli.processes import Terminal


@pytest.fixture
def terminal(tmp_path: Path, shared_data: Path) -> Terminal:
    """A terminal without a workspace, with the real models."""
    return Terminal(tmp_path / ".truthloop", TRUTHLOOP_MODELS=str(shared_data / "models"))


@pytest.fixture
def horse(shared_data: Path) -> Path:
    return shared_data / "data" / "images" / "segmentation_input_rotation0.jpg"


def test_a_person_reads_which_objects_there_are_and_where(terminal: Terminal, horse: Path) -> None:
    shown = terminal.answer("outline", horse)

    assert "257 x 257   deeplab_v3 1.0.0   tolerance 1 px" in shown
    assert "person   0.86  33.5 %     0   20    144     257" in shown
    assert "Of the image: person 33.5 %, horse 28.6 %" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_no_workspace_is_needed_and_none_is_made(terminal: Terminal, horse: Path) -> None:
    terminal.answer("outline", horse)

    assert not terminal.home.exists()


def test_as_json_there_are_all_vertices(terminal: Terminal, horse: Path) -> None:
    exact, found = (
        json.loads(terminal.answer("outline", horse, "--json", *more)) for more in (("--tolerance", "0"), ())
    )
    vertices = [len(each["objects"][0]["outlines"][0]["outer"]["pixels"]) for each in (exact, found)]

    assert [each["objects"][0]["iou"] == 1 for each in (exact, found)] == [True, False]
    assert vertices[1] < vertices[0] / 2


def test_all_files_are_written_at_once(terminal: Terminal, horse: Path, tmp_path: Path) -> None:
    plot, svg, coco = (tmp_path / name for name in ("a.png", "a.svg", "a.json"))
    done = terminal.run("outline", horse, "--plot", plot, "--svg", svg, "--coco", coco)
    document = json.loads(coco.read_text())

    assert done.returncode == 0, done.stderr
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
    assert ET.parse(svg).getroot().get("viewBox") == "0 0 257 257"
    assert document["images"] == [{"id": 1, "file_name": horse.name, "width": 257, "height": 257}]
    assert len(document["categories"]) == 20
    assert isinstance(document["annotations"][0]["segmentation"], list)
    assert "holes of the objects count as theirs there" in done.stderr


def test_rle_keeps_holes_and_goes_with_a_coco_file_only(terminal: Terminal, horse: Path, tmp_path: Path) -> None:
    coco = tmp_path / "a.json"
    done = terminal.run("outline", horse, "--coco", coco, "--rle")
    alone = terminal.run("outline", horse, "--rle")

    assert json.loads(coco.read_text())["annotations"][0]["segmentation"]["size"] == [257, 257]
    assert "no holes" not in done.stderr
    assert alone.returncode == 2
    assert "give --coco FILE as well" in alone.stderr


def test_an_image_without_objects_says_so(terminal: Terminal, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "white").save(tmp_path / "white.png")

    assert "No objects found." in terminal.answer("outline", tmp_path / "white.png")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--model", "mobilenet_v2"), 2, "which knows no outlines. These do: deeplab_v3, selfie_segmentation."),
        (("--model", "no_such_model"), 1, "There is no model 'no_such_model'"),
        (("--tolerance", "-1"), 2, "greater than or equal to 0"),
        (("--plot", "a.svg"), 2, "isn't a PNG file by its name"),
        (("--svg", "/no/such/folder/a.svg"), 1, "can't be written"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_do(
    terminal: Terminal, horse: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = terminal.run("outline", horse, *arguments)

    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert text in done.stderr


@pytest.mark.parametrize(
    ("outputs", "option", "what"),
    [
        (("--svg", "s.jpg"), "--svg", "the image that is read"),
        (("--coco", "LINK"), "--coco", "the image that is read"),
        (("--plot", "q.png"), "--plot", "the image that is read"),
        (("--plot", "same", "--svg", "same"), "--svg", "the same file as --plot"),
        (("--svg", "same", "--coco", "folder/../same"), "--coco", "the same file as --svg"),
    ],
)
def test_no_file_is_written_over_the_image_nor_over_another(
    terminal: Terminal, horse: Path, tmp_path: Path, outputs: tuple[str, ...], option: str, what: str
) -> None:
    image = tmp_path / ("q.png" if "q.png" in outputs else "s.jpg")
    image.write_bytes(horse.read_bytes())
    link = tmp_path / "link.json"
    link.symlink_to(image)
    (tmp_path / "folder").mkdir()
    named = [
        each if each.startswith("-") else str(link if each == "LINK" else tmp_path / each) for each in outputs
    ]

    done = terminal.run("outline", image, *named)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {option} ")
    assert what in done.stderr
    assert image.read_bytes() == horse.read_bytes()
    assert not (tmp_path / "same").exists()


def test_outputs_that_nobody_wants_may_go_to_one_device(terminal: Terminal, horse: Path) -> None:
    terminal.answer("outline", horse, "--svg", "/dev/null", "--coco", "/dev/null")


def test_a_file_that_is_no_image_is_refused_by_its_name(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    done = terminal.run("outline", tmp_path / "a.jpg")

    assert done.returncode == 2
    assert f"{tmp_path / 'a.jpg'}: The file is no image. JPEG, PNG, WebP, BMP and TIFF are taken" in done.stderr
