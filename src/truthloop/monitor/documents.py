"""What the monitor answers: the status of a workspace and the images behind its figures."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from truthloop.answers import Answer


class State(StrEnum):
    """What can be said of an image; `truthloop images --state` lists the images of one."""

    PROCESSED = "processed"
    UNPROCESSED = "unprocessed"
    AUDITED = "audited"
    UNAUDITED = "unaudited"
    CORRECT = "correct"
    INCORRECT = "incorrect"
    CORRECTED = "corrected"
    UNCORRECTED = "uncorrected"


class Share(Answer):
    """A number of images."""

    count: int = Field(ge=0, description="How many images.")
    fraction: float | None = Field(ge=0, le=1, description="Of all images; null when there are none.")


class CorrectedShare(Share):
    """The images whose wrong prediction a person has replaced."""

    fraction_of_incorrect: float | None = Field(
        ge=0, le=1, description="Of the images audited as incorrect; null when there are none."
    )


class Shares(Answer):
    """The fractions of brief 1, all of them over the images in `metadata`."""

    processed: Share = Field(description="Images with at least one prediction.")
    audited: Share = Field(description="Images with a verdict: correct and incorrect together.")
    correct: Share = Field(description="Images whose newest audited prediction was found correct.")
    incorrect: Share = Field(description="Images whose newest audited prediction was found incorrect.")
    corrected: CorrectedShare = Field(description="Incorrect images with a human annotation.")


class _ModelVersion(Answer):
    model_version: str


class VersionStatus(Shares, _ModelVersion):
    """The same fractions for one version of the box model."""


class Waiting(Answer):
    """How many images wait for what."""

    unprocessed: int = Field(ge=0, description="For a model: no prediction yet.")
    unaudited: int = Field(ge=0, description="For an auditor: processed, no audit.")
    uncorrected: int = Field(ge=0, description="For an annotator: incorrect, no annotation.")


class _Images(Answer):
    """A base of its own, so that the number of images stands first in the answer."""

    images: int = Field(ge=0, description="All images in `metadata`.")


class Status(Shares, _Images):
    """How far the workspace's boxes have come, and how far they can be trusted."""

    waiting: Waiting
    model_versions: list[VersionStatus] = Field(description="Newest version first.")
    not_in_metadata: int = Field(
        ge=0, description="Images named by other collections and missing in `metadata`; counted nowhere else."
    )
    synthetic: bool = Field(description="Whether the workspace holds made-up sample data.")
    as_of: datetime = Field(description="Every change until this moment is counted (the server's clock, UTC).")


class ImageItem(Answer):
    """One image in a list."""

    image_id: str
    states: list[State] = Field(description="All that can be said of it.")


class ImagePage(Answer):
    """A page of images, in the order of their ids."""

    items: list[ImageItem]
    next: str | None = Field(description="Give this as `after` for the next page; null on the last.")
