"""The verb `why`: one image's whole story, from its documents, the versions of the dataset, and the log."""

import math
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from truthloop.answers import Answer
from truthloop.datasets import entries as files
from truthloop.datasets.rule import Document, Entry, LeftOut, Reason, decide, verdict_on
from truthloop.datasets.settle import COLLECTION as DATASETS
from truthloop.datasets.show import file_of
from truthloop.errors import FileRefused, NotFound
from truthloop.events.documents import Event
from truthloop.events.record import COLLECTION as EVENTS
from truthloop.events.text import text
from truthloop.store.connection import Store
from truthloop.store.migrations import SOURCES
from truthloop.versions import version_key

# The newest ones; an image's story in older versions is in their files.
MAX_VERSIONS, MAX_EVENTS = 20, 100


class AuditStory(Answer):
    """What one person said of a prediction."""

    auditor: str | None
    correct: bool | None
    task_version: str | None
    at: datetime | None


class ModelStory(Answer):
    """Which model made a prediction, as its document says it."""

    name: str
    version: str | None


class SeenBox(Answer):
    """What a model says of one of its boxes."""

    label: str | None
    score: float | None


class PredictionStory(Answer):
    """What one model version saw, and what was said about it."""

    model_version: str | None
    model: ModelStory | None = Field(
        description="Null where the prediction doesn't say; those of `truthloop predict` do."
    )
    boxes: int | None = Field(description="Null where they can't be read.")
    seen: list[SeenBox] = Field(
        description="Label and score of each box, in the document's order, null where it has none; empty where no "
        "box has either."
    )
    stored: bool = Field(description="False where there are audits of a prediction that isn't stored.")
    verdict: bool | None
    audits: list[AuditStory]


class DrawnStory(Answer):
    """What people drew in one version of the annotation task."""

    task_version: str | None
    annotators: list[str]
    boxes: int = Field(description="Documents with a box; none means that they saw none.")
    latest: datetime | None


class NowStory(Answer):
    """What a build would do with the image at this moment."""

    outcome: Literal["in", "left out"]
    why: str


class DatasetStory(Answer):
    """What one version of the dataset has of the image."""

    version: int
    at: datetime = Field(description="The moment that the version shows.")
    outcome: Literal["in", "left out", "not known then", "files not here"]
    why: str


class EventStory(Answer):
    """An event of the log that is about this image."""

    at: datetime
    text: str


class Story(Answer):
    """Everything that is known of one image."""

    image_id: str
    in_metadata: bool
    captured_at: datetime | None
    predictions: list[PredictionStory] = Field(description="The newest model version first.")
    drawn: list[DrawnStory] = Field(description="The latest first.")
    now: NowStory
    datasets: list[DatasetStory] = Field(description="The newest version first, up to 20.")
    older_datasets: bool = Field(description="Whether there are older versions, which aren't told.")
    events: list[EventStory] = Field(
        description="The newest 100, the oldest of them first; loads of files name no images."
    )
    older_events: bool = Field(description="Whether there are older events, which aren't told.")


def why(store: Store, image_id: str) -> Story:
    """One image's story: when it came, what models saw, what people said and drew, where it is and why.

    Args:
        store: the workspace.
        image_id: the image; it may be missing in `metadata`.

    Raises:
        NotFound: no document names it.
    """
    with store.errors():
        metadata, predictions, audits, annotations = (
            list(store[name].find({"image_id": {"$eq": image_id}}, {"_id": 0, "source_id": 0})) for name in SOURCES
        )
        events = list(store[EVENTS].find({"subject": image_id}).sort("_id", -1).limit(MAX_EVENTS + 1))
        built = list(store[DATASETS].find({"state": "built"}).sort("_id", -1).limit(MAX_VERSIONS + 1))
    if not (metadata or predictions or audits or annotations):
        raise NotFound(
            f"No document names an image {image_id}. Check the id; `truthloop images` lists those that there are."
        )
    captured = [_moment(each.get("capture_timestamp")) for each in metadata]
    return Story(
        image_id=image_id,
        in_metadata=bool(metadata),
        captured_at=next((moment for moment in captured if moment is not None), None),
        predictions=_predictions(predictions, audits),
        drawn=_drawn(annotations),
        now=_now(image_id, bool(metadata), predictions, audits, annotations),
        datasets=[_in_version(store, each, image_id) for each in built[:MAX_VERSIONS]],
        older_datasets=len(built) > MAX_VERSIONS,
        events=[EventStory(at=event.time, text=text(event)) for event in map(Event.of, events[:MAX_EVENTS][::-1])],
        older_events=len(events) > MAX_EVENTS,
    )


