"""From an image's pixels to a model's input. Pure."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from truthloop.models.documents import ImageInput, Pixels
from truthloop.models.runtime import Input

_INTERPOLATIONS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An image as a model takes it.

    `array` is the input without an axis for the batch. `inside` is where the image lies in it: left, top, right,
    bottom in fractions of the input; all of it unless the image was letterboxed.
    """

    array: Input
    inside: tuple[float, float, float, float]


def prepare(image: Pixels, said: ImageInput) -> Prepared:
    """Resizes and normalises an image as a model's entry says.

    Args:
        image: shape (height, width, 3), RGB, upright.
        said: the entry's input.

    Returns:
        The input of the model. Where it is bytes without any change, it may be the image itself.
    """
    inside = (0.0, 0.0, 1.0, 1.0)
    high, wide = image.shape[:2]
    if said.width is None or said.height is None:
        assert said.max_side is not None
        shrink = min(1.0, said.max_side / max(high, wide))
        pixels = _resized(image, max(1, round(wide * shrink)), max(1, round(high * shrink)), said)
    elif said.fit == "stretch":
        pixels = _resized(image, said.width, said.height, said)
    else:
        pixels, inside = _letterboxed(image, said.width, said.height, said)
    return Prepared(array=_normalised(pixels, said), inside=inside)


def _resized(image: Pixels, wide: int, high: int, said: ImageInput) -> Pixels:
    if image.shape[:2] == (high, wide):
        return image
    return np.asarray(cv2.resize(image, (wide, high), interpolation=_INTERPOLATIONS[said.resize]), np.uint8)


def _letterboxed(
    image: Pixels, wide: int, high: int, said: ImageInput
) -> tuple[Pixels, tuple[float, float, float, float]]:
    scale = min(wide / image.shape[1], high / image.shape[0])
    width = max(1, round(image.shape[1] * scale))
    height = max(1, round(image.shape[0] * scale))
    left, top = (wide - width) // 2, (high - height) // 2
    pixels = np.zeros((high, wide, 3), np.uint8)
    pixels[top : top + height, left : left + width] = _resized(image, width, height, said)
    return pixels, (left / wide, top / high, (left + width) / wide, (top + height) / high)


def _normalised(pixels: Pixels, said: ImageInput) -> Input:
    array: NDArray[np.uint8] | NDArray[np.float32] = pixels
    if said.colour == "grey":
        array = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    elif said.colour == "bgr":
        array = pixels[:, :, ::-1]
    if said.dtype == "float32":
        mean, divisor = np.array(said.mean, np.float32), np.array(said.divisor, np.float32)
        array = np.asarray((array.astype(np.float32) - mean) / divisor, np.float32)
    if said.shape is not None:  # OpenCV's own models take a grey image without an axis for the channel
        array = array.reshape(*array.shape[:2], said.channels)
        if said.layout == "nchw":
            array = array.transpose(2, 0, 1)
    return np.ascontiguousarray(array)
