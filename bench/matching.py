"""How much faster many images are matched at once than by a loop of NumPy and SciPy over the images.

    python bench/matching.py [--images 100000] [--rounds 5]

The peer computes the generalised IoU of each image's boxes with NumPy and assigns them by
`scipy.optimize.linear_sum_assignment`. It leaves its pairs image by image; ours are flat arrays. Rounds alternate,
a ratio is taken in each, and the least, the median and the greatest are printed. That the totals are equal is all
that is asserted.
"""

import argparse
import statistics
import time

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from truthloop.matching import Matches, match

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Sides = tuple[Floats, Ints, Floats, Ints]

# Predicted and annotated boxes of the 1,085 predictions of annotated images in the slice of a real export that the
# issue names: how many images have such a pair of sizes.
SLICE = {
    (1, 1): 491, (2, 1): 141, (2, 2): 125, (1, 2): 88, (1, 0): 79, (3, 1): 37, (3, 2): 31, (0, 1): 28, (0, 2): 17,
    (3, 3): 13, (2, 3): 10, (3, 0): 7, (2, 0): 7, (0, 0): 5, (4, 3): 3, (0, 3): 2, (1, 3): 1,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rng = np.random.default_rng(4)
    images = arguments.images

    def up_to(most: int) -> tuple[Ints, Ints]:
        return rng.integers(1, most + 1, images), rng.integers(1, most + 1, images)

    mostly_one = [np.where(rng.random(images) < 5 / 6, 1, rng.integers(2, 5, images)) for _ in range(2)]
    drawn = rng.choice(len(SLICE), images, p=np.array(list(SLICE.values())) / sum(SLICE.values()))
    sizes = np.array(list(SLICE))[drawn]
    report("1 to 10 boxes a side, annotated near predicted", near(rng, *up_to(10)), arguments.rounds, "at least 7")
    report(
        "1 to 10 boxes a side, unrelated: all clash", unrelated(rng, *up_to(10)), arguments.rounds, "at least 7"
    )
    same = rng.integers(1, 11, images)
    report("1 to 10, as many on both sides, unrelated: the worst", unrelated(rng, same, same), arguments.rounds)
    report("sizes as in the slice", near(rng, sizes[:, 0], sizes[:, 1]), arguments.rounds, "at least 30")
    report("five of six images have one box", near(rng, *mostly_one), arguments.rounds, "at least 30")
    few = max(1, images // 330)
    hundred = np.full(few, 100)
    report("100 boxes on both sides, near", near(rng, hundred, hundred), arguments.rounds)


def near(rng: np.random.Generator, counts: Ints, other_counts: Ints) -> Sides:
    """Annotations are the predicted boxes, moved a little and shuffled; what is left over is anywhere."""
    predicted, starts, annotated, other_starts = unrelated(rng, counts, other_counts)
    for image in range(len(counts)):
        both = min(counts[image], other_counts[image])
        chosen = starts[image] + rng.permutation(counts[image])[:both]
        moved = predicted[chosen] + rng.normal(0, 0.005, (both, 4))
        begin = other_starts[image]
        annotated[begin : begin + both] = sane(moved)
    return predicted, starts, annotated, other_starts


def unrelated(rng: np.random.Generator, counts: Ints, other_counts: Ints) -> Sides:
    """Boxes anywhere, of a twentieth to two fifths of the image."""

    def boxes(total: int) -> Floats:
        centre, size = rng.random((total, 2)), rng.uniform(0.05, 0.4, (total, 2))
        return np.hstack([centre - size / 2, centre + size / 2])

    starts, other_starts = (np.concatenate([[0], np.cumsum(each)]) for each in (counts, other_counts))
    return boxes(int(starts[-1])), starts, boxes(int(other_starts[-1])), other_starts


def sane(boxes: Floats) -> Floats:
    low = np.minimum(boxes[:, :2], boxes[:, 2:])
    return np.hstack([low, np.maximum(np.maximum(boxes[:, :2], boxes[:, 2:]), low + 1e-3)])


def loop(
    predicted: Floats, starts: Ints, annotated: Floats, other_starts: Ints
) -> tuple[list[Ints], list[Floats]]:
    """What a careful engineer writes first."""
    pairs, found = [], []
    begins, other_begins = starts.tolist(), other_starts.tolist()
    for image in range(len(begins) - 1):
        one = predicted[begins[image] : begins[image + 1], None]
        other = annotated[None, other_begins[image] : other_begins[image + 1]]
        sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
        sides = np.maximum(sides, 0.0)
        shared = sides[..., 0] * sides[..., 1]
        size, other_size = one[..., 2:] - one[..., :2], other[..., 2:] - other[..., :2]
        union = size[..., 0] * size[..., 1] + other_size[..., 0] * other_size[..., 1] - shared
        hull = np.maximum(one[..., 2:], other[..., 2:]) - np.minimum(one[..., :2], other[..., :2])
        giou = shared / union - 1.0 + union / (hull[..., 0] * hull[..., 1])
        rows, columns = linear_sum_assignment(giou, maximize=True)
        pairs.append(np.stack([rows, columns]))
        found.append(giou[rows, columns])
    return pairs, found


def report(name: str, sides: Sides, rounds: int, asked: str = "no limit given") -> None:
    images = len(sides[1]) - 1
    ours, theirs = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        matches = match(*sides)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        _, found = loop(*sides)
        theirs.append(time.perf_counter() - started)
    ratios = sorted(peer / own for peer, own in zip(theirs, ours, strict=True))
    least, middle, most = ratios[0], statistics.median(ratios), ratios[-1]
    print(
        f"{name} ({images:,} images)\n"
        f"  times faster than the loop: {least:.1f} / {middle:.1f} / {most:.1f} ({asked})"
        f"; {statistics.median(ours) * 1e3:.0f} ms against {statistics.median(theirs) * 1e3:.0f} ms"
    )
    total, peer_total = total_of(matches), sum(float((each + 1.0).sum()) for each in found)
    print(f"  total GIoU + 1: {total:.6f}, the loop's {peer_total:.6f}")
    assert abs(total - peer_total) <= 1e-6 * abs(peer_total), "the totals differ"


def total_of(matches: Matches) -> float:
    return float(np.nansum(matches.giou + 1.0))


if __name__ == "__main__":
    main()
