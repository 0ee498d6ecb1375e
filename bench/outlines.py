"""How long the outlines of a class map of 513 x 513 cells take, against other ways to get them.

    uv sync --group bench       (or: pip install scikit-image supervision)
    python bench/outlines.py [--rounds 9]

The first way, and the unit of all ratios, is `cv2.findContours` on each class found by NumPy's `==`. Rounds
alternate; least, median and greatest of each way are printed, and the ratios of the medians. What is equal is
asserted: the points of `cv2.compare` and, but for polygons of fewer than three points, which it drops, those of
supervision are the first way's; filling our exact outlines gives back every cell of the map.
"""

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from truthloop.contours import objects_of
from truthloop.polygons import cells_of
from truthloop.tracing import trace

PEERS = {"supervision": "supervision", "skimage": "scikit-image"}
MISSING = [package for module, package in PEERS.items() if importlib.util.find_spec(module) is None]

ClassMap = NDArray[np.uint8]
CLASSES, SIDE = 20, 513
LABELS = [f"class {value}" for value in range(1, CLASSES + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    if MISSING:
        print(f"Without {' and '.join(MISSING)}: pip install {' '.join(MISSING)}, or uv sync --group bench")
    root = Path(os.environ.get("TRUTHLOOP_TEST_DATA", Path(__file__).parent.parent.parent / "shared"))
    golden = root / "data" / "images" / "segmentation_golden_rotation0.png"
    if golden.is_file():
        small = cv2.imread(str(golden), cv2.IMREAD_GRAYSCALE) // 10
        report(
            "horses and people of a photograph, scaled up",
            cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST),
            rounds,
        )
    else:
        print(f"Without the photograph's class map: {golden} isn't there (set TRUTHLOOP_TEST_DATA).")
    report("60 ellipses of 20 classes", ellipses(), rounds)


def ellipses() -> ClassMap:
    rng = np.random.default_rng(1)
    classes = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(60):
        centre, axes = rng.integers(0, SIDE, 2).tolist(), rng.integers(8, 60, 2).tolist()
        value = int(rng.integers(1, CLASSES + 1))
        cv2.ellipse(classes, centre, axes, int(rng.integers(180)), 0, 360, value, -1)
    return classes


def by_equality(classes: ClassMap) -> list[NDArray[np.int32]]:
    found: list[NDArray[np.int32]] = []
    for value in range(1, CLASSES + 1):
        mask = (classes == value).astype(np.uint8)
        found += cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0]
    return found


def by_compare(classes: ClassMap) -> list[NDArray[np.int32]]:
    found: list[NDArray[np.int32]] = []
    for value in range(1, int(classes.max()) + 1):
        mask = cv2.compare(classes, float(value), cv2.CMP_EQ)
        found += cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0]
    return found


def by_supervision(classes: ClassMap) -> list[NDArray[np.int32]]:
    import supervision

    return [each for value in range(1, CLASSES + 1) for each in supervision.mask_to_polygons(classes == value)]


def by_scikit_image(classes: ClassMap) -> list[NDArray[np.float64]]:
    from skimage import measure

    return [
        each
        for value in range(1, CLASSES + 1)
        for each in measure.find_contours((classes == value).astype(np.float32), 0.5)
    ]


def report(name: str, classes: ClassMap, rounds: int) -> None:
    scores = np.full(classes.shape, 0.9, np.float32)

    def answer(tolerance: float | None) -> list[object]:
        return [*objects_of(classes, scores, LABELS, width=1280, height=720, tolerance=tolerance)]

    ways: dict[str, Callable[[], list[object]]] = {
        "cv2.findContours on each class by ==": lambda: [*by_equality(classes)],
        "the same with cv2.compare": lambda: [*by_compare(classes)],
        "ours: exact outlines, objects, scores": lambda: [*trace(classes, scores)],
        "ours: the whole answer, exact": lambda: answer(0),
        "ours: the whole answer, simplified, with IoU": lambda: answer(None),
    }
    if "supervision" not in MISSING:
        ways["supervision.mask_to_polygons"] = lambda: [*by_supervision(classes)]
    if "scikit-image" not in MISSING:
        ways["skimage.measure.find_contours"] = lambda: [*by_scikit_image(classes)]
    check(classes, scores)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - started)
    unit = statistics.median(next(iter(seconds.values())))
    print(f"\n{name} ({SIDE} x {SIDE} cells, {rounds} rounds)")
    for way, taken in seconds.items():
        least, middle, most = min(taken), statistics.median(taken), max(taken)
        times = f"{unit / middle:.2f} times as fast"
        print(f"  {way:46} {least * 1e3:7.2f} / {middle * 1e3:7.2f} / {most * 1e3:7.2f} ms   {times}")


def check(classes: ClassMap, scores: NDArray[np.float32]) -> None:
    """Equal outlines where they can be compared."""
    first = by_equality(classes)
    assert points(first) == points(by_compare(classes)), "cv2.compare gives other outlines"
    if "supervision" not in MISSING:
        whole = [each for each in first if len(each) >= 3]
        assert points(whole) == points(by_supervision(classes)), "supervision gives other outlines"
    covered = np.zeros(classes.shape, np.uint8)
    for found in trace(classes, scores):
        inside = cells_of([ring for polygon in found.polygons for ring in polygon], *classes.shape)
        covered[inside] = found.value
    assert np.array_equal(covered, classes), "our outlines don't give the class map back"


def points(outlines: list[NDArray[np.int32]]) -> list[list[list[int]]]:
    return sorted(sorted(each.reshape(-1, 2).tolist()) for each in outlines)


if __name__ == "__main__":
    main()
