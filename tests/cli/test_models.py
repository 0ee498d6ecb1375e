"""`truthloop models`, as a user runs it."""

import hashlib
import json
from pathlib import Path

import cv2
import pytest
from PIL import Image

from cli.processes import Terminal

EYES = Path(cv2.__file__).parent / "data" / "haarcascade_eye.xml"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """A terminal of a user who has no workspace and no models, and can reach no network."""
    return Terminal(
        tmp_path / ".truthloop",
        XDG_DATA_HOME=str(tmp_path / "data"),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        https_proxy="http://127.0.0.1:9",
        PIP_NO_INDEX="1",
        UV_NO_INDEX="1",
        UV_OFFLINE="1",
    )


@pytest.fixture
def with_models(terminal: Terminal, shared_data: Path) -> Terminal:
    """The same with the real models."""
    terminal.environment["TRUTHLOOP_MODELS"] = str(shared_data / "models")
    return terminal


@pytest.fixture
def images(shared_data: Path) -> Path:
    return shared_data / "data" / "images"


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """The entry of a user's own model."""
    path = tmp_path / "eyes.json"
    path.write_text(
        json.dumps(
            {
                "name": "eyes",
                "version": "1.0.0",
                "task": "detection",
                "runtime": "opencv",
                "file": {"name": EYES.name, "sha256": hashlib.sha256(EYES.read_bytes()).hexdigest()},
                "labels": ["eye"],
                "licence": "BSD-3-Clause",
                "input": {"max_side": 800, "colour": "grey", "dtype": "uint8"},
                "output": {"decoder": "opencv_cascade"},
            }
        )
    )
    return path


def test_the_list_says_which_models_work_as_they_are(terminal: Terminal) -> None:
    shown = terminal.answer("models", "list")
    listed = json.loads(terminal.answer("models", "list", "--json"))

    assert max(map(len, shown.splitlines())) <= 80
    assert {item["name"]: item["state"] for item in listed["items"]}["opencv_faces"] == "built_in"
    assert {item["name"]: item["state"] for item in listed["items"]}["mobilenet_v2"] == "missing"
    assert not terminal.home.exists()


def test_an_entry_that_can_t_be_used_is_listed_with_the_reason_and_harms_no_other(
    terminal: Terminal, images: Path, tmp_path: Path
) -> None:
    terminal.environment["TRUTHLOOP_MODELS"] = str(tmp_path / "models")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.model.json").write_text('{"name": "mine", "output": "y"}')
    listed = terminal.run("models", "list")
    (bad,) = json.loads(terminal.answer("models", "list", "--json"))["unusable"]

    assert listed.returncode == 0
    assert [line.split() for line in listed.stdout.splitlines()][-1] == ["mine", "unusable"]
    assert bad["name"] == "mine"
    assert "output: " in bad["reason"]
    assert bad["reason"] in listed.stderr
    assert json.loads(terminal.answer("models", "try", "opencv_faces", images / "face.jpg", "--json"))["boxes"]


def test_a_model_is_shown_with_its_files(with_models: Terminal, shared_data: Path) -> None:
    shown = with_models.answer("models", "show", "mobilenet_v2")
    facts = json.loads(with_models.answer("models", "show", "mobilenet_v2", "--json"))

    assert str(shared_data / "models" / "imagenet_labels.txt") in shown
    assert [file["state"] for file in facts["files"]] == ["there", "there"]
    assert facts["input"]["width"] == 224


def test_a_classifier_answers_labels_and_nothing_else(with_models: Terminal, images: Path) -> None:
    answer = json.loads(with_models.answer("models", "try", "mobilenet_v2", images / "cat_720p.jpg", "--json"))

    assert list(answer) == ["labels"]
    assert all(set(label) == {"label", "score"} for label in answer["labels"])
    assert answer["labels"][0]["label"] == "Egyptian cat"


def test_a_detector_answers_boxes_and_nothing_else(with_models: Terminal, images: Path) -> None:
    answer = json.loads(with_models.answer("models", "try", "ultraface_rfb_320", images / "face.jpg", "--json"))

    assert list(answer) == ["boxes"]
    assert len(answer["boxes"]) == 4
    assert all(list(box) == ["label", "score", "left", "top", "right", "bottom"] for box in answer["boxes"])


def test_a_segmentation_answers_classes_and_objects_and_nothing_else(with_models: Terminal, images: Path) -> None:
    answer = json.loads(with_models.answer("models", "try", "deeplab_v3", images / "cow.jpg", "--json"))

    assert list(answer) == ["classes", "objects"]
    assert [part["label"] for part in answer["classes"]] == ["cow"]
    assert answer["objects"][0]["label"] == "cow"


