"""Models in ONNX files, run by ONNX Runtime on the CPU."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from truthloop.errors import ModelRefused
from truthloop.models.documents import CatalogueEntry
from truthloop.models.runtime import Input, Outputs, check_input, unreadable

# ONNX Runtime's levels are 0 to 4. On the level of warnings it names every initializer of older models.
_LOG_ERRORS = 3
# Its exceptions have no class in common.
_FAILURES = (
    states.EPFail,
    states.EngineError,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NoModel,
    states.NotImplemented,
    states.RuntimeException,
    RuntimeError,
    ValueError,
)
_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


class OnnxRuntime:
    """A model of ONNX Runtime."""

    def __init__(self, entry: CatalogueEntry, data: bytes, *, threads: int) -> None:
        self._entry = entry
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _LOG_ERRORS
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except _FAILURES as error:
            raise unreadable(entry, "ONNX Runtime", error) from error
        given = self._session.get_inputs()
        if len(given) != 1:
            raise ModelRefused(f"file: the model {entry.name} takes {len(given)} inputs; only one is possible.")
        self._input = given[0].name
        batch, *shape = given[0].shape
        check_input(
            entry,
            shape=[side if isinstance(side, int) else None for side in shape],
            dtype=_TYPES.get(given[0].type, given[0].type),
        )
        # A number is a batch that can't be changed, a name one of any size.
        if isinstance(batch, int) and batch != entry.input.batch:
            raise ModelRefused(
                f"input.batch: the model {entry.name} takes {batch} images at once, but its entry says "
                f"{entry.input.batch}. Correct the entry."
                if batch == 1
                else f"file: the model {entry.name} takes {batch} images at once, never fewer. Export it for one."
            )
        self.batch_size = entry.input.batch

    def run(self, inputs: Sequence[Input]) -> list[Outputs]:
        """See `Runtime.run`."""
        outputs: list[Outputs] = []
        for at in range(0, len(inputs), self.batch_size):
            outputs += self._run(inputs[at : at + self.batch_size])
        return outputs

    def _run(self, inputs: Sequence[Input]) -> list[Outputs]:
        try:
            given = self._session.run(None, {self._input: np.stack(inputs)})
        except _FAILURES as error:
            raise ModelRefused(
                f"The model {self._entry.name} can't be run on this input: {' '.join(str(error).split())[:300]}"
            ) from error
        arrays = [np.asarray(output, np.float32) for output in given]
        if any(array.ndim == 0 or len(array) != len(inputs) for array in arrays):
            raise ModelRefused(
                f"input.batch: the model {self._entry.name} mixes the images of a batch. Leave it out."
            )
        return [tuple(array[index] for array in arrays) for index in range(len(inputs))]
