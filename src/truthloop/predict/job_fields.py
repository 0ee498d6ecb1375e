"""What clients give of a job: its image, its deadline and its options, checked."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import ValidationError

from truthloop.errors import InputRefused
from truthloop.predict.documents import JobOptions
from truthloop.store.connection import Document

if TYPE_CHECKING:
    from truthloop.ingest.images import StoredImage
    from truthloop.models.documents import CatalogueEntry

MAX_DEADLINE_SECONDS = 30 * 86_400.0

Options = JobOptions | Mapping[str, Any]
# An image, or what gives it: called when nothing else stands against the job, since it may store the file.
Given: TypeAlias = "StoredImage | Callable[[], StoredImage]"


def stored_image(image: Given) -> "StoredImage":
    """The image, stored now if it wasn't."""
    return image() if callable(image) else image


def image_fields(image: "StoredImage | None") -> Document:
    """What a job keeps of its image."""
    if image is None:
        return {"image_id": None, "image": None}
    return {
        "image_id": image.image_id,
        "image": {"blob": image.blob, "width": image.width, "height": image.height},
    }


def checked_deadline(seconds: float | None) -> float | None:
    """The deadline, if it is one.

    Raises:
        InputRefused: it isn't more than 0 and at most 30 days.
    """
    if seconds is not None and not 0 < seconds <= MAX_DEADLINE_SECONDS:
        raise InputRefused(
            f"deadline_seconds is {seconds}; give more than 0 and at most {MAX_DEADLINE_SECONDS:,.0f} (30 days).",
            errors={"deadline_seconds": f"must be more than 0 and at most {MAX_DEADLINE_SECONDS:.0f}"},
        )
    return seconds


def checked_options(options: Options | None) -> JobOptions:
    """The options, if they are ones.

    Raises:
        InputRefused: a field is unknown or has a value that isn't allowed; `errors` names it.
    """
    if options is None:
        return JobOptions()
    if isinstance(options, JobOptions):
        return options
    try:
        return JobOptions.model_validate(options)
    except ValidationError as error:
        faults = {".".join(("options", *map(str, fault["loc"]))): fault["msg"] for fault in error.errors()}
        told = "; ".join(f"{place}: {reason}" for place, reason in faults.items())
        raise InputRefused(f"The options can't be taken: {told[:500]}.", errors=faults) from None


def check_tolerance(entry: "CatalogueEntry", options: JobOptions) -> JobOptions:
    """The options, unless they are about outlines and the model finds none.

    Raises:
        InputRefused: they are.
    """
    if options.tolerance is not None and entry.task != "segmentation":
        raise InputRefused(
            f"{entry.name} is a {entry.task} model, which finds no outlines. Leave tolerance out, or choose a "
            "segmentation model.",
            errors={"options.tolerance": "only of a segmentation model"},
        )
    return options
