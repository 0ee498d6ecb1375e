"""From pixels to a model's input."""

from typing import Any

import numpy as np
import pytest

from truthloop.models.documents import ImageInput, Pixels
from truthloop.models.prepare import prepare

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def image(high: int, wide: int, colour: tuple[int, int, int] = RED) -> Pixels:
    return np.full((high, wide, 3), colour, np.uint8)


def said(**fields: Any) -> ImageInput:
    return ImageInput.model_validate({"width": 8, "height": 4, **fields})


def test_bytes_stay_bytes_of_the_model_s_size() -> None:
    made = prepare(image(20, 10), said(dtype="uint8"))

    assert (made.array.shape, made.array.dtype, made.inside) == ((4, 8, 3), np.uint8, (0.0, 0.0, 1.0, 1.0))
    assert (made.array == RED).all()


def test_numbers_are_pixel_minus_mean_by_divisor() -> None:
    made = prepare(image(4, 8, (255, 0, 51)), said(mean=[127.5, 0, 1], divisor=[127.5, 1, 50]))

    assert made.array.dtype == np.float32
    assert made.array[0, 0].tolist() == [1.0, 0.0, 1.0]


def test_channels_can_come_first() -> None:
    made = prepare(image(4, 8, BLUE), said(layout="nchw"))

    assert made.array.shape == (3, 4, 8)
    assert made.array[:, 0, 0].tolist() == [0.0, 0.0, 255.0]
    assert made.array.flags.c_contiguous


def test_colours_can_be_turned_or_taken_out() -> None:
    assert prepare(image(4, 8, BLUE), said(colour="bgr")).array[0, 0].tolist() == [255.0, 0.0, 0.0]
    assert prepare(image(4, 8, GREEN), said(colour="grey")).array.shape == (4, 8, 1)


def test_a_letterbox_keeps_proportions_and_says_where_the_image_is() -> None:
    made = prepare(image(100, 100), said(fit="letterbox", dtype="uint8"))

    assert made.inside == (0.25, 0.0, 0.75, 1.0)
    assert (made.array[:, 2:6] == RED).all()
    assert (made.array[:, [0, 1, 6, 7]] == 0).all()


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_the_thinnest_image_is_still_in_its_letterbox(size: tuple[int, int]) -> None:
    made = prepare(image(*size), said(fit="letterbox", dtype="uint8"))

    assert (made.array == RED).all(axis=2).any()


def test_only_images_that_are_too_large_are_made_smaller_for_opencv() -> None:
    any_size = ImageInput(max_side=64, colour="grey", dtype="uint8")

    assert prepare(image(640, 320), any_size).array.shape == (64, 32)
    assert prepare(image(30, 20), any_size).array.shape == (30, 20)
