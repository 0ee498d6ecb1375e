"""Fixtures of the tests of jobs and batches."""

from pathlib import Path

import pytest

from predict.given import png
from truthloop.blobs import Blobs
from truthloop.ingest.images import StoredImage, store_image
from truthloop.store.connection import Store
from truthloop.workspace import Workspace


@pytest.fixture
def blobs(store: Store, tmp_path: Path) -> Blobs:
    """A blob store in a folder of its own, to which the store's settings lead."""
    store.settings = store.settings.model_copy(update={"blobs": f"file://{tmp_path / 'blobs'}"})
    return Blobs.open(store.settings)


@pytest.fixture
def image(store: Store, blobs: Blobs) -> StoredImage:
    """A stored image of a few pixels."""
    return store_image(blobs, store.settings, png(51))


@pytest.fixture
def images(store: Store, blobs: Blobs) -> list[str]:
    """Ten images with pixels, in the order of their ids."""
    workspace = Workspace(store)
    return sorted(workspace.ingest_image(png(grey + 1), name=f"{grey}.png").image_id for grey in range(10))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put back is tried again soon."""
    monkeypatch.setattr("truthloop.predict.worker.WITHOUT_SECONDS", 0.0)
    monkeypatch.setattr("truthloop.predict.worker.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("truthloop.predict.held.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("truthloop.predict.held.AWAY_SECONDS", 0.05)