def _predictions(predictions: list[Any], audits: list[Any]) -> list[PredictionStory]:
    versions = [each.get("model_version") for each in (*predictions, *audits)]
    named = sorted({version for version in versions if isinstance(version, str)}, key=version_key, reverse=True)
    found: list[PredictionStory] = []
    for version in [*named, *([None] if any(not isinstance(each, str) for each in versions) else [])]:
        mine = [each for each in predictions if _text(each.get("model_version")) == version]
        said = [each for each in audits if _text(each.get("model_version")) == version]
        bboxes = mine[0].get("bboxes") if mine else None
        found.append(
            PredictionStory(
                model_version=version,
                model=_model(mine[0].get("model")) if mine else None,
                boxes=len(bboxes) if isinstance(bboxes, list) else None,
                seen=_seen(bboxes),
                stored=bool(mine),
                verdict=verdict_on(version, audits) if version is not None else None,
                audits=sorted(map(_audit, said), key=lambda audit: (audit.at is None, str(audit.at))),
            )
        )
    return found


def _model(provenance: object) -> ModelStory | None:
    if not isinstance(provenance, dict) or (name := _text(provenance.get("name"))) is None:
        return None
    return ModelStory(name=name, version=_text(provenance.get("version")))


def _seen(bboxes: object) -> list[SeenBox]:
    boxes = [each if isinstance(each, dict) else {} for each in bboxes] if isinstance(bboxes, list) else []
    seen = [SeenBox(label=_text(box.get("label")), score=_number(box.get("score"))) for box in boxes]
    return seen if any(box.label is not None or box.score is not None for box in seen) else []


def _audit(document: Document) -> AuditStory:
    correct = document.get("bbox_correct")
    return AuditStory(
        auditor=_text(document.get("auditor")),
        correct=correct if isinstance(correct, bool) else None,
        task_version=_text(document.get("task_version")),
        at=_moment(document.get("timestamp")),
    )


def _drawn(annotations: list[Any]) -> list[DrawnStory]:
    groups: dict[str | None, list[Document]] = defaultdict(list)
    for each in annotations:
        groups[_text(each.get("task_version"))].append(each)
    found = []
    for version, group in groups.items():
        moments = [moment for each in group if (moment := _moment(each.get("timestamp"))) is not None]
        names = {name for each in group if (name := _text(each.get("annotator"))) is not None}
        found.append(
            DrawnStory(
                task_version=version,
                annotators=sorted(names),
                boxes=sum(isinstance(each.get("bbox"), dict) for each in group),
                latest=max(moments, default=None),
            )
        )
    return sorted(found, key=lambda drawn: (drawn.latest is not None, str(drawn.latest)), reverse=True)


def _now(
    image_id: str, known: bool, predictions: list[Any], audits: list[Any], annotations: list[Any]
) -> NowStory:
    if not known:
        return NowStory(outcome="left out", why="it is not in metadata")
    outcome = decide(image_id, predictions=predictions, audits=audits, annotations=annotations)
    if isinstance(outcome, LeftOut):
        return NowStory(outcome="left out", why=_left_out(outcome.reason, outcome.detail))
    return NowStory(outcome="in", why=_entry(outcome))


def _entry(entry: Entry) -> str:
    return _source(entry.kind, entry.version, len(entry.boxes), entry.verdict)


def _source(kind: str, version: str, boxes: int, verdict: bool | None) -> str:
    count = "no box" if not boxes else "1 box" if boxes == 1 else f"{boxes:,} boxes"
    if kind == "human":
        return f"{count} drawn by people in annotation task {version}"
    said = {True: "audited as correct", False: "audited as incorrect", None: "audited by nobody"}[verdict]
    return f"{count} of model {version}, {said}; no person has drawn any"


def _left_out(reason: str, detail: str) -> str:
    if reason == Reason.UNSEEN:
        return "unseen: neither a prediction nor an annotation is stored"
    return f"{reason}: {detail}" if detail else reason


def _in_version(store: Store, found: dict[str, Any], image_id: str) -> DatasetStory:
    version, at = int(found["_id"]), datetime.fromisoformat(found["report"]["as_of"])

    def story(outcome: Literal["in", "left out", "not known then", "files not here"], why: str) -> DatasetStory:
        return DatasetStory(version=version, at=at, outcome=outcome, why=why)

    try:
        entry = files.look_up(file_of(store, found, files.ENTRIES), image_id)
        left_out = files.look_up(file_of(store, found, files.LEFT_OUT), image_id)
    except FileRefused as error:
        return story("files not here", str(error))
    if entry is not None:
        source = entry["source"]
        return story("in", _source(source["kind"], source["version"], len(entry["bboxes"]), entry["verdict"]))
    if left_out is not None:
        return story("left out", _left_out(left_out["reason"], left_out["detail"]))
    return story("not known then", "it was not in metadata")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    """A number that JSON has; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _moment(value: object) -> datetime | None:
    """A timestamp as a moment; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
