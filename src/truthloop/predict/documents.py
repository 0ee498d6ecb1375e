"""What jobs and batches are, as the verbs answer them and as they are stored."""

from collections.abc import Mapping
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from truthloop.answers import Answer

JOBS, RESULTS, BATCHES = "truthloop.jobs", "truthloop.results", "truthloop.batches"
MODEL_VERSIONS = "truthloop.model_versions"
SOURCE = "/predict"

# How often a job or a slice of a batch is begun before it counts as failed.
MAX_ATTEMPTS = 3


class JobState(StrEnum):
    """Where a job stands: `created -> queued -> running -> succeeded | failed | cancelled`."""

    CREATED = "created"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether it never changes again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class JobOptions(BaseModel):
    """What a client may choose about the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance: float | None = Field(
        default=None,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="Segmentation only: how far an outline may stray from the true one, in pixels of the image.",
        examples=[2.0],
    )


class Keep(Enum):
    """Says in `update` that a field stays as it is, where None would remove it."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP

Source = Literal["jobs", "outline"]


class Job(Answer):
    """One model over one image."""

    id: str = Field(description="A UUIDv7.", examples=["01981f3c-7f7e-7c3a-9a52-5a1c0d3b9e11"])
    revision: int = Field(ge=1, description="Grows by one with each change; also the sequence of its events.")
    state: JobState
    model: str = Field(description="The model's name in the catalogue.", examples=["mobilenet_v2"])
    model_version: str = Field(description="The model's version in the catalogue.", examples=["1.0"])
    image_id: str | None = Field(description="The SHA-256 of the image's file as received.")
    options: JobOptions
    source: Source = Field(description="Who asked: the jobs' own API, or the outline service.")
    attempts: int = Field(ge=0, description="How often a worker has begun it.")
    error: str | None = Field(description="Why it failed, or why it was put back last.")
    progress: float | None = Field(description="The part that is done, where a model can tell; from 0 to 1.")
    deadline_seconds: float | None = Field(description="How long it may wait before it fails.")
    created_at: datetime
    updated_at: datetime
    queued_at: datetime | None = Field(description="When it was put into the queue, the last time.")
    started_at: datetime | None = Field(description="When a worker took it, the last time.")
    finished_at: datetime | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The job of a stored document."""
        return cls.model_validate({**document, "id": document["_id"]})


class JobPage(Answer):
    """A page of jobs, the newest first."""

    items: list[Job]
    next: str | None = Field(description="Give this as `after` for the next page; null on the last.")


class BatchState(StrEnum):
    """Where a batch stands: `queued -> running -> succeeded | failed | cancelled`; the last two can be resumed."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


Query = Literal["unprocessed", "all"]


class RefusedImage(Answer):
    """An image that a batch could not work, and why."""

    image_id: str
    reason: str


class Refusals(Answer):
    """Images of a batch that could not be worked, all for one reason."""

    reason: str
    images: int = Field(ge=1, description="How many.")
    example: str = Field(description="The first of them, in the order of their ids.")


class Batch(Answer):
    """One model over many images."""

    id: str = Field(description="A UUIDv7.")
    revision: int = Field(ge=1, description="Grows by one with each change; also the sequence of its events.")
    state: BatchState
    model: str
    model_version: str
    query: Query | None = Field(description="Which images, where they weren't listed.")
    record_as: str | None = Field(description="The model version in `bbox.model` under which boxes are recorded.")
    newer_version: str | None = Field(
        default=None,
        description="The newest version there was when it was made, where that is newer than `record_as`: of an "
        "image that has boxes under both, the newer ones count.",
    )
    total: int = Field(ge=0, description="How many images there were to work when it was made or resumed.")
    done: int = Field(ge=0, description="How many of them are worked: the sum of the next three.")
    predicted: int = Field(ge=0, description="Images with a new result.")
    already_there: int = Field(ge=0, description="Images that had this model's boxes under this version before.")
    refused: int = Field(ge=0, description="Images that could not be worked.")
    refusals: list[RefusedImage] = Field(description="The first of these; all are among the batch's results.")
    error: str | None = Field(
        description="Why it failed, or why it waits: a slice was put back, or no worker has the model."
    )
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The batch of a stored document."""
        return cls.model_validate({**document, "id": document["_id"]})


class BatchPage(Answer):
    """A page of batches, the newest first."""

    items: list[Batch]
    next: str | None = Field(description="Give this as `after` for the next page; null on the last.")
