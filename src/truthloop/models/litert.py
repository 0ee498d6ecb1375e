"""Models of LiteRT, which was TensorFlow Lite."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from truthloop.errors import ModelRefused
from truthloop.models.documents import CatalogueEntry
from truthloop.models.runtime import Input, Outputs, check_input, unreadable

# What LiteRT writes to the standard error when it loads its first model.
_NOTICE = b"Created TensorFlow Lite XNNPACK delegate for CPU."
_notice = threading.Lock()
_noticed = False


class LiteRtRuntime:
    """A model of LiteRT, in an interpreter for one image and, where it can, another for a batch."""

    def __init__(self, entry: CatalogueEntry, data: bytes, *, threads: int) -> None:
        self._entry, self._data, self._threads = entry, data, threads
        self.batch_size = entry.input.batch
        try:
            with _without_notice():
                self._single = self._interpreter(1)
        except (ValueError, RuntimeError) as error:
            raise unreadable(entry, "LiteRT", error) from error
        self._batch = self._batch_interpreter() if self.batch_size > 1 else None

    def run(self, inputs: Sequence[Input]) -> list[Outputs]:
        """See `Runtime.run`. A rest that fills no batch goes image by image: changing a batch's size is dear."""
        outputs: list[Outputs] = []
        at = 0
        while at < len(inputs):
            if self._batch is not None and len(inputs) - at >= self.batch_size:
                outputs += self._run(self._batch, inputs[at : at + self.batch_size])
                at += self.batch_size
            else:
                outputs += self._run(self._single, inputs[at : at + 1])
                at += 1
        return outputs

    def _interpreter(self, size: int) -> Any:
        interpreter = Interpreter(model_content=self._data, num_threads=self._threads)
        given = interpreter.get_input_details()
        if len(given) != 1:
            raise ModelRefused(
                f"file: the model {self._entry.name} takes {len(given)} inputs; only one is possible."
            )
        check_input(
            self._entry, shape=[int(side) for side in given[0]["shape"][1:]], dtype=given[0]["dtype"].__name__
        )
        if size > 1:
            interpreter.resize_tensor_input(given[0]["index"], [size, *given[0]["shape"][1:]])
        interpreter.allocate_tensors()
        return interpreter

    def _batch_interpreter(self) -> Any:
        refusal = ModelRefused(
            f"input.batch: the model {self._entry.name} can't take {self.batch_size} images at once. Leave it out."
        )
        try:
            interpreter = self._interpreter(self.batch_size)
        except (ValueError, RuntimeError) as error:
            raise refusal from error
        # Not every model whose input can grow keeps the images of a batch apart in its outputs.
        shapes = [given["shape"] for given in interpreter.get_output_details()]
        if any(len(shape) < 2 or shape[0] != self.batch_size for shape in shapes):
            raise refusal
        return interpreter

    def _run(self, interpreter: Any, inputs: Sequence[Input]) -> list[Outputs]:
        given = interpreter.get_input_details()[0]
        try:
            interpreter.set_tensor(given["index"], np.stack(inputs))
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ModelRefused(
                f"The model {self._entry.name} can't be run on this input: {' '.join(str(error).split())[:300]}"
            ) from error
        outputs = [
            _meant(interpreter.get_tensor(details["index"]), details)
            for details in interpreter.get_output_details()
        ]
        if len(inputs) == 1:
            return [tuple(_alone(output) for output in outputs)]
        return [tuple(output[index] for output in outputs) for index in range(len(inputs))]


def _alone(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """An output of one image without the batch's axis; a count has no other."""
    return output[0] if output.ndim > 1 else output


def _meant(tensor: NDArray[Any], details: dict[str, Any]) -> NDArray[np.float32]:
    """The numbers that a tensor means: quantised ones are (number - zero point) * scale."""
    scale, zero = details["quantization"]
    if not np.issubdtype(tensor.dtype, np.integer) or not scale:
        return tensor.astype(np.float32)
    return (tensor.astype(np.float32) - np.float32(zero)) * np.float32(scale)


@contextmanager
def _without_notice() -> Iterator[None]:
    """Leaves one line out of the standard error: LiteRT's notice, which no setting of its own turns off.

    It is written by C once in a process. Whatever else is written meanwhile follows a moment later.
    """
    global _noticed
    with _notice:
        if _noticed:
            yield
            return
        _noticed = True
        try:
            sys.stderr.flush()
            real = os.dup(2)
        except (OSError, ValueError, AttributeError):  # there is no standard error
            yield
            return
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(real, 2)
                held.seek(0)
                for line in held:
                    if _NOTICE not in line:
                        os.write(real, line)
                os.close(real)
