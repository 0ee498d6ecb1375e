"""What a model is and what it answers: a catalogue entry is data, not code."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from truthloop.answers import Answer

Task: TypeAlias = Literal["classification", "detection", "segmentation"]
RuntimeName: TypeAlias = Literal["litert", "onnx", "opencv"]

# An image as models take it: shape (height, width, 3), RGB, upright.
Pixels: TypeAlias = NDArray[np.uint8]

# A class map has a byte for each cell.
MAX_CLASSES = 255


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


class _Part(BaseModel):
    """A part of a catalogue entry: a field that it doesn't have is a mistake of who wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFile(_Part):
    """One file of a model and where it comes from."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}$", description="The file's name in a models folder."
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int | None = Field(default=None, ge=1)
    url: str | None = Field(default=None, pattern=r"^https?://\S+$", description="A pinned address.")
    wheel: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*$",
        description="A package of PyPI with its version, `name==version`.",
    )
    member: str | None = Field(default=None, description="The file's path within the wheel.")

    @model_validator(mode="after")
    def _wheel_and_member(self) -> Self:
        if (self.wheel is None) != (self.member is None):
            raise ValueError("wheel and member belong together: give both or neither")
        if self.member is not None:
            path = PurePosixPath(self.member)
            if path.is_absolute() or ".." in path.parts or "\\" in self.member or "\x00" in self.member:
                raise ValueError("member must be a path within the wheel, without ..")
        return self


class ImageInput(_Part):
    """How pixels become a model's input.

    The image gets the model's width and height, or where it takes images of any size, is made no larger than
    `max_side`. A number of the input is then (pixel - mean) / divisor.
    """

    width: int | None = Field(default=None, ge=1, le=8192)
    height: int | None = Field(default=None, ge=1, le=8192)
    max_side: int | None = Field(default=None, ge=16, le=8192, description="The longer side, for OpenCV's models.")
    fit: Literal["stretch", "letterbox"] = Field(
        default="stretch", description="Letterbox keeps the proportions and fills the rest with black."
    )
    resize: Literal["area", "linear"] = Field(
        default="area", description="As OpenCV's interpolations; the one that the model was made or tuned with."
    )
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    layout: Literal["nhwc", "nchw"] = "nhwc"
    dtype: Literal["uint8", "float32"] = "float32"
    mean: tuple[float, ...] = Field(default=(0.0,), description="One number, or one for each channel.")
    divisor: tuple[float, ...] = Field(default=(1.0,), description="One number, or one for each channel.")
    batch: int = Field(
        default=1, ge=1, le=256, description="The largest batch worth giving, where the model's input can grow."
    )

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("width and height belong together: give both or neither")
        if (self.width is None) == (self.max_side is None):
            raise ValueError("give width and height, or max_side for a model that takes images of any size")
        for name in ("mean", "divisor"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(f"{name} must have 1 number or {self.channels}, one for each channel")
        if 0.0 in self.divisor:
            raise ValueError("divisor must not be 0")
        return self

    @property
    def channels(self) -> int:
        """How many numbers a pixel has."""
        return 1 if self.colour == "grey" else 3

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Of one image in the model's layout; None where it takes images of any size."""
        if self.width is None or self.height is None:
            return None
        if self.layout == "nchw":
            return self.channels, self.height, self.width
        return self.height, self.width, self.channels


Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ClassificationOutput(_Part):
    """One row of scores, one for each label."""

    decoder: Literal["classification"]
    top: int = Field(default=5, ge=1, le=1000, description="How many labels are answered.")
    min_score: Score = Field(default=0.0, description="Labels below it aren't answered.")
    activation: Literal["none", "softmax"] = Field(default="none", description="Softmax where it gives logits.")
    background: int | None = Field(default=None, ge=0, description="The class that is no answer, if there is one.")


class SsdPostprocessedOutput(_Part):
    """Boxes, classes, scores and their count, from a model that suppresses overlapping boxes itself."""

    decoder: Literal["ssd_postprocessed"]
    threshold: Score = 0.5
    order: tuple[Literal["boxes", "classes", "scores", "count"], ...] = ("boxes", "classes", "scores", "count")
    first_class: int = Field(default=0, ge=0, description="The number of the first label.")


class AnchorGrid(_Part):
    """A square grid of anchors, so many centred in each cell."""

    cells: int = Field(ge=1, le=512, description="Cells along a side.")
    each: int = Field(ge=1, le=64, description="Anchors in a cell.")


class SsdAnchorsOutput(_Part):
    """One class; boxes in pixels of the input, relative to the centres of anchors, and logits (as BlazeFace)."""

    decoder: Literal["ssd_anchors"]
    anchors: tuple[AnchorGrid, ...] = Field(min_length=1)
    threshold: Score = 0.5
    max_iou: Score = Field(default=0.3, description="Of two boxes that overlap more, only the surer is answered.")
    order: tuple[Literal["boxes", "scores"], ...] = ("boxes", "scores")


