"""Where the model is wrong: counted over the whole workspace.

`Tally` adds up image by image, and its size doesn't depend on how many there are; `summary` runs it over all.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from truthloop.errors import InputRefused
from truthloop.failures import documents as said
from truthloop.failures.against import Image, Version
from truthloop.failures.failures import all_images
from truthloop.failures.kinds import Item, Kind, Side
from truthloop.failures.read import check_model_versions
from truthloop.failures.selection import Size, check_iou, size_of, texts
from truthloop.ingest.synthetic import is_synthetic
from truthloop.store.connection import Store
from truthloop.versions import version_key

EDGES = ("left", "top", "right", "bottom")
# Quantiles are told to this part of the image, or of an IoU.
STEP = 0.0001
# A delta beyond it is counted as this: no pair that overlaps moves an edge by more than the image's side.
LARGEST_DELTA = 1.0
IOU_BINS = 20
# Of a histogram of deltas: the bins between -0.2 and 0.2, with what lies beyond in the first and the last.
DELTA_BINS, DELTA_RANGE = 40, 0.2
DELTAS = np.linspace(-LARGEST_DELTA, LARGEST_DELTA, round(2 * LARGEST_DELTA / STEP) + 1)
# Of the normal distribution, on both sides of its middle: 95 %.
CONFIDENCE_DEVIATIONS = 1.959964
# Of fewer independent values, 95 % reach from the least to the greatest, and beyond.
FEWEST_INDEPENDENT = 6
MAX_WORST = 1_000
DEFAULT_WORST = 10
# Ids that stand for the images that are left out.
EXAMPLES = 5
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Counts: TypeAlias = NDArray[np.int64]


@dataclass(slots=True)
class EdgeTally:
    """How far one edge was moved, of many pairs.

    A shift is told by the median: a few boxes that are far too small or too large would carry the mean away. Its
    interval takes no shape of the distribution for granted: it lies between two quantiles, so far from the middle
    as half of so many independent values would go by chance (Woodruff, Confidence intervals for medians, 1952).
    Boxes of one image aren't independent; they are taken to say all the same, which makes the interval rather too
    wide than too narrow (Kish's effective sample size).
    """

    pairs: int = 0
    pairs_squared: int = 0  # the sum over images of the square of their pairs
    fine: Counts = field(default_factory=lambda: np.zeros(len(DELTAS), dtype=np.int64))

    def add(self, deltas: Sequence[float]) -> None:
        """Counts one image's pairs."""
        self.pairs += len(deltas)
        self.pairs_squared += len(deltas) ** 2
        for delta in deltas:
            within = min(max(delta, -LARGEST_DELTA), LARGEST_DELTA)
            self.fine[round((within + LARGEST_DELTA) / STEP)] += 1

    def interval(self) -> tuple[float, float] | None:
        """In which the median of such pairs lies with 95 % confidence; None where there are too few to tell."""
        if not self.pairs:
            return None
        independent = self.pairs**2 / self.pairs_squared
        if independent < FEWEST_INDEPENDENT:
            return None
        reach = CONFIDENCE_DEVIATIONS / (2 * math.sqrt(independent))
        lower = max(math.floor((0.5 - reach) * self.pairs), 1)
        upper = min(math.ceil((0.5 + reach) * self.pairs) + 1, self.pairs)
        places = np.searchsorted(np.cumsum(self.fine), [lower, upper])
        low, high = (round(float(value), 4) for value in DELTAS[places])
        return low, high

    def answer(self, name: str) -> said.EdgeShift:
        """What is said of the edge."""
        interval = self.interval()
        return said.EdgeShift(
            edge=name,
            pairs=self.pairs,
            low=None if interval is None else interval[0],
            high=None if interval is None else interval[1],
            is_shifted=interval is not None and not interval[0] <= 0.0 <= interval[1],
            quantiles=quantiles(DELTAS, self.fine),
            histogram=said.Histogram(
                edges=[round(float(edge), 6) for edge in np.linspace(-DELTA_RANGE, DELTA_RANGE, DELTA_BINS + 1)],
                counts=self._histogram(),
            ),
        )

    def _histogram(self) -> list[int]:
        # Half a step keeps a value on a bin's edge from falling on either side by rounding.
        bins = np.floor((DELTAS + STEP / 2 + DELTA_RANGE) / (2 * DELTA_RANGE / DELTA_BINS)).astype(np.int64)
        return [
            int(number)
            for number in np.bincount(np.clip(bins, 0, DELTA_BINS - 1), weights=self.fine, minlength=DELTA_BINS)
        ]


@dataclass(slots=True)
class VersionTally:
    """What one model version got right and wrong."""

    images: int = 0
    kinds: Counter[tuple[Size, Kind]] = field(default_factory=Counter)  # without UNRELATED
    unrelated: int = 0
    invalid: int = 0
    iou: Counts = field(default_factory=lambda: np.zeros(round(1 / STEP) + 1, dtype=np.int64))
    edges: dict[str, EdgeTally] = field(default_factory=lambda: {name: EdgeTally() for name in EDGES})

    def add(self, version: Version) -> None:
        """Counts one image."""
        self.images += 1
        self.invalid += len([box for box in version.compared.invalid if box.side is Side.PREDICTED])
        deltas: list[Item] = []
        for item in version.compared.items:
            for size, kind in counted_as(item):
                self.kinds[size, kind] += 1
            self.unrelated += item.kind is Kind.UNRELATED
            if item.iou is not None:
                self.iou[round(item.iou / STEP)] += 1
            if item.kind in (Kind.MATCH, Kind.MISPLACED):
                deltas.append(item)
        if deltas:
            for name, tally in self.edges.items():
                tally.add([getattr(item.delta, name) for item in deltas])

    def answer(self, model_version: str) -> said.VersionFailures:
        """What is said of the version."""
        bins = np.minimum(np.arange(len(self.iou)) * IOU_BINS // (len(self.iou) - 1), IOU_BINS - 1)
        counts = np.bincount(bins, weights=self.iou, minlength=IOU_BINS)
        return said.VersionFailures(
            model_version=model_version,
            images=self.images,
            unrelated=self.unrelated,
            invalid=self.invalid,
            counts=_counts(self.kinds),
            sizes=[
                said.SizeFailures(
                    size=size, counts=_counts({key: n for key, n in self.kinds.items() if key[0] is size})
                )
                for size in Size
            ],
            iou=said.Distribution(
                quantiles=quantiles(np.linspace(0.0, 1.0, len(self.iou)), self.iou),
                histogram=said.Histogram(
                    edges=[round(float(edge), 6) for edge in np.linspace(0.0, 1.0, IOU_BINS + 1)],
                    counts=[int(number) for number in counts],
                ),
            ),
            edges=[tally.answer(name) for name, tally in self.edges.items()],
        )


@dataclass(slots=True)
class Tally:
    """Counts over images; add each once."""

    worst: int = DEFAULT_WORST  # how many images it names
    images: int = 0
    states: Counter[said.FailuresState] = field(default_factory=Counter)
    refused: int = 0
    refused_examples: list[str] = field(default_factory=list)
    versions: defaultdict[str, VersionTally] = field(default_factory=lambda: defaultdict(VersionTally))
    _worst: list[said.WorstImage] = field(default_factory=list)

    def add(self, image: Image) -> None:
        """Counts one image.

        One whose annotations, or all of whose predictions, can't be used is left out: nothing was compared.
        """
        self.images += 1
        self.states[image.state] += 1
        if image.state is not said.FailuresState.ANNOTATED:
            return
        if image.is_refused:
            self.refused += 1
            if len(self.refused_examples) < EXAMPLES:
                self.refused_examples.append(image.image_id)
            return
        for version in image.versions:
            self.versions[version.model_version].add(version)
            self._note(version)

    def _note(self, version: Version) -> None:
        """Keeps the image in mind if it is among the worst."""
        kinds = Counter(kind for item in version.compared.items for _, kind in counted_as(item))
        if failures := sum(number for kind, number in kinds.items() if kind is not Kind.MATCH):
            self._worst.append(
                said.WorstImage(
                    image_id=version.compared.image_id,
                    model_version=version.model_version,
                    failures=failures,
                    counts=_counts({(Size.SMALL, kind): number for kind, number in kinds.items()}),
                )
            )
            if len(self._worst) > 2 * self.worst + EXAMPLES:
                self._worst = self._worst_of_all()

    def _worst_of_all(self) -> list[said.WorstImage]:
        # First by how much is wrong, then by how little is right; by id, so that the order is the same every time.
        ordered = sorted(self._worst, key=lambda image: (image.image_id, image.model_version))
        return nlargest(self.worst, ordered, key=lambda image: (image.failures, -image.counts.match))

    def summary(self, *, synthetic: bool, min_iou: float, asked: Iterable[str] = ()) -> said.FailureSummary:
        """What is said of all of them; `asked` are the model versions that they were narrowed to."""
        newest_first = sorted(self.versions, key=version_key, reverse=True)
        return said.FailureSummary(
            images=self.images,
            asked=sorted(asked, key=version_key, reverse=True),
            compared=self.states[said.FailuresState.ANNOTATED] - self.refused,
            not_predicted=self.states[said.FailuresState.NOT_PREDICTED],
            not_annotated=self.states[said.FailuresState.NOT_ANNOTATED],
            refused=said.Refused(count=self.refused, examples=self.refused_examples),
            model_versions=[self.versions[version].answer(version) for version in newest_first],
            worst=self._worst_of_all(),
            min_iou=min_iou,
            synthetic=synthetic,
        )


def summary(
    store: Store,
    *,
    model_versions: Iterable[str] | str = (),
    min_iou: float = 0.0,
    worst: int = DEFAULT_WORST,
    progress: Callable[[int], None] | None = None,
) -> said.FailureSummary:
    """Where the model is wrong, over all images that are predicted and annotated.

    Args:
        store: the workspace.
        model_versions: which are counted, as if there were no others; all if there are none.
        min_iou: in [0, 1]; boxes whose IoU is lower aren't paired at all.
        worst: how many of the worst images are named, 0 to 1,000.
        progress: called with the number of images looked at.

    Raises:
        InputRefused: `min_iou` or `worst` is out of range, there is no prediction of a model version that is
            named, or an argument is of another type.
    """
    check_iou("min_iou", min_iou)
    if not isinstance(worst, int) or not 0 <= worst <= MAX_WORST:
        text = f"must be from 0 to {MAX_WORST:,}"
        raise InputRefused(f"worst is {worst}: it {text}.", errors={"worst": text})
    asked = frozenset(texts("model_version", model_versions))
    check_model_versions(store, asked)
    tally = Tally(worst=worst)
    for image in all_images(store, min_iou=min_iou, model_versions=asked, progress=progress):
        tally.add(image)
    return tally.summary(synthetic=is_synthetic(store), min_iou=min_iou, asked=asked)


def counted_as(item: Item) -> list[tuple[Size, Kind]]:
    """As what an item counts, and in which size: an unrelated pair is one missed box and one spurious one."""
    if item.kind is not Kind.UNRELATED:
        edges = item.annotated or item.predicted
        assert edges is not None  # an item has a box
        return [(size_of(edges), item.kind)]
    assert item.annotated is not None
    assert item.predicted is not None
    return [(size_of(item.annotated), Kind.MISSED), (size_of(item.predicted), Kind.SPURIOUS)]


def quantiles(values: NDArray[np.float64], counts: Counts) -> said.Quantiles | None:
    """The quantiles of counted values in rising order: the least value that so many of them don't exceed.

    >>> quantiles(np.array([0.0, 0.5, 1.0]), np.array([1, 2, 1])).median
    0.5
    """
    total = int(counts.sum())
    if not total:
        return None
    places = np.searchsorted(np.cumsum(counts), [math.ceil(part * total) for part in QUANTILES])
    p5, p25, median, p75, p95 = (round(float(value), 4) for value in values[places])
    return said.Quantiles(p5=p5, p25=p25, median=median, p75=p75, p95=p95)


def _counts(kinds: dict[tuple[Size, Kind], int] | Counter[tuple[Size, Kind]]) -> said.KindCounts:
    by_kind = Counter[Kind]()
    for (_, kind), number in kinds.items():
        by_kind[kind] += number
    counts = {kind: by_kind[kind] for kind in Kind if kind is not Kind.UNRELATED}
    predicted = sum(number for kind, number in counts.items() if kind is not Kind.MISSED)
    annotated = counts[Kind.MATCH] + counts[Kind.MISPLACED] + counts[Kind.MISSED]
    return said.KindCounts(
        predicted=predicted,
        annotated=annotated,
        match=counts[Kind.MATCH],
        misplaced=counts[Kind.MISPLACED],
        missed=counts[Kind.MISSED],
        spurious=counts[Kind.SPURIOUS],
        duplicate=counts[Kind.DUPLICATE],
    )