@pytest.mark.parametrize(
    ("model", "image", "told"),
    [
        ("mobilenet_v2", "parrot.jpg", "macaw  0.996"),
        ("ssd_mobilenet_v1_coco", "cow.jpg", "cow    0.809"),
        ("selfie_segmentation", "grace_hopper.jpg", "foreground        57.8 %"),
        ("face_short_range", "cat_720p.jpg", "No boxes."),
    ],
)
def test_a_person_reads_what_a_model_says(
    model: str, image: str, told: str, with_models: Terminal, images: Path
) -> None:
    shown = with_models.answer("models", "try", model, images / image)

    assert told in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("model", "told"), [("deeplab_v3", "Background only.\n"), ("ssd_mobilenet_v1_coco", "No boxes.\n")]
)
def test_nothing_found_is_said(model: str, told: str, with_models: Terminal, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")

    assert with_models.answer("models", "try", model, tmp_path / "black.png") == told


def test_the_picture_is_written_beside_the_answer(terminal: Terminal, images: Path, tmp_path: Path) -> None:
    done = terminal.run(
        "models", "try", "opencv_faces", images / "face.jpg", "--json", "--plot", tmp_path / "a.png"
    )

    assert len(json.loads(done.stdout)["boxes"]) == 4
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
    assert done.stderr == f"Wrote {tmp_path / 'a.png'}.\n"


def test_an_image_that_is_none_is_refused(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")

    done = terminal.run("models", "try", "opencv_faces", tmp_path / "text.jpg")

    assert done.returncode == 2
    assert "JPEG, PNG, WebP, BMP and TIFF are taken" in done.stderr


def test_out_of_reach_the_folder_and_the_working_models_are_named(terminal: Terminal, images: Path) -> None:
    done = terminal.run("models", "try", "mobilenet_v2", images / "cow.jpg")

    assert done.returncode == 1
    folder = Path(terminal.environment["XDG_CACHE_HOME"]) / "truthloop" / "models"
    assert f"into {folder}, or into a folder that TRUTHLOOP_MODELS names." in done.stderr
    assert done.stderr.endswith("These models work without: opencv_faces, opencv_people.\n")


def test_what_cannot_be_pulled_is_named_and_the_rest_is_pulled(terminal: Terminal) -> None:
    done = terminal.run("models", "pull", "ultraface_rfb_320", "opencv_people", "--json")
    items = {item["name"]: item for item in json.loads(done.stdout)["items"]}

    assert done.returncode == 1
    assert "can't be fetched" in items["ultraface_rfb_320"]["error"]
    assert items["opencv_people"]["error"] is None


def test_pulling_what_is_here_needs_no_network(with_models: Terminal) -> None:
    shown = with_models.answer("models", "pull", "--all")

    assert len(shown.splitlines()) == 8
    assert "opencv_faces: built in" in shown


def test_a_folder_of_models_that_is_not_there_is_said(terminal: Terminal, tmp_path: Path) -> None:
    terminal.environment["TRUTHLOOP_MODELS"] = str(tmp_path / "gone")
    done = terminal.run("models", "list", "--json")

    assert "gone, which is no folder" in json.loads(done.stdout)["warning"]
    assert "gone, which is no folder" in terminal.run("models", "list").stderr


def test_the_list_says_in_the_same_word_as_its_json_that_a_file_is_there(with_models: Terminal) -> None:
    lines = with_models.answer("models", "list").splitlines()

    assert {line.split()[-1] for line in lines if "coco" in line} == {"there"}
    states = {
        item["name"]: item["state"] for item in json.loads(with_models.answer("models", "list", "--json"))["items"]
    }
    assert states["ssd_mobilenet_v1_coco"] == "there"
    assert all(line == line.rstrip() for line in lines), "what goes into a file isn't filled up with blanks"


def test_nothing_to_pull_is_wrong_use(terminal: Terminal) -> None:
    done = terminal.run("models", "pull")

    assert done.returncode == 2
    assert "Name the models to pull, or give --all" in done.stderr


def test_a_model_of_the_user_s_own_is_added_and_tried(terminal: Terminal, entry: Path, images: Path) -> None:
    added = terminal.answer("models", "add", entry, "--file", EYES)
    answer = json.loads(terminal.answer("models", "try", "eyes", images / "face.jpg", "--json"))

    assert added == f"Added eyes: {Path(terminal.environment['XDG_DATA_HOME'])}/truthloop/models/eyes.model.json\n"
    assert answer["boxes"][0]["label"] == "eye"
    assert not terminal.home.exists()


def test_an_invalid_entry_names_the_field(terminal: Terminal, entry: Path) -> None:
    entry.write_text(entry.read_text().replace("opencv_cascade", "opencv_hog").replace('"grey"', '"pink"'))

    done = terminal.run("models", "add", entry, "--file", EYES, "--json")

    assert done.returncode == 2
    assert "input.colour" in json.loads(done.stderr)["errors"]


def test_an_unknown_model_gets_the_names_there_are(terminal: Terminal, images: Path) -> None:
    done = terminal.run("models", "try", "nope", images / "cow.jpg")

    assert done.returncode == 1
    assert "There is no model 'nope'. These there are: mobilenet_v2, " in done.stderr


def test_a_picture_is_not_written_over_the_image_that_is_tried(terminal: Terminal, tmp_path: Path) -> None:
    image = tmp_path / "q.png"
    Image.new("RGB", (64, 48), "white").save(image)
    before = image.read_bytes()

    done = terminal.run("models", "try", "opencv_faces", image, "--plot", image)

    assert (done.returncode, done.stdout) == (2, "")
    assert "--plot" in done.stderr
    assert image.read_bytes() == before


def test_an_image_that_can_t_be_tried_is_named(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no image")

    done = terminal.run("models", "try", "opencv_faces", tmp_path / "bad.jpg")

    assert done.returncode == 2
    assert f"Error: {tmp_path / 'bad.jpg'}: The file is no image." in done.stderr
