"""Building a dataset against the least that it can cost, and against a loop that asks for each image.

    python bench/dataset.py [--images 10000 100000 1000000] [--rounds 3] [--predictions plain recorded]

Ours: `build` to the swap with its record and event, everything decided, clipped and reported; the Parquet file is
told apart. Limit: the raw bytes of `bbox.model` and `bbox.human_annotation` read, and the documents of the result,
ready as bytes, given to `insert_many`: into a collection without further indexes, and into one with the index on
image_id that the result has. Loop: for each image a `find` in each collection and an `insert_one`, by the rule
without clipping; run on 2,000 images at most, and scaled. Rounds are interleaved; ratios are of one round.

Predictions are `plain`, with nothing but their boxes' numbers, or `recorded`: as `truthloop predict --as` stores
them, with label and score on each box, the model and a timestamp on each document.
"""

import argparse
import contextlib
import itertools
import os
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from truthloop.boxes import parse
from truthloop.datasets.build import build
from truthloop.ingest.sample import make_sample
from truthloop.models.documents import ScoredBox
from truthloop.settings import load_settings
from truthloop.store.connection import Store, connect
from truthloop.versions import version_key

LOOP_IMAGES = 2_000


@contextlib.contextmanager
def workspace(folder: Path, images: int, predictions: str) -> Iterator[Store]:
    os.environ["TRUTHLOOP_DATABASE"] = f"bench-{uuid.uuid4().hex[:8]}"
    settings = load_settings(folder / ".truthloop")
    with connect(settings, create=True) as store:
        make_sample(store, images=images, seed=1)
        if predictions == "recorded":
            record(store)
        yield store
        store.client.drop_database(settings.database)


def record(store: Store) -> None:
    """Stores the predictions again, as if a model had been run over the images."""
    rng = random.Random(1)
    model = {"name": "bench", "version": "1.0.0", "sha256": "0" * 64}
    collection = store["bbox.model"]
    documents = list(collection.find({}))
    for document in documents:
        boxes = [parse(box).clipped() for box in document["bboxes"]]
        document["bboxes"] = [
            ScoredBox(label="face", score=rng.random(), **box.corners()).model_dump() for box in boxes
        ]
        document |= {"model": model, "timestamp": 1.7e9 + rng.random()}
    collection.delete_many({})
    collection.insert_many(documents, ordered=False)


def limit(store: Store, documents: list[RawBSONDocument], *, indexed: bool) -> float:
    store.database.drop_collection("limit")
    started = time.perf_counter()
    for name in ("bbox.model", "bbox.human_annotation"):
        for batch in store[name].find_raw_batches():
            len(batch)
    target = store.database.get_collection("limit", codec_options=CodecOptions(RawBSONDocument))
    if indexed:
        target.create_index("image_id")
    target.insert_many(documents, ordered=False)
    return time.perf_counter() - started


def loop(store: Store, image_ids: list[str]) -> float:
    store.database.drop_collection("loop")
    started = time.perf_counter()
    for image_id in image_ids:
        drawn = list(store["bbox.human_annotation"].find({"image_id": image_id}))
        predicted = list(store["bbox.model"].find({"image_id": image_id}))
        audits = list(store["bbox.human_audit"].find({"image_id": image_id}))
        bboxes: list[Any]
        if drawn:
            newest = max(drawn, key=lambda one: (one["timestamp"], version_key(one["task_version"])))
            group = [one for one in drawn if one["task_version"] == newest["task_version"]]
            bboxes = [one["bbox"] for one in group if one["bbox"] not in (None, "None")]
        elif predicted:
            bboxes = max(predicted, key=lambda one: version_key(one["model_version"]))["bboxes"]
        else:
            continue
        store["loop"].insert_one({"image_id": image_id, "bboxes": bboxes, "audits": len(audits)})
    return time.perf_counter() - started


def told(values: list[float]) -> str:
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--predictions", nargs="+", choices=["plain", "recorded"], default=["plain", "recorded"])
    arguments = parser.parse_args()
    print("min / median / max of the rounds; seconds, then ours in times the limit, and the loop in times ours")
    print(
        "| images | predictions | ours | parquet | limit | limit with index | ours : limit | ours : indexed limit "
        "| loop : ours |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="truthloop-bench-") as name:
        try:
            for images, predictions in itertools.product(arguments.images, arguments.predictions):
                with workspace(Path(name), images, predictions) as store:
                    print(row(store, images, predictions, arguments.rounds), flush=True)
        finally:
            settings = load_settings(Path(name) / ".truthloop")
            if settings.mongodb_uri is None:
                from truthloop.store import embedded

                embedded.stop(settings.home)


def row(store: Store, images: int, predictions: str, rounds: int) -> str:
    build(store)  # the first one finds a cold cache
    raw = store.database.get_collection("bbox_dataset", codec_options=CodecOptions(RawBSONDocument))
    documents = list(raw.find())
    image_ids = [each["image_id"] for each in store["metadata"].find({}, {"image_id": 1}).limit(LOOP_IMAGES)]
    ours, parquet, bare, indexed, looped = [], [], [], [], []
    for _ in range(rounds):
        bare.append(limit(store, documents, indexed=False))
        started = time.perf_counter()
        report = build(store)
        whole = time.perf_counter() - started
        assert report.seconds is not None
        parquet.append(report.seconds.parquet)
        ours.append(whole - report.seconds.parquet)
        indexed.append(limit(store, documents, indexed=True))
        looped.append(loop(store, image_ids) * images / len(image_ids))
    against = [
        told([mine / other for mine, other in zip(ours, others, strict=True)]) for others in (bare, indexed)
    ]
    faster = told([other / mine for mine, other in zip(ours, looped, strict=True)])
    cells = (f"{images:,}", predictions, told(ours), told(parquet), told(bare), told(indexed), *against, faster)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
