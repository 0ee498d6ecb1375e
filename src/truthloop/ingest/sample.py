"""Made-up documents in the shape of a real export, with its faults in about their true proportions.

The proportions are those of the export that design section 3 describes (12,822 images, 8,093 audits, 5,577
annotations) and, where it gives none, of its slice of 2,443 images. Every document says `"synthetic": true`.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from truthloop.errors import InputRefused
from truthloop.ingest.documents import COLLECTIONS, NO_FACE
from truthloop.ingest.load import load_chunks
from truthloop.ingest.read import Documents
from truthloop.ingest.reports import LoadProgress, LoadReport
from truthloop.ingest.synthetic import begin_sample, end_sample, holds_documents, unfinished_sample
from truthloop.store.connection import Store

Document: TypeAlias = dict[str, Any]
Row: TypeAlias = list[float]

# Images are made in blocks, each from the seed and its number alone: a larger sample begins with the smaller one.
BLOCK_IMAGES = 1000
LARGEST = 100_000_000

# Shares of images.
PREDICTED_BY_FIRST, PREDICTED_BY_SECOND, PREDICTED_BY_BOTH = 0.341, 0.224, 0.295  # the other 14 % by none
AUDITED = 0.631 / 0.86  # of the predicted
CORRECT = 0.323  # of the audited
ANNOTATED = 0.761  # of those audited as incorrect
AUDITED_TWICE = 0.04  # of the audited, under a newer task version
FACES = (0.06, 0.72, 0.17, 0.05)  # no face, one, two, three
# Shares of annotations.
SECOND_TASK_VERSION = 0.34  # which has boxes in center notation
NULL = 0.027  # with the images without a face that makes 372 / 5577 of the documents
NONE_TEXT = 0.1  # of the null boxes
OUTSIDE = 116 / 5577 / (1 - SECOND_TASK_VERSION)  # of the corner boxes
OVER_THE_EDGE = 449 / 5577 / SECOND_TASK_VERSION  # of the center boxes
SWAPPED = 13 / 5577 / (1 - SECOND_TASK_VERSION)  # of the corner boxes
PREDICTED_OVER_THE_EDGE = 77 / 1611  # of the second model's boxes
INTEGER_TIMESTAMPS = 0.2
# Of images: predictions whose image isn't in metadata.
UNKNOWN = 0.0005

_YEAR_BEGIN, _YEAR_SECONDS = 1_672_531_200, 365 * 86_400  # 2023, UTC
_PEOPLE = 10


class SampleReport(LoadReport):
    """What became of a sample: as a load of four files."""

    images: int = Field(description="How many images were asked for.")
    seed: int


def make_sample(
    store: Store,
    *,
    images: int,
    seed: int = 0,
    if_empty: bool = False,
    pace: Callable[[], None] = lambda: None,
    progress: Callable[[LoadProgress], None] | None = None,
) -> SampleReport:
    """Fills a workspace with made-up documents; making the same again changes nothing.

    Args:
        store: the workspace.
        images: how many, 1 to 100,000,000.
        seed: 0 or more; the same seed makes the same documents.
        if_empty: a workspace that holds anything is left as it is (the report has no items then), but for a
            sample that was begun and cut short, which is made to its end instead.
        pace: called between batches.
        progress: called after each batch; bytes are images there.

    Raises:
        InputRefused: a number is out of range.
        Conflict: the workspace holds real documents.
        DatabaseUnavailable, DatabaseRefused, DiskFull: making the same again completes it.
    """
    if not 1 <= images <= LARGEST:
        raise InputRefused(f"{images:,} images can't be made up. Choose 1 to {LARGEST:,}.")
    if not 0 <= seed < 2**63:
        raise InputRefused(f"{seed} is no seed. Choose a number from 0 to 2^63 - 1.")
    started = time.monotonic()
    if if_empty:
        if unfinished := unfinished_sample(store):
            images, seed = unfinished
        elif holds_documents(store):
            return SampleReport(items=(), images=images, seed=seed)
    begin_sample(store, images=images, seed=seed)
    items = []
    for number, collection in enumerate(COLLECTIONS, start=1):

        def show(read: int, position: int, collection: str = collection, number: int = number) -> None:
            pace()
            if progress is not None:
                progress(
                    LoadProgress(
                        file=collection,
                        file_number=number,
                        files=len(COLLECTIONS),
                        read=read,
                        bytes_read=position,
                        bytes_total=images,
                    )
                )

        items.append(
            load_chunks(
                store,
                collection,
                _chunks(collection, images=images, seed=seed),
                file=Path(f"sample of {collection}"),
                source=f"truthloop sample --images {images} --seed {seed}",
                after_batch=show,
            )
        )
    end_sample(store, images=images, seed=seed)
    return SampleReport(items=tuple(items), seconds=time.monotonic() - started, images=images, seed=seed)


def sample_documents(collection: str, *, images: int, seed: int) -> Iterator[Document]:
    """The documents of one collection, for that many images; the same seed gives the same ones."""
    for chunk in _chunks(collection, images=images, seed=seed):
        yield from chunk.items


def _chunks(collection: str, *, images: int, seed: int) -> Iterator[Documents]:
    make = {
        "metadata": _metadata,
        "bbox.model": _predictions,
        "bbox.human_audit": _audits,
        "bbox.human_annotation": _annotations,
    }[collection]
    first = 0
    for begin in range(0, images, BLOCK_IMAGES):
        block = _Block(seed, begin // BLOCK_IMAGES)
        end = min(images, begin + BLOCK_IMAGES)
        items = [document for image in range(end - begin) for document in make(block, image)]
        yield Documents(first, items, None, end)
        first += len(items)


class _Block:
    """All that is random about a block of images, drawn at once."""

    def __init__(self, seed: int, number: int) -> None:
        rng = np.random.default_rng([seed, number])
        size = BLOCK_IMAGES
        text = rng.bytes(16 * size).hex()
        self.ids = [text[start : start + 32] for start in range(0, 32 * size, 32)]
        unknown = rng.bytes(16 * size).hex()
        self.unknown_ids = [unknown[start : start + 32] for start in range(0, 32 * size, 32)]

        def draw(*shape: int) -> Any:
            return rng.random((size, *shape)).tolist()

        shares = (PREDICTED_BY_FIRST, PREDICTED_BY_SECOND, PREDICTED_BY_BOTH)
        rest = 1 - sum(shares)
        self.predicted = rng.choice(4, size, p=(*shares, rest)).tolist()
        self.faces = rng.choice(len(FACES), size, p=FACES).tolist()
        self.boxes = _true_boxes(rng, size)
        self.audited, self.correct, self.annotated, self.twice = draw(), draw(), draw(), draw()
        self.second_version, self.null, self.none_text = draw(), draw(), draw()
        self.fault, self.side, self.unknown = draw(3), draw(3), draw()
        self.integer, self.captured, self.delay = draw(), draw(), draw(2)
        self.person = rng.integers(_PEOPLE, size=(size, 2)).tolist()
        # How the two models see what is there: shifted a little, and where they are wrong by much.
        self.shift = np.round(rng.normal(0, 1, (size, 2, 3, 4)), 3).tolist()
        self.wrong = draw(2)
        self.over = draw(3)

    def is_audited(self, image: int) -> bool:
        return bool(self.predicted[image] < 3 and self.audited[image] < AUDITED)

    def is_correct(self, image: int) -> bool:
        return bool(self.correct[image] < CORRECT)

    def timestamp(self, image: int, *, days: float) -> float:
        """Some days after the image was captured; a fifth of all timestamps are integers."""
        seconds = _YEAR_BEGIN + self.captured[image] * _YEAR_SECONDS + days * 86_400
        return int(seconds) if self.integer[image] < INTEGER_TIMESTAMPS else round(seconds, 6)


def _true_boxes(rng: np.random.Generator, size: int) -> list[list[Row]]:
    """Three boxes an image, (center_x, center_y, width, height), all within the image."""
    sides = np.clip(rng.lognormal(-1.6, 0.5, (size, 3, 2)), 0.03, 0.9)
    centers = sides / 2 + rng.random((size, 3, 2)) * (1 - sides)
    boxes: NDArray[np.float64] = np.concatenate((centers, sides), axis=-1)
    rows: list[list[Row]] = boxes.tolist()
    return rows


def _metadata(block: _Block, image: int) -> Iterator[Document]:
    yield {
        "image_id": block.ids[image],
        "capture_timestamp": block.timestamp(image, days=0),
        "synthetic": True,
    }


def _predictions(block: _Block, image: int) -> Iterator[Document]:
    for model, version in enumerate(_versions(block, image)):
        yield _prediction(block, image, block.ids[image], version, model)
    if block.unknown[image] < UNKNOWN:
        yield _prediction(block, image, block.unknown_ids[image], "2.0.0", 1)


def _versions(block: _Block, image: int) -> tuple[str, ...]:
    return (("1.0.0",), ("2.0.0",), ("1.0.0", "2.0.0"), ())[block.predicted[image]]


def _prediction(block: _Block, image: int, image_id: str, version: str, model: int) -> Document:
    # The audit is of the newest version; older ones are wrong a bit more often.
    is_newest = version == (_versions(block, image) or ("2.0.0",))[-1]
    right = block.is_correct(image) if is_newest and block.is_audited(image) else block.wrong[image][model] < 0.4
    faces = block.faces[image]
    if not right and block.wrong[image][model] < 0.15:
        faces = max(0, faces - 1)  # one is missed
    elif not right and block.wrong[image][model] > 0.9:
        faces = min(3, faces + 1)  # one that isn't there
    by = 0.008 if right else 0.06
    boxes = []
    for face in range(faces):
        x, y, width, height = block.boxes[image][face]
        dx, dy, dw, dh = block.shift[image][model][face]
        width, height = max(0.01, width * (1 + by * dw)), max(0.01, height * (1 + by * dh))
        x, y = x + by * dx, y + by * dy
        if version == "1.0.0":
            boxes.append(_corners(x, y, width, height))
        else:
            over = block.over[image][face] < PREDICTED_OVER_THE_EDGE
            boxes.append(_center(x, y, width, height, over=over))
    return {"image_id": image_id, "bboxes": boxes, "model_version": version, "synthetic": True}


def _audits(block: _Block, image: int) -> Iterator[Document]:
    if not block.is_audited(image):
        return
    audit = {
        "image_id": block.ids[image],
        "model_version": _versions(block, image)[-1],
        "bbox_correct": block.is_correct(image),
        "auditor": _person(block.person[image][0]),
        "task_version": "1.0.0",
        "timestamp": block.timestamp(image, days=1 + 30 * block.delay[image][0]),
        "synthetic": True,
    }
    if block.twice[image] < AUDITED_TWICE:
        # The definition of a correct box has changed: the earlier answer, often the other, counts no more.
        earlier = {**audit, "bbox_correct": block.twice[image] < AUDITED_TWICE / 2}
        yield earlier
        timestamp = block.timestamp(image, days=40 + 30 * block.delay[image][0])
        yield {
            **audit,
            "auditor": _person(block.person[image][1]),
            "task_version": "2.0.0",
            "timestamp": timestamp,
        }
    else:
        yield audit


def _annotations(block: _Block, image: int) -> Iterator[Document]:
    if not block.is_audited(image) or block.is_correct(image) or block.annotated[image] >= ANNOTATED:
        return
    second = block.second_version[image] < SECOND_TASK_VERSION
    faces = block.faces[image]
    days = 80 + 30 * block.delay[image][1]
    boxes: list[Any] = []
    # In the real data it is by the document; an image without a face is one document.
    if faces == 0 or block.null[image] < NULL:
        boxes = [NO_FACE if block.none_text[image] < NONE_TEXT else None]
    else:
        for face in range(faces):
            fault, side = block.fault[image][face], block.side[image][face]
            x, y, width, height = block.boxes[image][face]
            if second:
                boxes.append(_center(x, y, width, height, over=fault < OVER_THE_EDGE))
            else:
                boxes.append(_faulty_corners(_corners(x, y, width, height), fault, side))
    for face, bbox in enumerate(boxes):
        yield {
            "image_id": block.ids[image],
            "bbox": bbox,
            "annotator": _person(block.person[image][1]),
            "task_version": "2.0.0" if second else "1.0.0",
            # Half of the images with several faces were done at one go.
            "timestamp": block.timestamp(image, days=days + (face if block.twice[image] < 0.5 else 0)),
            "synthetic": True,
        }


def _corners(x: float, y: float, width: float, height: float) -> dict[str, float]:
    sides = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    left, top, right, bottom = (round(min(max(side, 0.0), 1.0), 3) for side in sides)
    return {
        "top": top,
        "bottom": max(bottom, round(top + 0.001, 3)),
        "left": left,
        "right": max(right, round(left + 0.001, 3)),
    }


def _faulty_corners(box: dict[str, float], fault: float, side: float) -> dict[str, float]:
    """The box, or with its true share of chance one whose corners are swapped or lie outside the image."""
    if fault < SWAPPED:
        one, other = ("top", "bottom") if side < 0.5 else ("left", "right")
        return {**box, one: box[other], other: box[one]}
    if fault < SWAPPED + OUTSIDE:
        beyond = round(0.001 + 0.05 * abs(side - 0.5), 3)
        if side < 0.5:
            return {**box, "top" if side < 0.25 else "left": -beyond}
        return {**box, "bottom" if side < 0.75 else "right": round(1 + beyond, 3)}
    return box


def _center(x: float, y: float, width: float, height: float, *, over: bool) -> dict[str, float]:
    """In center notation, whole in the image or just over its edge."""
    width, height = min(width, 0.98), min(height, 0.98)
    x, y = (min(max(at, side / 2 + 0.001), 0.999 - side / 2) for at, side in ((x, width), (y, height)))
    if over:
        y = 1.005 - height / 2 if y >= 0.5 else height / 2 - 0.005
    return {
        "center_x": round(x, 3),
        "center_y": round(y, 3),
        "width": round(width, 3),
        "height": round(height, 3),
    }


def _person(number: int) -> str:
    return f"person-{number}@example.org"
