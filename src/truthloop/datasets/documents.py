"""What the datasets answer: reports, lists, exports, and one image's story."""

from collections.abc import Callable
from datetime import datetime
from typing import Literal, TypeAlias

from pydantic import Field

from truthloop.answers import Answer
from truthloop.datasets.rule import Reason

# Called with what is being done, and for how many images it has been done.
Progress: TypeAlias = Callable[[str, int], None]


def unheard(*_: object) -> None:
    """Where nobody wants to hear of progress."""


class LeftOutImage(Answer):
    """An image that is in `metadata` and not in the dataset."""

    image_id: str
    reason: Reason
    detail: str = Field(description="What somebody would have to mend; empty where there is nothing.")


class LeftOutGroup(Answer):
    """The images that were left out for one reason."""

    reason: Reason
    count: int = Field(ge=1)
    examples: list[LeftOutImage] = Field(
        description="The first of them; `truthloop dataset show --left-out` names all."
    )


class LeftOut(Answer):
    """All images that are not in the dataset; the three kinds are different things and never add up to one."""

    count: int = Field(ge=0)
    unseen: int = Field(ge=0, description="Nobody looked: neither a prediction nor an annotation.")
    refused: int = Field(ge=0, description="Somebody looked, and what is stored can't be used.")
    audited_incorrect: int = Field(ge=0, description="Left out because `--without-incorrect` asked for it.")
    reasons: list[LeftOutGroup]


class SourceCounts(Answer):
    """Entries that come from one kind of source."""

    images: int = Field(ge=0)
    empty: int = Field(ge=0, description="Images without a box: somebody looked and found nothing.")
    boxes: int = Field(ge=0)


class ModelCounts(SourceCounts):
    """Entries whose boxes are a model's, by what people said of them."""

    correct: int = Field(ge=0)
    incorrect: int = Field(ge=0)
    unaudited: int = Field(ge=0)


class SourceVersion(Answer):
    """Entries that come from one task version or one model version."""

    kind: Literal["human", "model"]
    version: str
    images: int = Field(ge=1)


class Clipped(Answer):
    """What reached over the edge of its image and was cut there."""

    boxes: int = Field(ge=0)
    images: int = Field(ge=0)


class UnknownImages(Answer):
    """Ids that other collections name and `metadata` doesn't have; they are in no dataset."""

    count: int = Field(ge=0)
    examples: list[str]


class Seconds(Answer):
    """How long the parts of a build took."""

    entries: float = Field(ge=0, description="Reading, deciding and storing.")
    parquet: float = Field(ge=0, description="Writing the files of the version.")
    swap: float | None = Field(
        ge=0,
        description="Putting it in place; null for a dry run, and where a build that was cut short was finished.",
    )


class DatasetReport(Answer):
    """What a version consists of; it accounts for every image: `images` = `entries` + `left_out.count`."""

    version: int | None = Field(description="Null for a dry run, which makes none.")
    as_of: datetime = Field(description="The moment of the database that was read (the server's clock, UTC).")
    cluster_time: str = Field(description="The same as MongoDB's cluster time, seconds and increment.")
    built_at: datetime | None
    without_incorrect: bool
    synthetic: bool = Field(description="Whether the workspace holds made-up sample data.")
    images: int = Field(ge=0, description="All images in `metadata`.")
    entries: int = Field(ge=0, description="Images in the dataset.")
    boxes: int = Field(ge=0)
    human: SourceCounts
    model: ModelCounts
    sources: list[SourceVersion] = Field(description="The most frequent first.")
    seen: int = Field(
        ge=0, description="Entries that a person has drawn, or has judged the prediction of (right or wrong)."
    )
    seen_fraction: float | None = Field(ge=0, le=1, description="Of the entries; null when there are none.")
    left_out: LeftOut
    clipped: Clipped
    not_in_metadata: UnknownImages
    unfinished_loads: int = Field(
        ge=0, description="Loads that were running, or had been cut short, at that moment."
    )
    seconds: Seconds | None
    folder: str | None = Field(
        description="Where in the workspace folder its own files are: `entries.parquet` and `left_out.parquet`."
    )


class DatasetItem(Answer):
    """A version in a list."""

    version: int
    built_at: datetime
    as_of: datetime
    without_incorrect: bool
    images: int
    entries: int
    human: int = Field(description="Entries whose boxes a person drew.")
    model: int = Field(description="Entries whose boxes are a model's.")
    seen_fraction: float | None
    current: bool = Field(description="Whether `bbox_dataset` is this version.")


class DatasetPage(Answer):
    """A page of versions, the newest first."""

    items: list[DatasetItem]
    next: int | None = Field(description="Give this as `after` for the next page; null on the last.")


class ExportedPart(Answer):
    """One file of an export."""

    part: Literal["train", "val", "test"]
    file: str
    images: int = Field(ge=0)
    boxes: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str


class ExportReport(Answer):
    """An export, read back and found equal to its version; it stands beside its files as `export.json`."""

    version: int
    format: Literal["jsonl", "parquet"]
    folder: str
    images: int = Field(ge=0)
    split: str = Field(description="The shares asked for: train/val/test.")
    parts: list[ExportedPart]
    synthetic: bool


class Settled(Answer):
    """What became of a build that had stopped in between."""

    version: int
    outcome: Literal["finished", "undone"]
