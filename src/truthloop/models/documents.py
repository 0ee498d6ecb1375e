"""What a model is and what it answers: a catalogue entry is data, not code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from truthloop.answers import Answer

Task: TypeAlias = Literal["classification", "detection", "segmentation"]
RuntimeName: TypeAlias = Literal["litert", "onnx", "opencv"]

# An image as models take it: shape (height, width, 3), RGB, upright.
Pixels: TypeAlias = NDArray[np.uint8]


class Label(Answer):
    """A class of a whole image."""

    label: str = Field(description="The class, as the model's labels name it.", examples=["Egyptian cat"])
    score: float = Field(ge=0, le=1, description="How sure the model is.", examples=[0.84])


class ScoredBox(Answer):
    """A box that a detector predicts: fractions of the upright image, within it."""

    label: str = Field(description="The class of what is in the box.", examples=["face"])
    score: float = Field(ge=0, le=1, description="How sure the model is.", examples=[0.93])
    left: float = Field(ge=0, le=1, description="Fraction of the width.", examples=[0.31])
    top: float = Field(ge=0, le=1, description="Fraction of the height, downwards.", examples=[0.12])
    right: float = Field(ge=0, le=1, description="Fraction of the width.", examples=[0.52])
    bottom: float = Field(ge=0, le=1, description="Fraction of the height, downwards.", examples=[0.48])


class Labels(Answer):
    """What a classifier answers: the best labels first."""

    labels: list[Label]


class Boxes(Answer):
    """What a detector answers: the surest boxes first."""

    boxes: list[ScoredBox]


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """What a segmentation model answers: a class for each cell of a grid over the upright image.

    `classes` has shape (rows, columns), 0 is background; `scores`, of the same shape and in [0, 1], says how sure
    the model is of that class there. `labels` names classes 1, 2, ... (`labels[0]` is class 1).
    """

    classes: NDArray[np.uint8]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]


Prediction: TypeAlias = Labels | Boxes | ClassMap


class ModelFile(BaseModel):
    """One file of a model and where it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The file's name in a models folder.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int | None = Field(default=None, ge=1)
    url: str | None = Field(default=None, description="A pinned address.")
    wheel: str | None = Field(default=None, description="A package of PyPI with its version, `name==version`.")
    member: str | None = Field(default=None, description="The file's path within the wheel.")


class CatalogueEntry(BaseModel):
    """A model: what it answers, which runtime runs which file, and how its input is made and its output read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    version: str = Field(min_length=1, max_length=64)
    task: Task
    runtime: RuntimeName
    file: ModelFile | None = Field(default=None, description="None where the runtime carries the model itself.")
    labels_file: ModelFile | None = None
    labels: tuple[str, ...] = Field(default=(), description="The classes, where no file lists them.")
    licence: str
    source: str = Field(default="", description="The project that it comes from.")
    decoder: Literal[
        "classification",
        "ssd_postprocessed",
        "ssd_anchors",
        "ultraface",
        "class_map",
        "foreground_mask",
        "opencv_cascade",
        "opencv_hog",
    ]
    input: Mapping[str, Any] = Field(default_factory=dict, description="How pixels become the model's input.")
    output: Mapping[str, Any] = Field(default_factory=dict, description="Thresholds and the like of the decoder.")
