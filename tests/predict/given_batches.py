"""What the tests of batches are given: ways to work them, whole or by slices, and to see what they recorded."""

import threading
from typing import Any

from predict.given import FINDER, TinyModel, events_of, loaded
from truthloop.blobs import Blobs
from truthloop.predict import slices
from truthloop.predict.documents import Batch
from truthloop.predict.run import work_batch
from truthloop.predict.slice_claim import claim_slice
from truthloop.predict.work import Outcome
from truthloop.store.connection import Store


def work(store: Store, blobs: Blobs, batch: Batch, model: TinyModel | None = None, **more: Any) -> Batch:
    return work_batch(
        store,
        blobs,
        batch.id,
        more.pop("stop", threading.Event()),
        loaded=loaded(model or TinyModel(entry=FINDER)),
        **more,
    )


def predictions(store: Store) -> list[tuple[str, str]]:
    return sorted((each["image_id"], each["model_version"]) for each in store["bbox.model"].find())


def take(store: Store, blobs: Blobs, size: int = 4) -> slices.Slice:
    piece = claim_slice(store, blobs, worker="me", size={"finder": size}.__getitem__)
    assert piece is not None
    return piece


def found(piece: slices.Slice) -> list[Outcome]:
    return [Outcome(prediction=TinyModel(entry=FINDER).run([1.0])[0]) for _ in piece.items]


def assert_events_in_order(store: Store, batch: Batch) -> None:
    events = events_of(store, batch.id)
    assert [sequence for sequence, _, _ in events] == list(range(1, batch.revision + 1)), events
    assert events[-1][2] == batch.state
