"""Each model answers on real photographs what was seen when it was chosen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from truthloop.models.answer import answer_of
from truthloop.models.catalogue import Catalogue
from truthloop.models.documents import Boxes, ClassMap, Labels, Pixels, Prediction
from truthloop.models.load import load_model
from truthloop.settings import Settings

TOLERANCE = 0.03
SEEN = {
    "mobilenet_v2": ["cat_720p", "parrot", "hot_dog", "elephant", "burger", "grace_hopper"],
    "ssd_mobilenet_v1_coco": ["cow", "pets", "grace_hopper", "elephant", "cats_and_dogs"],
    "deeplab_v3": ["bird_segmentation", "segmentation_input_rotation0", "cat_720p", "cow"],
    "ultraface_rfb_320": ["face", "grace_hopper", "faces_1", "faces_11", "faces_17", "cat_720p"],
    "face_short_range": ["face", "grace_hopper", "faces_17", "cat_720p"],
    "selfie_segmentation": ["grace_hopper", "face", "table"],
}
LINES = [(model, f"{image}.jpg") for model, images in SEEN.items() for image in images]


@pytest.fixture
def manifest(shared_data: Path) -> dict[str, dict[str, Any]]:
    """What is known of each model, by its name."""
    text = (shared_data / "models" / "manifest.json").read_text(encoding="utf-8")
    return {entry["name"]: entry for entry in json.loads(text)}


def predict(settings: Settings, model: str, image: Pixels) -> Prediction:
    return load_model(settings, Catalogue.open(settings).entry(model), fetch=False).predict(image)


def test_every_line_of_the_manifest_is_tested(manifest: dict[str, dict[str, Any]]) -> None:
    assert {(name, image) for name, entry in manifest.items() for image in entry["seen"]} == set(LINES)


@pytest.mark.parametrize(("model", "image"), LINES)
def test_a_model_answers_what_was_seen(
    model: str,
    image: str,
    manifest: dict[str, dict[str, Any]],
    with_models: Settings,
    photograph: Callable[[str], Pixels],
) -> None:
    seen = manifest[model]["seen"][image]

    match predict(with_models, model, photograph(image)):
        case Labels(labels=labels):
            label, score = seen
            assert labels[0].label == label
            assert labels[0].score == pytest.approx(score, abs=TOLERANCE)
        case Boxes(boxes=boxes) if isinstance(seen, int):
            assert [box.label for box in boxes] == ["face"] * seen
        case Boxes(boxes=boxes):
            assert [box.label for box in boxes] == seen[0::2]
            assert [box.score for box in boxes] == pytest.approx(seen[1::2], abs=TOLERANCE)
        case ClassMap() as found:
            answer = answer_of(found, width=100, height=100).model_dump()
            fractions = {part["label"]: part["fraction"] for part in answer["classes"]}
            assert {label: fractions.get(label, 0.0) for label in seen} == pytest.approx(seen, abs=0.005)
            # What isn't named is next to nothing.
            assert sum(fractions.values()) == pytest.approx(sum(seen.values()), abs=0.01)


def test_the_catalogue_says_of_each_model_what_the_manifest_says(
    folders: Settings, manifest: dict[str, dict[str, Any]]
) -> None:
    for entry in Catalogue.open(folders).entries():
        if entry.runtime == "opencv":
            continue
        said = manifest[entry.name]
        assert entry.file is not None
        assert (entry.version, entry.task, entry.runtime, entry.licence) == (
            said["version"],
            said["task"],
            said["runtime"],
            said["licence"],
        )
        assert (entry.file.name, entry.file.bytes, entry.file.sha256) == (
            said["file"],
            said["bytes"],
            said["sha256"],
        )
        assert entry.file.url == said.get("url")
        assert f"{entry.file.wheel}, member {entry.file.member}" in said.get("wheel", "None, member None")


def test_the_class_map_is_the_golden_one(
    with_models: Settings, photograph: Callable[[str], Pixels], shared_data: Path
) -> None:
    golden = cv2.imread(
        str(shared_data / "data" / "images" / "segmentation_golden_rotation0.png"), cv2.IMREAD_UNCHANGED
    )
    assert golden is not None

    found = predict(with_models, "deeplab_v3", photograph("segmentation_input_rotation0.jpg"))

    assert isinstance(found, ClassMap)
    assert np.mean(found.classes == golden // 10) > 0.999


def test_boxes_lie_on_what_they_name(with_models: Settings, photograph: Callable[[str], Pixels]) -> None:
    image = photograph("grace_hopper.jpg")
    centres = []
    for model in ("ultraface_rfb_320", "face_short_range", "opencv_faces"):
        found = predict(with_models, model, image)
        assert isinstance(found, Boxes)
        (face,) = found.boxes
        centres.append(((face.left + face.right) / 2, (face.top + face.bottom) / 2))

    # Three detectors of different making, one of them letterboxed, mean the same face.
    assert np.ptp(np.array(centres), axis=0).max() < 0.06


def test_opencv_finds_faces_without_any_file(folders: Settings, photograph: Callable[[str], Pixels]) -> None:
    found = predict(folders, "opencv_faces", photograph("face.jpg"))

    assert isinstance(found, Boxes)
    assert [box.label for box in found.boxes] == ["face"] * 4
    assert all(0 < box.score < 1 for box in found.boxes)


def test_opencv_looks_for_people_without_any_file(folders: Settings, photograph: Callable[[str], Pixels]) -> None:
    found = predict(folders, "opencv_people", photograph("faces_11.jpg"))

    assert isinstance(found, Boxes)
    assert [box.label for box in found.boxes] == ["person"]


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (50, 50), (127, 63), (3000, 2)])
@pytest.mark.parametrize("model", [*SEEN, "opencv_faces", "opencv_people"])
def test_every_model_takes_images_of_any_size(model: str, size: tuple[int, int], with_models: Settings) -> None:
    image = np.random.default_rng(7).integers(0, 256, (*size, 3), np.uint8)

    assert isinstance(predict(with_models, model, image), Labels | Boxes | ClassMap)
