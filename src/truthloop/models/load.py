"""Loading a model, and running it on images."""

import os
from collections.abc import Mapping, Sequence

from truthloop.errors import ModelRefused
from truthloop.models.decode import decode
from truthloop.models.documents import CatalogueEntry, Pixels, Prediction
from truthloop.models.fetch import Progress, quiet
from truthloop.models.files import read_file
from truthloop.models.prepare import Prepared, prepare
from truthloop.models.runtime import Runtime
from truthloop.settings import Settings


class Model:
    """A loaded model. `prepare` may be called on any thread, `run` and `predict` on one at a time."""

    def __init__(self, entry: CatalogueEntry, labels: Sequence[str], runtime: Runtime) -> None:
        self.entry = entry
        self._labels = tuple(labels)
        self._runtime = runtime

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of its file; None where the runtime carries the model itself."""
        return self.entry.file.sha256 if self.entry.file is not None else None

    @property
    def batch_size(self) -> int:
        """The largest number of images worth giving to `run` at once; 1 where the model takes one at a time."""
        return self._runtime.batch_size

    def prepare(self, image: Pixels) -> Prepared:
        """An image as the model takes it: shape (height, width, 3), RGB, upright."""
        return prepare(image, self.entry.input)

    def run(self, batch: Sequence[Prepared]) -> list[Prediction]:
        """What the model says of each image, in their order.

        Raises:
            ModelRefused: its outputs aren't what its entry says.
        """
        outputs = self._runtime.run([prepared.array for prepared in batch])
        return [
            decode(self.entry, self._labels, given, prepared)
            for given, prepared in zip(outputs, batch, strict=True)
        ]

    def predict(self, image: Pixels) -> Prediction:
        """What the model says of one image."""
        return self.run([self.prepare(image)])[0]


def load_model(
    settings: Settings,
    entry: CatalogueEntry,
    *,
    fetch: bool,
    threads: int | None = None,
    progress: Progress = quiet,
) -> Model:
    """Finds a model's files, verifies them and loads the model.

    Args:
        settings: of this process.
        entry: the model.
        fetch: whether files that aren't there may be fetched.
        threads: how many the model may use; by default all that the process may.
        progress: called with the bytes fetched so far and their number, where it is known.

    Raises:
        ModelUnavailable: a file isn't there, and can't or mustn't be fetched.
        ModelRefused: a file is a wrong one, or isn't what the entry says.
        FileRefused: a file can't be read.
    """
    contents = {
        file.name: read_file(settings, entry, file, fetch=fetch, progress=progress) for file in entry.files
    }
    return assemble(entry, contents, threads=threads)


def assemble(entry: CatalogueEntry, contents: Mapping[str, bytes], *, threads: int | None = None) -> Model:
    """Makes a model of the verified contents of all its files, each under its name.

    Raises:
        ModelRefused: a file isn't what the entry says.
    """
    labels = entry.labels
    if entry.labels_file is not None:
        labels = _labels(entry, contents[entry.labels_file.name])
    data = contents[entry.file.name] if entry.file is not None else None
    return Model(entry, labels, open_runtime(entry, data, threads=threads))


def open_runtime(entry: CatalogueEntry, data: bytes | None, *, threads: int | None = None) -> Runtime:
    """Loads a model into the runtime that its entry names.

    Args:
        entry: the model.
        data: the verified bytes of its file; None where the runtime carries the model itself.
        threads: how many the model may use; by default all that the process may.

    Raises:
        ModelRefused: the runtime can't read the file, or its input isn't what the entry says.
    """
    threads = threads or available_threads()
    match entry.runtime:
        case "litert":
            from truthloop.models.litert import LiteRtRuntime

            return LiteRtRuntime(entry, _some(data), threads=threads)
        case "onnx":
            from truthloop.models.onnx import OnnxRuntime

            return OnnxRuntime(entry, _some(data), threads=threads)
        case "opencv":
            from truthloop.models.opencv import open_opencv

            return open_opencv(entry, data, threads=threads)


def _labels(entry: CatalogueEntry, data: bytes) -> tuple[str, ...]:
    """The lines of a file of labels, in the model's order."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ModelRefused(f"labels_file: the labels of {entry.name} aren't UTF-8 ({error.reason}).") from error
    return tuple(line.strip() for line in lines)


def _some(data: bytes | None) -> bytes:
    assert data is not None  # the entry has a file, since only OpenCV's own may have none
    return data


def available_threads() -> int:
    """How many threads this process may use at once."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
