"""Predictions drawn on their images."""

import io

import numpy as np
import pytest
from PIL import Image

from truthloop.models.documents import Boxes, ClassMap, Label, Labels, Pixels, Prediction, ScoredBox
from truthloop.models.plot import COLOURS, CROWD, MAX_SIDE, MIN_SIDE, MIN_WIDTH, draw

GREY: Pixels = np.full((480, 960, 3), 128, np.uint8)
BOX = ScoredBox(label="cat", score=0.5, left=0.25, top=0.25, right=0.75, bottom=0.75)
CLASS_MAP = ClassMap(
    classes=np.array([[0, 1], [0, 2]], np.uint8), scores=np.ones((2, 2), np.float32), labels=("cat", "dog")
)
PREDICTIONS = {
    "labels": Labels(
        labels=[Label(label="cat, or what else purrs " * 9, score=0.9), Label(label="dog", score=0.1)]
    ),
    "boxes": Boxes(boxes=[BOX, BOX.model_copy(update={"label": "hund ü 犬", "left": 0.0, "top": 0.0})]),
    "crowd": Boxes(boxes=[BOX] * (CROWD + 1)),
    "classes": CLASS_MAP,
    "no labels": Labels(labels=[]),
    "no boxes": Boxes(boxes=[]),
    "no classes": ClassMap(np.zeros((3, 3), np.uint8), np.ones((3, 3), np.float32), ("cat",)),
}


def picture(image: Pixels, prediction: Prediction) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(draw(image, prediction))).convert("RGB")).astype(int)


def rgb(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


@pytest.mark.parametrize("size", [(1, 1), (32, 24), (1, 3000), (3000, 1), (900, 1200), (2400, 3200)])
@pytest.mark.parametrize("name", PREDICTIONS)
def test_any_image_gets_a_legible_size(name: str, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 128, np.uint8)

    drawn = picture(image, PREDICTIONS[name])

    assert drawn.shape[1] >= MIN_WIDTH
    assert max(drawn.shape[:2]) >= MIN_SIDE
    assert drawn.shape[1] <= MAX_SIDE
    # A legend stands below.
    assert (drawn[-2] == 255).all()


def test_a_box_s_sides_are_where_it_is() -> None:
    drawn = picture(GREY, Boxes(boxes=[BOX]))

    colour = rgb(COLOURS[0])
    assert drawn[240, 240].tolist() == colour  # left side, half way down
    assert drawn[240, 719].tolist() == colour
    assert drawn[359, 480].tolist() == colour
    assert drawn[240, 480].tolist() == [128, 128, 128]  # within, nothing is hidden


def test_a_class_is_tinted_where_it_is_and_the_rest_is_not() -> None:
    drawn = picture(GREY, CLASS_MAP)

    assert len(set(drawn[240, 100])) == 1  # grey, though darker
    for at, colour in ((120, COLOURS[0]), (360, COLOURS[1])):
        assert drawn[at, 840].tolist() == pytest.approx([(128 + part) / 2 for part in rgb(colour)], abs=1)


def test_the_image_itself_is_not_changed() -> None:
    image = GREY.copy()

    for prediction in PREDICTIONS.values():
        draw(image, prediction)

    assert np.array_equal(image, GREY)
