"""The contract of the runtimes: a loaded model takes images' arrays and gives arrays back."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from truthloop.errors import ModelRefused
from truthloop.models.documents import CatalogueEntry

# One image as the model takes it, without an axis for the batch.
Input: TypeAlias = NDArray[Any]
# All that the model gives for one image, in the model's own order, each without an axis for the batch.
Outputs: TypeAlias = tuple[NDArray[np.float32], ...]


class Runtime(Protocol):
    """A loaded model. One thread at a time may use it.

    `RuntimeContract` in tests/models/test_runtimes.py is this contract as tests, which each runtime passes.
    """

    @property
    def batch_size(self) -> int:
        """The largest number of images worth giving at once; 1 where the model takes one at a time."""
        ...

    def run(self, inputs: Sequence[Input]) -> list[Outputs]:
        """The model's outputs for each input, in the order of the inputs.

        Args:
            inputs: any number, also none or more than `batch_size`. They aren't changed.

        Returns:
            For each input its outputs, as numbers that the model means: quantised ones are dequantised. They
            stay as they are when the model runs again.

        Raises:
            ModelRefused: the runtime can't run the model on an input of this shape and type.
        """
        ...


def check_input(entry: CatalogueEntry, *, shape: Sequence[int | None], dtype: str) -> None:
    """Compares a model's own input with what its entry says of it.

    Args:
        entry: the model.
        shape: of one image, without the batch; None for a side that may have any length.
        dtype: NumPy's name of its type.

    Raises:
        ModelRefused: they differ; the text names the field.
    """
    said = entry.input.shape or ()
    if len(said) != len(shape) or any(
        side not in (None, wanted) for side, wanted in zip(shape, said, strict=True)
    ):
        raise ModelRefused(
            f"input: the model {entry.name} takes images of shape {_text(shape)}, but its entry says "
            f"{_text(said)} by width, height, colour and layout. Correct the entry."
        )
    if dtype != entry.input.dtype:
        raise ModelRefused(
            f"input.dtype: the model {entry.name} takes {dtype}, but its entry says {entry.input.dtype}. "
            "Correct the entry."
        )


def unreadable(entry: CatalogueEntry, runtime: str, error: Exception) -> ModelRefused:
    """The error for a file that a runtime can't load."""
    said = " ".join(str(error).split())[:300]
    return ModelRefused(f"file: {runtime} can't load the model {entry.name} ({said}). Give it a file of its kind.")


def _text(shape: Sequence[int | None]) -> str:
    return "×".join("any" if side is None else str(side) for side in shape)
