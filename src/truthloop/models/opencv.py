"""The detectors that OpenCV runs and carries itself: cascades, and its people by oriented gradients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from truthloop.errors import ModelRefused
from truthloop.models.documents import CatalogueEntry, OpencvCascadeOutput, OpencvHogOutput
from truthloop.models.runtime import Input, Outputs, Runtime, unreadable

_FACES = "haarcascade_frontalface_default.xml"
# The window of OpenCV's own classifier for people. A smaller image crashes the whole process.
_PERSON_WIDTH, _PERSON_HEIGHT = 64, 128


def open_opencv(entry: CatalogueEntry, data: bytes | None, *, threads: int) -> Runtime:
    """A detector of OpenCV; without a file it is the one that OpenCV carries.

    Raises:
        ModelRefused: OpenCV can't read the file.
    """
    match entry.output:
        case OpencvHogOutput() as said:
            return _Hog(entry, said, threads=threads)
        case OpencvCascadeOutput() as said:
            return _Cascade(entry, said, data, threads=threads)
        case _:
            raise ModelRefused(f"output.decoder: the runtime opencv has no {entry.decoder}.")


class _Opencv:
    """What both have in common: one image at a time, and boxes in pixels of the input with their weights.

    The outputs of an image are boxes, shape (N, 4) as left, top, right, bottom, and weights, shape (N,), the
    greatest first: how far each is on the right side of the classifier's threshold, in the classifier's own unit.
    """

    batch_size = 1

    def __init__(self, entry: CatalogueEntry, *, threads: int) -> None:
        self._entry, self._threads = entry, threads

    def run(self, inputs: Sequence[Input]) -> list[Outputs]:
        """See `Runtime.run`."""
        before = cv2.getNumThreads()
        cv2.setNumThreads(self._threads)  # of the process, so it is set back
        try:
            return [self._outputs(given) for given in inputs]
        except cv2.error as error:
            raise ModelRefused(
                f"The model {self._entry.name} can't be run on this input: {' '.join(str(error).split())[:300]}"
            ) from error
        finally:
            cv2.setNumThreads(before)

    def _outputs(self, given: Input) -> Outputs:
        channels = self._entry.input.channels
        if given.dtype != np.uint8 or given.shape[2:] != (() if channels == 1 else (channels,)) or not given.size:
            raise ModelRefused(
                f"The model {self._entry.name} takes bytes with {channels} to a pixel, not {given.dtype} of shape "
                f"{given.shape}."
            )
        boxes, weights = self._detect(given)
        array = np.asarray(boxes, np.float32).reshape(-1, 4)
        array[:, 2:] += array[:, :2]  # from left, top, width, height
        weighed = np.asarray(weights, np.float32).reshape(-1)
        # OpenCV's own order depends on which of its threads is done first.
        order = np.lexsort((*array.T, -weighed))
        return array[order], weighed[order]

    def _detect(self, given: Input) -> tuple[Any, Any]:
        raise NotImplementedError


class _Cascade(_Opencv):
    def __init__(
        self, entry: CatalogueEntry, said: OpencvCascadeOutput, data: bytes | None, *, threads: int
    ) -> None:
        super().__init__(entry, threads=threads)
        self._said = said
        if data is None:
            data = (Path(cv2.__file__).parent / "data" / _FACES).read_bytes()
        self._classifier = cv2.CascadeClassifier()
        try:
            text = data.decode("utf-8")
            storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
            is_read = self._classifier.read(storage.getFirstTopLevelNode())
        except (UnicodeDecodeError, cv2.error, SystemError) as error:
            raise unreadable(entry, "OpenCV", error) from error
        if not is_read or self._classifier.empty():
            raise unreadable(entry, "OpenCV", ValueError("it holds no cascade"))

    def _detect(self, given: Input) -> tuple[Any, Any]:
        wide, high = self._classifier.getOriginalWindowSize()
        boxes, _, weights = self._classifier.detectMultiScale3(
            _at_least(given, wide, high),
            scaleFactor=self._said.scale_factor,
            minNeighbors=self._said.min_neighbours,
            minSize=(self._said.min_side, self._said.min_side),
            outputRejectLevels=True,
        )
        return boxes, weights


class _Hog(_Opencv):
    def __init__(self, entry: CatalogueEntry, said: OpencvHogOutput, *, threads: int) -> None:
        super().__init__(entry, threads=threads)
        self._said = said
        self._detector = cv2.HOGDescriptor()
        self._detector.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))

    def _detect(self, given: Input) -> tuple[Any, Any]:
        stride = (self._said.stride, self._said.stride)
        return self._detector.detectMultiScale(
            _at_least(given, _PERSON_WIDTH, _PERSON_HEIGHT),
            winStride=stride,
            padding=(8, 8),
            scale=self._said.scale_factor,
        )


def _at_least(given: Input, wide: int, high: int) -> Input:
    """The image with black to its right and below, where it is smaller than a window."""
    down, across = max(0, high - given.shape[0]), max(0, wide - given.shape[1])
    if not (down or across):
        return np.ascontiguousarray(given)
    return np.pad(given, ((0, down), (0, across), *(((0, 0),) if given.ndim == 3 else ())))
