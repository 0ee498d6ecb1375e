"""The images that a simulated client sends: drawn ones, or the files of a folder."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from truthloop.errors import FileRefused

# By their names alone: what is in them, the service says.
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Enough for them to differ, few enough that the workspace doesn't fill with made-up images.
DRAWN = 24
_SIZES = ((160, 120), (240, 320), (320, 320), (640, 480))  # width and height in pixels
_FACES = 3  # the most in one drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image file."""

    name: str
    data: bytes
    path: Path | None = None  # of the file that it is; None of a drawing


class Pictures(Protocol):
    """Images by their number, from 0."""

    def __len__(self) -> int:
        """How many there are, at least one."""

    def __getitem__(self, number: int, /) -> Picture:
        """One of them."""


class FolderPictures:
    """The image files of a folder and the folders in it; each is read when it is sent.

    Raises:
        FileRefused: there is no such folder, or no image in it.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileRefused(f"There is no folder {folder}. Name one with images, or leave out --images.")
        self._paths: Sequence[Path] = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
        )
        if not self._paths:
            raise FileRefused(f"{folder} holds no image ({', '.join(ENDINGS)}). Name another folder.")

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int, /) -> Picture:
        path = self._paths[number]
        try:
            return Picture(name=path.name, data=path.read_bytes(), path=path)
        except OSError as error:
            raise FileRefused(f"{path} can't be read: {error.strerror}. Make it readable, or remove it.") from None


class DrawnPictures:
    """Drawings of several sizes, half of them JPEG and half PNG; the same for the same seed.

    Each is a sky and a ground with faces, balls and boxes, so that a detector has something to look at. They are
    few and go round, since the workspace keeps every image that it is sent.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __len__(self) -> int:
        return DRAWN

    def __getitem__(self, number: int, /) -> Picture:
        return self._all[number]

    @cached_property
    def _all(self) -> list[Picture]:
        return [_drawn(random.Random(f"{self._seed}:{number}"), number) for number in range(DRAWN)]


def _drawn(chance: random.Random, number: int) -> Picture:
    import cv2
    import numpy as np

    width, height = _SIZES[number // 2 % len(_SIZES)]
    # From light above to dark below, with grain, as photographs have.
    light = np.linspace(chance.randint(150, 230), chance.randint(60, 130), height)[:, None, None]
    tint = np.array([chance.uniform(0.8, 1.0) for _ in range(3)])
    grain = np.random.default_rng(chance.randrange(2**32)).normal(0, 4, (height, width, 3))
    image = np.clip(light * tint + grain, 0, 255).astype(np.uint8)
    for _ in range(chance.randint(1, 4)):
        left, top = chance.randrange(width), chance.randrange(height)
        size = chance.randint(10, 60)
        colour = tuple(chance.randint(0, 255) for _ in range(3))
        if chance.random() < 0.5:
            cv2.circle(image, (left, top), size // 2, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (left, top), (left + size, top + size // 2), colour, -1)
    for _ in range(chance.randint(0, _FACES)):
        half = chance.randint(height // 10, height // 5)
        centre = chance.randint(half, width - half), chance.randint(half, height - half)
        _draw_face(image, centre, half, chance)
    ending = ".jpg" if number % 2 == 0 else ".png"
    _, data = cv2.imencode(ending, image)
    return Picture(name=f"drawn-{number:02}{ending}", data=data.tobytes())


def _draw_face(image: "object", centre: tuple[int, int], half: int, chance: random.Random) -> None:
    """Light and dark as Haar features look for them: eyes darker than cheeks, the bridge of the nose lighter."""
    import cv2

    x, y = centre
    skin = (chance.randint(120, 170), chance.randint(150, 195), chance.randint(190, 230))
    dark = tuple(value // 4 for value in skin)

    def ellipse(dx: float, dy: float, width: float, height: float, colour: tuple[int, ...]) -> None:
        place = (round(x + dx * half), round(y + dy * half))
        axes = (max(1, round(width * half)), max(1, round(height * half)))
        cv2.ellipse(image, place, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)  # type: ignore[call-overload]

    ellipse(0, -0.25, 0.85, 0.9, dark)  # hair
    ellipse(0, 0, 0.75, 0.95, skin)
    for side in (-1, 1):
        ellipse(side * 0.32, -0.2, 0.2, 0.09, dark)
        ellipse(side * 0.32, -0.38, 0.24, 0.05, dark)
    ellipse(0, 0.12, 0.08, 0.22, tuple(min(255, value + 20) for value in skin))
    ellipse(0, 0.5, 0.3, 0.08, tuple(value // 2 for value in skin))
