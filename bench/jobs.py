"""Inference jobs against Celery on a durable Redis, a worker against a bare loop, and two workers against one.

    python bench/jobs.py [--rounds 3] [--jobs 400] [--images 5000] [--only a,b,c]

(a) Both sides are submitted to from this process and run MobileNet in one worker process, on the same images.
Celery acknowledges late and its Redis writes each command to disk (AOF, fsync always), which is what MongoDB's
majority writes promise. It runs twice: as it does by default, in a child process (prefork), and within its worker
(solo), which is quicker and dies with a task that crashes. Once with 64 jobs in flight, once one at a time, each
submitted when the one before has been read back. (b) A batch over stored images against a loop that reads, decodes
and infers the same files with as many threads. (c) Two workers against one, with 64 jobs in flight. Rounds are
interleaved.

Needs the model (in TRUTHLOOP_TEST_DATA/models, in TRUTHLOOP_MODELS, or `truthloop models pull mobilenet_v2`), and
for (a) a `redis-server` on the path (Debian: apt-get install redis-server) and the group `bench` of pyproject.toml
(pip install --group bench).
"""

import argparse
import importlib.util
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from truthloop.blobs import Blobs
from truthloop.ingest.image_file import decode
from truthloop.ingest.images import StoredImage, store_image
from truthloop.models.catalogue import Catalogue
from truthloop.models.load import load_model
from truthloop.settings import load_settings
from truthloop.workspace import Workspace

MODEL = "mobilenet_v2"
IN_FLIGHT = 64
POOLS = ("prefork", "solo")
MAX_PIXELS = 100_000_000