class UltrafaceOutput(_Part):
    """Scores of background and one class, and boxes as left, top, right, bottom in fractions."""

    decoder: Literal["ultraface"]
    threshold: Score = 0.7
    max_iou: Score = Field(default=0.35, description="Of two boxes that overlap more, only the surer is answered.")
    order: tuple[Literal["boxes", "scores"], ...] = ("scores", "boxes")


class ClassMapOutput(_Part):
    """A score of each class for each cell, in the input's layout; class 0 is background."""

    decoder: Literal["class_map"]
    activation: Literal["none", "softmax"] = Field(default="softmax", description="Softmax where it gives logits.")


class ForegroundMaskOutput(_Part):
    """How likely each cell is foreground."""

    decoder: Literal["foreground_mask"]
    threshold: Score = Field(default=0.5, description="Cells above it are foreground.")


class OpencvCascadeOutput(_Part):
    """OpenCV's cascade of boosted classifiers (Viola and Jones), over windows of all sizes."""

    decoder: Literal["opencv_cascade"]
    scale_factor: float = Field(default=1.1, gt=1, le=2, description="From one window's size to the next.")
    min_neighbours: int = Field(default=5, ge=0, le=100, description="How many windows must agree on a box.")
    min_side: int = Field(default=24, ge=8, le=4096, description="The smallest window, in pixels of the input.")
    threshold: Score = 0.0


class OpencvHogOutput(_Part):
    """OpenCV's histograms of oriented gradients with its linear classifier for people (Dalal and Triggs)."""

    decoder: Literal["opencv_hog"]
    scale_factor: float = Field(default=1.05, gt=1, le=2, description="From one window's size to the next.")
    stride: int = Field(default=8, ge=4, le=64, multiple_of=4, description="Between windows, in pixels.")
    threshold: Score = 0.5
    max_iou: Score = Field(default=0.45, description="Of two boxes that overlap more, only the surer is answered.")


Output: TypeAlias = Annotated[
    ClassificationOutput
    | SsdPostprocessedOutput
    | SsdAnchorsOutput
    | UltrafaceOutput
    | ClassMapOutput
    | ForegroundMaskOutput
    | OpencvCascadeOutput
    | OpencvHogOutput,
    Field(discriminator="decoder"),
]

# What each decoder answers, and the runtimes whose outputs it can read.
_TASKS: dict[str, Task] = {
    "classification": "classification",
    "ssd_postprocessed": "detection",
    "ssd_anchors": "detection",
    "ultraface": "detection",
    "class_map": "segmentation",
    "foreground_mask": "segmentation",
    "opencv_cascade": "detection",
    "opencv_hog": "detection",
}
_ONE_CLASS = ("ssd_anchors", "ultraface", "foreground_mask", "opencv_cascade", "opencv_hog")


class CatalogueEntry(_Part):
    """A model: what it answers, which runtime runs which file, and how its input is made and its output read."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    version: str = Field(min_length=1, max_length=64)
    task: Task
    runtime: RuntimeName
    file: ModelFile | None = Field(default=None, description="None where the runtime carries the model itself.")
    labels_file: ModelFile | None = Field(default=None, description="One label a line.")
    labels: tuple[str, ...] = Field(default=(), description="The classes, where no file lists them.")
    licence: str = Field(min_length=1, description="An SPDX name, such as `Apache-2.0`.")
    source: str = Field(default="", description="The project that it comes from.")
    input: ImageInput
    output: Output

    @property
    def decoder(self) -> str:
        """The name of what reads its output."""
        return self.output.decoder

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """All its files; none where the runtime carries the model itself."""
        return tuple(file for file in (self.file, self.labels_file) if file is not None)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        decoder = self.decoder
        if _TASKS[decoder] != self.task:
            raise ValueError(f"task is {self.task}, but the decoder {decoder} is for {_TASKS[decoder]}")
        if decoder.startswith("opencv_") != (self.runtime == "opencv"):
            raise ValueError(f"runtime is {self.runtime}, whose output the decoder {decoder} can't read")
        if self.file is None and self.runtime != "opencv":
            raise ValueError(f"file is missing: the runtime {self.runtime} carries no model itself")
        if self.file is not None and decoder == "opencv_hog":
            raise ValueError("file must be left out: OpenCV carries the classifier of opencv_hog itself")
        if (self.input.max_side is not None) != (self.runtime == "opencv"):
            raise ValueError(
                "input.max_side is for the runtime opencv, input.width and input.height for the others"
            )
        if (self.labels_file is None) == (not self.labels):
            raise ValueError("labels or labels_file must be given, and not both")
        if decoder in _ONE_CLASS and len(self.labels) != 1:
            raise ValueError(f"labels must name the one class that the decoder {decoder} knows")
        if self.file is not None and self.labels_file is not None and self.file.name == self.labels_file.name:
            raise ValueError("labels_file.name is the model file's own name")
        return self
