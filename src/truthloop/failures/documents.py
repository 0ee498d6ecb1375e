"""What the stage answers: each predicted box of an image against the annotated one it is paired with."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from truthloop.answers import Answer
from truthloop.failures.kinds import Kind, Side
from truthloop.failures.selection import Size


class FailuresState(StrEnum):
    """Whether an image can be compared. No prediction comes first, whether the image is annotated or not."""

    NOT_PREDICTED = "not_predicted"
    NOT_ANNOTATED = "not_annotated"
    ANNOTATED = "annotated"


class EdgesAnswer(Answer):
    """Four edges of a box, or how far each was moved, in fractions of the image; y grows downwards."""

    top: float
    left: float
    bottom: float
    right: float


class FailureItem(Answer):
    """A predicted box and the annotated one it is paired with, or one of them alone."""

    image_id: str
    predicted: EdgesAnswer | None = Field(description="Null where the model missed the annotated box.")
    annotated: EdgesAnswer | None = Field(description="Null where a person drew none for the predicted box.")
    delta: EdgesAnswer | None = Field(description="Annotated minus predicted; null unless there are both.")
    model_version: str = Field(description="Which model version's prediction it is about.")
    task_version: str = Field(description="Which annotations it was compared with.")
    iou: float | None = Field(
        ge=0, le=1, description="Intersection over union of both boxes; null unless there are both."
    )
    kind: Kind


class InvalidBox(Answer):
    """A stored box that has no area, or a stored document that can't be read; it is compared with nothing."""

    side: Side
    model_version: str | None = Field(description="Of the prediction it stands in; null for an annotation.")
    task_version: str | None = Field(description="Of the annotation; null for a prediction, or if it has none.")
    index: int | None = Field(
        description="Its place in the prediction's `bboxes`, from 0; null for an annotation or a whole document."
    )
    reason: str = Field(description="What is wrong with it.")
    box: EdgesAnswer | None = Field(description="As stored; null if its four edges can't be told.")


class UnjudgedPrediction(Answer):
    """What a model version predicted on an image where there is nothing to compare it with."""

    model_version: str
    verdict: bool | None = Field(
        description="What the audits say of it, as the status counts it; null without any, or where they are even."
    )
    boxes: list[EdgesAnswer] = Field(description="In the prediction's order, without those in `invalid`.")


class NoItems(list[Any]):
    """No items since the image isn't annotated: empty in Python, and as JSON the field isn't there."""


class ImageFailures(Answer):
    """Where the model was right and wrong on one image."""

    image_id: str
    state: FailuresState = Field(description="`items` are there only if it is `annotated`.")
    items: list[FailureItem] = Field(
        default_factory=NoItems,
        exclude_if=lambda items: isinstance(items, NoItems),
        description="By model version, the newest first: an item for each of its boxes, then one for each that it "
        "missed. Not there unless the state is `annotated`: no rows are made up.",
    )
    predictions: list[UnjudgedPrediction] = Field(
        default_factory=list,
        description="What models predicted, the newest version first, where there is nothing to compare with: the "
        "image isn't annotated, or its annotation can't be used. Else empty: predicted boxes are in `items`.",
    )
    invalid: list[InvalidBox] = Field(description="Boxes that can't be compared, and stand in no item.")


class KindCounts(Answer):
    """How many boxes are what. A pair that is unrelated counts as one missed and one spurious box."""

    predicted: int = Field(ge=0, description="Predicted boxes: match, misplaced, spurious and duplicate.")
    annotated: int = Field(ge=0, description="Annotated boxes: match, misplaced and missed.")
    match: int = Field(ge=0, description="Pairs with an IoU of at least 0.5.")
    misplaced: int = Field(ge=0, description="Pairs with an IoU of at least 0.1.")
    missed: int = Field(ge=0, description="Annotated boxes that the model didn't find.")
    spurious: int = Field(ge=0, description="Predicted boxes where a person drew none.")
    duplicate: int = Field(ge=0, description="Predicted boxes on an annotated one that has its match already.")


class Quantiles(Answer):
    """Values that 5, 25, 50, 75 and 95 % don't exceed, to 0.0001."""

    p5: float
    p25: float
    median: float
    p75: float
    p95: float


class Histogram(Answer):
    """How many values lie between each two neighbouring edges; what lies beyond counts in the outermost bins."""

    edges: list[float]
    counts: list[int]


class Distribution(Answer):
    """How values are spread."""

    quantiles: Quantiles | None = Field(description="Null if there are no values.")
    histogram: Histogram


class EdgeShift(Distribution):
    """How far people moved an edge, annotated minus predicted, over pairs that match or are misplaced."""

    edge: str
    pairs: int = Field(ge=0, description="How many.")
    low: float | None = Field(
        description="Of the median's 95 % interval, in which boxes of one image count as one; null if too few."
    )
    high: float | None = Field(description="The interval's other end.")
    is_shifted: bool = Field(description="Whether the interval leaves out 0: the shift is systematic.")


class SizeFailures(Answer):
    """The boxes of one size; of a pair, the annotated box has it."""

    size: Size
    counts: KindCounts


class VersionFailures(Answer):
    """What one model version gets right and wrong on the images that are annotated."""

    model_version: str
    images: int = Field(ge=0, description="How many of its images were compared.")
    counts: KindCounts
    unrelated: int = Field(ge=0, description="Pairs below an IoU of 0.1, counted as one missed and one spurious.")
    invalid: int = Field(ge=0, description="Predicted boxes without an area, or that can't be read.")
    sizes: list[SizeFailures]
    iou: Distribution = Field(description="Of all pairs.")
    edges: list[EdgeShift]


class WorstImage(Answer):
    """One of the images on which most is wrong."""

    image_id: str
    model_version: str
    failures: int = Field(ge=1, description="Boxes missed, spurious, misplaced and duplicate.")
    counts: KindCounts


class Refused(Answer):
    """Images left out since their annotations, or their predictions, can't be used."""

    count: int
    examples: list[str] = Field(description="The first five of their ids; `--all` lists what is wrong with each.")


class FailureSummary(Answer):
    """Where the model is wrong, over all images that are both predicted and annotated.

    People annotate mostly where a prediction was found wrong, so these aren't the model's figures on all images.
    """

    images: int = Field(ge=0, description="All images in `metadata`.")
    asked: list[str] = Field(
        description="The model versions that were asked for, as if there were no others; none means all."
    )
    compared: int = Field(ge=0, description="Those with a usable prediction and usable annotations.")
    not_predicted: int = Field(ge=0, description="Those without a prediction, annotated or not.")
    not_annotated: int = Field(ge=0, description="Those with a prediction that nobody annotated.")
    refused: Refused
    min_iou: float = Field(description="Boxes whose IoU is lower weren't paired.")
    model_versions: list[VersionFailures] = Field(description="Newest first.")
    worst: list[WorstImage] = Field(description="Most failures first.")
    synthetic: bool = Field(description="Whether the workspace holds made-up sample data.")


def escaped(text: str) -> str:
    r"""A text of somebody's data on one line: what doesn't print is written as Python would, a tab as `\t`.

    >>> print(escaped("cam 1\t\x1b[2J"))
    cam 1\t\x1b[2J
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
