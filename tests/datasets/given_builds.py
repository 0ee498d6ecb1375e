"""What the tests of builds are given: images to build from, and ways to look at what was built."""

from pathlib import Path
from typing import Any

from datasets.documents import BOX, annotation, prediction
from truthloop.datasets.show import find_built
from truthloop.store.connection import Store


def fill(store: Store, images: int = 5) -> None:
    """Images a0, a1, ...: the even ones predicted, the first annotated."""
    names = [f"a{number}" for number in range(images)]
    store["metadata"].insert_many([{"image_id": name} for name in names])
    store["bbox.model"].insert_many([prediction(name, BOX) for name in names[::2]])
    store["bbox.human_annotation"].insert_one(annotation("a0", BOX))


def stored(store: Store) -> list[dict[str, Any]]:
    return list(store["bbox_dataset"].find().sort("_id", 1))


def events(store: Store) -> list[tuple[str, int]]:
    found = store["truthloop.events"].find({"type": "dev.truthloop.dataset.built"}).sort("_id", 1)
    return [(event["subject"], event["sequence"]) for event in found]


def temporaries(store: Store) -> list[str]:
    return store.database.list_collection_names(filter={"name": {"$regex": "building"}})


def folder(store: Store, version: int) -> Path:
    return store.settings.home / "datasets" / find_built(store, version)["folder"]