def picture(number: int) -> bytes:
    """A JPEG of 640 x 480 pixels with large and small structures, another for each number."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    pixels = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
    fine = rng.integers(0, 24, (120, 160, 3), np.uint8)
    pixels = cv2.add(pixels, cv2.resize(fine, (640, 480), interpolation=cv2.INTER_NEAREST))
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def the_model() -> Any:
    settings = load_settings()
    return load_model(settings, Catalogue.open(settings).entry(MODEL), fetch=True)


# -- Celery's side


def celery_app(port: int) -> Any:
    from celery import Celery

    url = f"redis://127.0.0.1:{port}/0"
    app = Celery("jobs", broker=url, backend=url)
    app.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=16,
        task_ignore_result=False,
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="predict")
    def predict(path: str) -> Any:
        global model
        if model is None:
            model = the_model()
        pixels = decode(Path(path).read_bytes(), max_pixels=MAX_PIXELS)
        return model.predict(pixels).model_dump()

    app.predict = predict
    return app


model: Any = None


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def celery_worker(port: int, pool: str) -> Iterator[Any]:
    environment = {**os.environ, "BENCH_REDIS_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, __file__, "celery-worker", "--pool", pool],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield celery_app(port)
    finally:
        process.terminate()
        process.wait()


class CelerySide:
    """Submits to Celery and waits for results."""

    def __init__(self, app: Any, paths: list[str]) -> None:
        self._app, self._paths = app, paths

    def submit(self, number: int) -> Any:
        return self._app.predict.apply_async(args=(self._paths[number % len(self._paths)],))

    def wait(self, handle: Any) -> None:
        assert handle.get(timeout=120)["labels"]


# -- our side


@contextmanager
def our_worker() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, __file__, "worker"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.terminate()
        process.wait()


class OurSide:
    """Submits to Truthloop, waits by the live events, and reads results."""

    def __init__(self, workspace: Workspace, images: list[StoredImage]) -> None:
        self._workspace, self._images = workspace, images
        self._ended: dict[str, str] = {}
        self._events = workspace.hub.follow()

    def submit(self, number: int) -> str:
        return self._workspace.jobs.submit(MODEL, image=self._images[number % len(self._images)]).id

    def wait(self, job_id: str) -> None:
        while job_id not in self._ended:
            event = next(self._events)
            if event.verb in ("succeeded", "failed"):
                self._ended[event.subject] = event.verb
        assert self._ended.pop(job_id) == "succeeded"
        assert self._workspace.jobs.result(job_id).labels


# -- what is measured


def throughput(side: Any, jobs: int) -> float:
    """Jobs a second, with so many in flight."""
    waiting: deque[Any] = deque()
    began = time.perf_counter()
    for number in range(jobs):
        if len(waiting) == IN_FLIGHT:
            side.wait(waiting.popleft())
        waiting.append(side.submit(number))
    while waiting:
        side.wait(waiting.popleft())
    return jobs / (time.perf_counter() - began)


def latency(side: Any, jobs: int) -> float:
    """The median time of a job alone, in milliseconds; the next is submitted when it has ended."""
    times = []
    for number in range(jobs):
        began = time.perf_counter()
        side.wait(side.submit(number))
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def bare_loop(paths: list[str], loaded: Any, threads: int) -> float:
    """Images a second, read and decoded on threads ahead of the model."""

    def prepare(path: str) -> Any:
        return loaded.prepare(decode(Path(path).read_bytes(), max_pixels=MAX_PIXELS))

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Any] = deque()
        for path in paths:
            coming.append(pool.submit(prepare, path))
            if len(coming) > 4 * threads:
                loaded.run([coming.popleft().result()])
        while coming:
            loaded.run([coming.popleft().result()])
    return len(paths) / (time.perf_counter() - began)


def batch(workspace: Workspace, ids: list[str]) -> float:
    """Images a second, of a batch that is worked in this process."""
    began = time.perf_counter()
    made = [
        workspace.batches.create(MODEL, image_ids=ids[start : start + 10_000])
        for start in range(0, len(ids), 10_000)
    ]
    for each in made:
        done = workspace.batches.work(each.id)
        assert done.refused == 0, done
    return len(ids) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", nargs="?", choices=["worker", "celery-worker"], help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--only", default="a,b,c")
    parser.add_argument("--pool", choices=POOLS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "worker":
        work()
    elif options.role == "celery-worker":
        celery_app(int(os.environ["BENCH_REDIS_PORT"])).worker_main(
            [
                *("worker", "--pool", options.pool, "--concurrency", "1", "--loglevel", "ERROR"),
                *("--without-gossip", "--without-mingle"),
            ]
        )
    else:
        measure(options)


def work() -> None:
    import signal

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Workspace.open(load_settings(), create=False) as workspace:
        workspace.run_worker(stop, models=[MODEL], pull=True, ready=lambda: print("ready", flush=True))


def measure(options: argparse.Namespace) -> None:
    which = set(options.only.split(","))
    has_celery = importlib.util.find_spec("celery") and importlib.util.find_spec("redis")
    if "a" in which and not (shutil.which("redis-server") and has_celery):
        print(
            "(a) is left out: it needs redis-server (apt-get install redis-server) and pip install --group bench."
        )
        which.discard("a")
    seen: dict[str, list[float]] = {}

    def note(name: str, work: Callable[[], float]) -> None:
        seen.setdefault(name, []).append(work())
        print(f"  {name}: {seen[name][-1]:.1f}", flush=True)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="truthloop-bench-")))
        os.environ["TRUTHLOOP_HOME"] = str(folder / ".truthloop")
        shared = Path(os.environ.get("TRUTHLOOP_TEST_DATA", Path(__file__).parent.parent.parent / "shared"))
        os.environ.setdefault("TRUTHLOOP_MODELS", str(shared / "models"))
        from truthloop.store import embedded

        stack.callback(embedded.stop, folder / ".truthloop")
        workspace = stack.enter_context(Workspace.open(load_settings(), create=True))
        blobs = Blobs.open(workspace.settings)
        images, paths = [], []
        for number in range(64):
            data = picture(number)
            images.append(store_image(blobs, workspace.settings, data))
            paths.append(str(folder / f"{number}.jpg"))
            Path(paths[-1]).write_bytes(data)
        ours = OurSide(workspace, images)
        theirs = {}
        for pool in POOLS if "a" in which else ():
            (folder / pool).mkdir()
            port = stack.enter_context(redis_server(folder / pool))
            theirs[pool] = CelerySide(stack.enter_context(celery_worker(port, pool)), paths)
            throughput(theirs[pool], 32)  # the model is loaded with the first job
        for number in range(options.rounds if which & {"a", "c"} else 0):
            print(f"round {number + 1}", flush=True)
            with our_worker():
                throughput(ours, 32)
                # Whichever is not measured waits, and costs nothing.
                for name, side in {"ours": ours, **theirs}.items() if theirs else ():
                    note(f"{name}, 64 in flight, jobs/s", lambda side=side: throughput(side, options.jobs))
                for name, side in {"ours": ours, **theirs}.items() if theirs else ():
                    note(f"{name}, one at a time, p50 ms", lambda side=side: latency(side, options.jobs // 2))
                if "c" in which:
                    note("one worker, jobs/s", lambda: throughput(ours, options.jobs))
                    with our_worker():
                        throughput(ours, 32)
                        note("two workers, jobs/s", lambda: throughput(ours, options.jobs))
        if "b" in which:
            files = many(workspace, folder, options.images)
            loaded = the_model()
            bare_loop([path for _, path in files[:100]], loaded, os.cpu_count() or 1)
            for _ in range(options.rounds):
                note(
                    "bare loop, images/s",
                    lambda: bare_loop([path for _, path in files], loaded, os.cpu_count() or 1),
                )
                note("batch, images/s", lambda: batch(workspace, [image_id for image_id, _ in files]))
    report(seen)


def many(workspace: Workspace, folder: Path, number: int) -> list[tuple[str, str]]:
    """The ids of so many stored images, and their files."""
    made = []
    for each in range(number):
        data = picture(each)
        path = folder / f"many-{each}.jpg"
        path.write_bytes(data)
        made.append((workspace.ingest_image(data, name=path.name).image_id, str(path)))
    return made


def report(seen: dict[str, list[float]]) -> None:
    print()
    for name, values in seen.items():
        values = sorted(values)
        print(f"{name:32} {values[0]:8.1f} / {statistics.median(values):8.1f} / {values[-1]:8.1f}")

    def ratio(one: str, other: str) -> str:
        ratios = sorted(a / b for a, b in zip(seen[one], seen[other], strict=True))
        return f"{ratios[0]:.2f} / {statistics.median(ratios):.2f} / {ratios[-1]:.2f}"

    told = (
        *(
            (f"(a) {what} of ours against Celery's, {pool}  ({aim})", f"ours, {how}", f"{pool}, {how}")
            for what, how, aim in (
                ("throughput", "64 in flight, jobs/s", "> 1"),
                ("p50", "one at a time, p50 ms", "<= 1.3"),
            )
            for pool in POOLS
        ),
        ("(b) a batch against the bare loop  (>= 0.85)", "batch, images/s", "bare loop, images/s"),
        ("(c) two workers against one", "two workers, jobs/s", "one worker, jobs/s"),
    )
    for name, one, other in told:
        if one in seen and other in seen:
            print(f"{name:62} {ratio(one, other)}")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.05)


if __name__ == "__main__":
    main()
