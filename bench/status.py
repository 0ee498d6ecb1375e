"""How soon and how truly the running service answers on a large workspace that others write into.

    python bench/status.py [--images 1000000] [--seconds 30] [--rate 2000]

One run measures, on the same workspace: the status over HTTP while nothing is written, then while another process
inserts, updates and deletes documents in all four collections at a rate; against one aggregation over the four
collections, which is what a script without Truthloop would do. How long an answer was wrong is measured by a
counter: the writer inserts numbered images and notes when each was acknowledged; an answer that lacks image n is
wrong for as long as image n had been acknowledged when it was asked for. Last, bursts at full speed.
"""

import argparse
import json
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from truthloop.settings import load_settings
from truthloop.store.connection import Store, connect
from truthloop.workspace import Workspace

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    PORT = probe.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=int, default=2_000, help="documents written a second, about")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="truthloop-bench-") as folder:
        os.environ["TRUTHLOOP_HOME"] = str(Path(folder) / ".truthloop")
        with Workspace.open(load_settings(), create=True) as workspace:
            fill(workspace, arguments.images)
            started = time.perf_counter()
            workspace.status()
            print(f"first count of {arguments.images:,} images: {time.perf_counter() - started:.1f} s")
            started = time.perf_counter()
            aggregate(workspace.store)
            peer = time.perf_counter() - started
            print(f"one aggregation over the four collections: {peer:.2f} s")
            with service() as token:
                ask(token, 0.001)  # the first answer after a start waits until the figures are taken up
                idle = ask(token, arguments.seconds / 2)
                report("status over HTTP, nothing written", idle, peer)
                ours, theirs = multiprocessing.Pipe()
                writer = multiprocessing.get_context("spawn").Process(
                    target=write, args=(theirs, arguments.rate, arguments.seconds)
                )
                writer.start()
                ours.recv()
                before = workspace.status().images
                busy = ask(token, arguments.seconds)
                acknowledged, written = ours.recv()
                writer.join()
                rate = written / arguments.seconds
                report(f"status over HTTP, {rate:,.0f} documents written a second", busy, peer)
                wrong = [wrong_for(answer, acknowledged, before) for answer in busy]
                print(
                    f"  an answer was wrong for: median {statistics.median(wrong):.2f} s, "
                    f"longest {max(wrong):.2f} s ({max(wrong) / 2:.2f} of the limit of 2 s)"
                )
                burst(workspace, token)
        subprocess.run([sys.executable, "-m", "truthloop", "down"], check=True, stdout=subprocess.DEVNULL)


def fill(workspace: Workspace, images: int) -> None:
    started = time.perf_counter()
    workspace.sample(images=images, seed=1)
    print(f"a sample of {images:,} images loaded in {time.perf_counter() - started:.1f} s")


def aggregate(store: Store) -> None:
    """One `$unionWith` of all four collections, grouped by image: exact but for verdicts of several audits."""
    union = [
        {"$unionWith": {"coll": name, "pipeline": [{"$project": {"image_id": 1, "what": {"$literal": name}}}]}}
        for name in ("bbox.model", "bbox.human_audit", "bbox.human_annotation")
    ]
    list(
        store["metadata"].aggregate(
            [
                {"$project": {"image_id": 1, "what": {"$literal": "metadata"}}},
                *union,
                {"$group": {"_id": "$image_id", "what": {"$addToSet": "$what"}}},
                {"$group": {"_id": "$what", "count": {"$sum": 1}}},
            ],
            allowDiskUse=True,
        )
    )


@contextmanager
def service() -> Iterator[str]:
    home = Path(os.environ["TRUTHLOOP_HOME"])
    process = subprocess.Popen(
        [sys.executable, "-m", "truthloop", "up", "--port", str(PORT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield (home / "token").read_text().strip()
    finally:
        process.terminate()
        process.wait()


def ask(token: str, seconds: float) -> list[tuple[float, float, dict[str, Any]]]:
    """Asks again and again; gives when each was asked, how long it took, and the answer."""
    answers = []
    ends = time.time() + seconds
    while time.time() < ends:
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORT}/api/v1/status", headers={"Authorization": f"Bearer {token}"}
        )
        asked = time.time()
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        answers.append((asked, time.time() - asked, answer))
        time.sleep(0.01)
    return answers


def report(name: str, answers: list[tuple[float, float, dict[str, Any]]], peer: float) -> None:
    took = sorted(seconds for _, seconds, _ in answers)
    p50, p99 = (took[int(len(took) * share)] for share in (0.5, 0.99))
    print(
        f"{name}: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, longest {took[-1] * 1000:.1f} ms "
        f"({len(took)} answers); {peer / p50:,.0f} times faster than the aggregation"
    )


def wrong_for(answer: tuple[float, float, dict[str, Any]], acknowledged: list[float], before: int) -> float:
    """How long the first image that the answer lacks had been acknowledged when it was asked."""
    asked, _, status = answer
    counted = status["images"] - before
    return max(0.0, asked - acknowledged[counted]) if counted < len(acknowledged) else 0.0


def write(pipe: Connection, rate: int, seconds: float) -> None:
    """Writes in ten bursts a second: numbered images, and inserts, updates and deletes elsewhere."""
    with connect(load_settings(), create=True) as store:
        generator = random.Random(2)
        ids = [document["image_id"] for document in store["metadata"].find({}, {"image_id": 1}).limit(200_000)]
        acknowledged: list[float] = []
        written, number = 0, 0
        pipe.send("ready")
        share = max(1, rate // 40)
        ends = time.time() + seconds
        while time.time() < ends:
            began = time.time()
            chosen = generator.sample(ids, min(len(ids), 3 * share))
            store["metadata"].insert_many(
                [{"image_id": f"bench-{number + n:09}"} for n in range(share)], ordered=False
            )
            acknowledged += [time.time()] * share
            number += share
            store["bbox.human_annotation"].insert_many(
                [
                    {
                        "image_id": image_id,
                        "bbox": None,
                        "annotator": "bench",
                        "task_version": "2.0.0",
                        "timestamp": time.time(),
                    }
                    for image_id in chosen[:share]
                ],
                ordered=False,
            )
            store["bbox.human_audit"].update_many(
                {"image_id": {"$in": chosen[share : 2 * share]}},
                [{"$set": {"bbox_correct": {"$not": "$bbox_correct"}}}],
            )
            store["bbox.model"].delete_many({"image_id": {"$in": chosen[2 * share :]}})
            written += 4 * share
            time.sleep(max(0.0, 0.1 - (time.time() - began)))
        pipe.send((acknowledged, written))


def burst(workspace: Workspace, token: str) -> None:
    """Deletes and inserts 50,000 documents as fast as MongoDB takes them, and waits for the figures."""
    collection = workspace.store["bbox.human_annotation"]
    documents = list(collection.find().limit(50_000))
    for name, act in (
        ("deleted", lambda: collection.delete_many({"_id": {"$in": [document["_id"] for document in documents]}})),
        ("inserted", lambda: collection.insert_many(documents, ordered=False)),
    ):
        started = time.perf_counter()
        act()
        took = time.perf_counter() - started
        acted = time.time()
        while datetime.fromisoformat(ask(token, 0.001)[-1][2]["as_of"]).timestamp() < acted:
            pass
        print(
            f"burst: {len(documents):,} documents {name} in {took:.2f} s; the status counted them all "
            f"{time.time() - acted:.2f} s later"
        )


if __name__ == "__main__":
    main()
