"""`truthloop why`."""

from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace
from truthloop.cli.screen import console, count, waiting, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rich.console import RenderableType

    from truthloop.datasets.why import DatasetStory, NowStory, PredictionStory, SeenBox, Story

# As many boxes of a prediction as the screen says label and score of; JSON has all.
SHOWN = 20


def tell(
    image_id: Annotated[str, typer.Argument(metavar="IMAGE_ID", help="The image.")],
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Tell one image's whole story: what models saw, what people said and drew, and why it is in the dataset.

    Also when it was captured, what a build would do with it now, and what the log has of it.
    """
    with open_workspace(create=False) as workspace, waiting("Looking ..."):
        story = workspace.why(image_id)
    if as_json:
        write_json(story)
    else:
        console().print(told(story))


def told(story: "Story") -> "RenderableType":
    """A story, one line a fact."""
    from rich.console import Group
    from rich.text import Text

    lines = [Text(story.image_id, "bold")]

    def chapter(name: str, facts: list[str]) -> None:
        lines.extend([Text(), Text(name, "bold"), *(Text(f"  {fact}") for fact in facts)])

    came = "is in metadata" if story.in_metadata else "is NOT in metadata, so it is counted nowhere"
    chapter("Came", [f"{came}{_at(story.captured_at, ', captured ')}"])
    chapter(
        "Models saw",
        [fact for each in story.predictions for fact in _prediction(each)] or ["nothing: none looked"],
    )
    drawn = [
        f"task {each.task_version or '?'}: {_boxes(each.boxes)} by {', '.join(each.annotators) or '?'}"
        f"{_at(each.latest, ', last ')}"
        for each in story.drawn
    ]
    chapter("People drew", drawn or ["nothing"])
    older = ["and in older versions, which aren't told"] if story.older_datasets else []
    chapter(
        "In the dataset", [f"now: {_dataset(story.now)}", *(_version(each) for each in story.datasets), *older]
    )
    if story.events:
        before = ["and before that more than is told here"] if story.older_events else []
        chapter("In the log", before + [f"{each.at:%Y-%m-%d %H:%M:%S} UTC  {each.text}" for each in story.events])
    return Group(*lines)


_SAID = {True: "correct", False: "incorrect", None: "something that can't be read"}


def _prediction(prediction: "PredictionStory") -> list[str]:
    seen = _boxes(prediction.boxes) if prediction.stored else "prediction not stored"
    verdict = {True: "audited as correct", False: "audited as incorrect", None: "no verdict"}[prediction.verdict]
    audits = [
        f"  {audit.auditor or '?'}: {_SAID[audit.correct]} (task {audit.task_version or '?'}{_at(audit.at, ', ')})"
        for audit in prediction.audits
    ]
    by = f" by {prediction.model.name} {prediction.model.version or '?'}" if prediction.model is not None else ""
    labels = [f"  {_labels(prediction.seen)}"] if prediction.seen else []
    return [f"model {prediction.model_version or '?'}{by}: {seen}, {verdict}", *labels, *audits]


def _labels(boxes: "Sequence[SeenBox]") -> str:
    """The label and score of the first boxes, and how many more there are."""
    told = [
        " ".join([box.label or "no label", *([f"{box.score:.3f}"] if box.score is not None else [])])
        for box in boxes[:SHOWN]
    ]
    more = [f"and {count(len(boxes) - SHOWN)} more"] if len(boxes) > SHOWN else []
    return ", ".join([*told, *more])


def _version(story: "DatasetStory") -> str:
    return f"version {story.version}: {_dataset(story)}"


def _dataset(story: "DatasetStory | NowStory") -> str:
    return f"{story.outcome}, {story.why}"


def _boxes(number: int | None) -> str:
    if number is None:
        return "boxes that can't be read"
    return "no box" if not number else "1 box" if number == 1 else f"{count(number)} boxes"


def _at(moment: "datetime | None", before: str) -> str:
    return f"{before}{moment:%Y-%m-%d %H:%M:%S} UTC" if moment is not None else ""
