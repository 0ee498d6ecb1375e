"""A prediction as it is answered everywhere: on the terminal, over HTTP and as a job's result."""

from typing import TypeAlias

from pydantic import Field

from truthloop.answers import Answer
from truthloop.contours import ObjectOutline, default_tolerance, fractions_of, objects_of
from truthloop.models.documents import Boxes, ClassMap, Labels, Prediction


class ClassFraction(Answer):
    """A class of a segmented image, and how much of the image it covers."""

    label: str = Field(description="The class, as the model's labels name it.", examples=["horse"])
    fraction: float = Field(gt=0, le=1, description="Of the image's pixels.", examples=[0.286])


class Segments(Answer):
    """What a segmentation model answers: the classes but background, the largest first, and their objects."""

    classes: list[ClassFraction]
    objects: list[ObjectOutline]


PredictionAnswer: TypeAlias = Labels | Boxes | Segments


def answer_of(
    prediction: Prediction, *, width: int, height: int, tolerance: float | None = None
) -> PredictionAnswer:
    """What a model says of an image, as it is answered.

    Args:
        prediction: what the model said.
        width: of the upright image, in pixels.
        height: of the upright image, in pixels.
        tolerance: of the outlines in a class map, in pixels of the image; None takes one cell of the map.
    """
    if not isinstance(prediction, ClassMap):
        return prediction
    classes, labels = prediction.classes, prediction.labels
    return Segments(
        classes=[ClassFraction(label=label, fraction=part) for label, part in fractions_of(classes, labels)],
        objects=objects_of(classes, prediction.scores, labels, width=width, height=height, tolerance=tolerance),
    )


def tolerance_of(prediction: ClassMap, *, width: int, height: int, chosen: float | None) -> float:
    """The tolerance of the outlines in an answer, as it is told: the chosen one, or one cell of the map.

    Args:
        prediction: what the model said.
        width: of the upright image, in pixels.
        height: of the upright image, in pixels.
        chosen: by who asked, in pixels of the image; None for nobody.
    """
    if chosen is not None:
        return chosen
    rows, columns = prediction.classes.shape
    return round(default_tolerance((rows, columns), width=width, height=height), 2)
