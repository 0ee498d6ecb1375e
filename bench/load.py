"""Loading against plain `insert_many`, and a repeated load against the first, in one run.

    python bench/load.py [--documents 1000000] [--rounds 5]

Ours: parsed documents are checked, given their identity, encoded, stored, and their image ids looked up in
metadata. Peer: `insert_many`, unordered, of the same parsed documents with their `_id` in them already, into a
collection with the same indexes; once with our ids, once with ascending ObjectIds. Rounds are interleaved.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bson.binary import Binary
from bson.objectid import ObjectId

from truthloop.ingest.documents import ID_SUBTYPE, identity
from truthloop.ingest.load import load, load_chunks
from truthloop.ingest.read import Documents
from truthloop.settings import load_settings
from truthloop.store.connection import Store, connect

NAME = "bbox.human_annotation"
CHUNK = 5000  # about a megabyte of text, as the reader gives them out


def annotations(number: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    sides = np.round(np.sort(rng.random((number, 2, 2)), axis=1), 3).tolist()
    stamps = (1.68e9 + np.round(rng.random(number) * 3e7)).tolist()
    people, versions = rng.integers(10, size=number).tolist(), rng.integers(1, 3, size=number).tolist()
    ids = rng.bytes(16 * number).hex()
    documents, image = [], 0
    for row in range(number):
        if row % 4 != 1:  # now and then an image has two faces, and they stand together
            image = row
        ((left, top), (right, bottom)) = sides[row]
        documents.append(
            {
                "image_id": ids[32 * image : 32 * image + 32],
                "bbox": {"top": top, "bottom": bottom, "left": left, "right": right},
                "annotator": f"person-{people[row]}@example.org",
                "task_version": f"{versions[row]}.0.0",
                "timestamp": stamps[row],
            }
        )
    return documents


@contextlib.contextmanager
def workspace() -> Iterator[Store]:
    """A workspace of its own: on TRUTHLOOP_MONGODB_URI, else on an embedded server that is stopped again."""
    os.environ["TRUTHLOOP_DATABASE"] = f"bench-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="truthloop-bench-") as folder:
        settings = load_settings(Path(folder) / ".truthloop")
        try:
            with connect(settings, create=True) as store:
                yield store
                store.client.drop_database(settings.database)
        finally:
            if settings.mongodb_uri is None:
                from truthloop.store import embedded

                embedded.stop(settings.home)


def empty(store: Store) -> Any:
    """The collection, empty, with the indexes that a workspace gives it."""
    indexes = [index["key"] for name, index in store[NAME].index_information().items() if name != "_id_"]
    store[NAME].drop()
    store["truthloop.loads"].delete_many({})
    for keys in indexes:
        store[NAME].create_index(keys)
    gc.collect()
    return store[NAME]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ours(store: Store, documents: list[dict[str, Any]]) -> None:
    chunks = (
        Documents(at, documents[at : at + CHUNK], None, 0, 200 * CHUNK) for at in range(0, len(documents), CHUNK)
    )
    report = load_chunks(store, NAME, chunks, file=Path("bench.json"))
    assert report.ok and report.read == len(documents), report
    assert report.new in (0, len(documents)), report
    assert not report.unknown_images.count, report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    documents = annotations(options.documents)
    with_ours = [{"_id": Binary(identity(NAME, each) or b"", ID_SUBTYPE), **each} for each in documents]
    with_theirs = [{"_id": ObjectId(), **each} for each in documents]
    seconds: dict[str, list[float]] = {}

    def note(name: str, work: Callable[[], object]) -> None:
        seconds.setdefault(name, []).append(timed(work))

    with workspace() as store, tempfile.TemporaryDirectory() as folder:
        images = sorted({each["image_id"] for each in documents})
        chunk = Documents(0, [{"image_id": image} for image in images])
        load_chunks(store, "metadata", [chunk], file=Path("bench.json"))
        path = Path(folder) / f"{NAME}.json"
        path.write_text("[" + ",".join(map(json.dumps, documents)) + "]", encoding="utf-8")
        for number in range(options.rounds):
            # The peer can't be better than with larger or smaller batches: it makes its own, by message size.
            peer = empty(store)
            note("insert_many, our ids", lambda peer=peer: peer.insert_many(with_ours, ordered=False))
            peer = empty(store)
            note("insert_many, ObjectIds", lambda peer=peer: peer.insert_many(with_theirs, ordered=False))
            empty(store)
            note("ours", lambda: ours(store, documents))
            note("ours, again", lambda: ours(store, documents))
            empty(store)
            note("ours, from a file", lambda: load(store, [path]))
            note("ours, from a file, again", lambda: load(store, [path]))
            print(f"round {number + 1}:", {name: round(each[-1], 2) for name, each in seconds.items()}, flush=True)

    def ratio(one: str, other: str) -> str:
        ratios = sorted(a / b for a, b in zip(seconds[one], seconds[other], strict=True))
        return f"{ratios[0]:.2f} / {statistics.median(ratios):.2f} / {ratios[-1]:.2f}"

    print(f"\n{options.documents:,} documents, {options.rounds} rounds; min / median / max")
    for name, each in seconds.items():
        rates = sorted(options.documents / second / 1000 for second in each)
        print(f"{name:28} {rates[0]:.0f} / {statistics.median(rates):.0f} / {rates[-1]:.0f} thousand documents/s")
    print(
        f"rate of ours against insert_many with our ids:        {ratio('insert_many, our ids', 'ours')}  (>= 0.85)"
    )
    print(f"rate of ours against insert_many with ObjectIds:      {ratio('insert_many, ObjectIds', 'ours')}")
    print(f"rate of a repeated load against the first:            {ratio('ours', 'ours, again')}  (>= 2)")
    again = ratio("ours, from a file", "ours, from a file, again")
    print(f"rate of a repeated load of a file against the first:  {again}")


if __name__ == "__main__":
    main()
