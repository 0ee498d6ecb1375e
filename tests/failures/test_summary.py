"""Where the model is wrong, over all images."""

import statistics
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import boxes, valid_boxes
from truthloop.boxes import Box
from truthloop.errors import InputRefused
from truthloop.failures.against import Image, against
from truthloop.failures.documents import FailureSummary
from truthloop.failures.failures import all_failures
from truthloop.failures.kinds import Kind
from truthloop.failures.read import ImageDocuments
from truthloop.failures.selection import Selection, Size
from truthloop.failures.summary import EdgeTally, Tally, quantiles, summary
from truthloop.ingest.load import load
from truthloop.store.connection import Store


def image(
    image_id: str, predicted: list[Box], annotated: list[Box], model_version: str = "1.0.0"
) -> ImageDocuments:
    return ImageDocuments(
        image_id=image_id,
        predictions=[{"model_version": model_version, "bboxes": [box.corners() for box in predicted]}],
        annotations=[
            {"bbox": box.corners(), "task_version": "1.0.0", "timestamp": number}
            for number, box in enumerate(annotated)
        ]
        or [{"bbox": None, "task_version": "1.0.0", "timestamp": 1}],
    )


def summed(images: list[ImageDocuments], worst: int = 10) -> FailureSummary:
    tally = Tally(worst=worst)
    for each in against(images):
        tally.add(each)
    return tally.summary(synthetic=False, min_iou=0.0)


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return Box(left=left, top=top, right=right, bottom=bottom)


FACE, FAR = box(0.2, 0.2, 0.4, 0.4), box(0.8, 0.8, 0.85, 0.85)


def test_an_unrelated_pair_counts_as_one_missed_and_one_spurious_each_in_its_own_size() -> None:
    [version] = summed([image("a", [FACE], [FAR])]).model_versions

    assert (version.unrelated, version.counts.missed, version.counts.spurious) == (1, 1, 1)
    by_size = {size.size: (size.counts.missed, size.counts.spurious) for size in version.sizes}
    assert by_size == {Size.SMALL: (1, 0), Size.MEDIUM: (0, 1), Size.LARGE: (0, 0)}


def test_an_image_whose_annotation_cannot_be_used_is_left_out_and_named() -> None:
    told = summed([image("a", [FACE], [box(0.4, 0.2, 0.2, 0.4)]), image("b", [FACE], [FACE])])

    assert (told.images, told.compared, told.refused.count, told.refused.examples) == (2, 1, 1, ["a"])
    assert told.model_versions[0].counts.spurious == 0


def test_an_invalid_prediction_is_counted_and_what_it_should_have_found_was_missed() -> None:
    [version] = summed([image("a", [box(0.4, 0.2, 0.2, 0.4)], [FACE])]).model_versions

    assert (version.invalid, version.counts.missed) == (1, 1)


def test_images_that_cannot_be_compared_are_counted_by_their_state() -> None:
    told = summed(
        [
            ImageDocuments(image_id="a", predictions=(), annotations=()),
            ImageDocuments(image_id="b", predictions=[{"model_version": "1.0.0", "bboxes": []}], annotations=()),
        ]
    )

    assert (told.images, told.compared, told.not_predicted, told.not_annotated) == (2, 0, 1, 1)
    assert told.model_versions == []


some_images = st.lists(st.tuples(st.lists(boxes, max_size=3), st.lists(boxes, max_size=3)), max_size=6)


@given(some_images)
def test_every_box_is_counted_once(given_images: list[tuple[list[Box], list[Box]]]) -> None:
    images = [image(str(number), *both) for number, both in enumerate(given_images)]
    told = summed(images)

    usable = [each for each in given_images if all(one.is_valid for one in each[1])]
    predicted = sum(len(each[0]) for each in usable)
    annotated = sum(len(each[1]) for each in usable)
    assert told.compared + told.refused.count == told.images == len(images)
    assert told.compared == len(usable)
    for version in told.model_versions:
        assert version.counts.predicted + version.invalid == predicted
        assert version.counts.annotated == annotated
        for name in type(version.counts).model_fields:
            assert getattr(version.counts, name) == sum(getattr(size.counts, name) for size in version.sizes)
        pairs = version.counts.match + version.counts.misplaced + version.unrelated
        assert sum(version.iou.histogram.counts) == pairs
        for edge in version.edges:
            assert sum(edge.histogram.counts) == edge.pairs == version.counts.match + version.counts.misplaced


@given(some_images, st.integers(0, 4))
def test_the_worst_images_are_those_of_a_full_sort(
    given_images: list[tuple[list[Box], list[Box]]], worst: int
) -> None:
    images = [image(str(number), *both) for number, both in enumerate(given_images)]
    everything = summed(images, worst=1000).worst

    assert summed(images, worst=worst).worst == everything[:worst]
    order = [(-each.failures, each.counts.match, each.image_id) for each in everything]
    assert order == sorted(order)


@given(st.lists(st.tuples(valid_boxes(), st.floats(-0.01, 0.01)), min_size=1, max_size=30))
def test_the_median_delta_is_that_of_the_items(moved: list[tuple[Box, float]]) -> None:
    images = [
        image(str(number), [each], [box(each.left + by, each.top, each.right + by, each.bottom)])
        for number, (each, by) in enumerate(moved)
    ]
    told = summed(images).model_versions[0].edges[0]
    deltas = [
        item.delta.left
        for found in against(images)
        for version in found.versions
        for item in version.compared.items
        if item.delta and item.kind in ("match", "misplaced")
    ]

    assert told.edge == "left"
    if deltas:
        assert told.quantiles is not None
        assert told.quantiles.median == pytest.approx(statistics.median_low(deltas), abs=0.0001)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_quantiles_are_the_least_values_that_so_many_do_not_exceed(values: list[int]) -> None:
    counts = np.bincount(values, minlength=21)
    told = quantiles(np.arange(21) / 20, counts)

    assert told is not None
    for name, part in (("p5", 0.05), ("p25", 0.25), ("median", 0.5), ("p75", 0.75), ("p95", 0.95)):
        expected = next(
            value for value in range(21) if sum(each <= value for each in values) >= part * len(values)
        )
        assert getattr(told, name) == expected / 20


def test_a_shift_of_all_boxes_shows_and_the_others_edges_do_not() -> None:
    rng = Random(1)
    images = [
        image(str(n), [FACE], [box(0.2 + 0.02 + rng.gauss(0, 0.01), 0.2, 0.4, 0.4 + rng.gauss(0, 0.01))])
        for n in range(200)
    ]
    edges = {edge.edge: edge for edge in summed(images).model_versions[0].edges}

    assert edges["left"].is_shifted
    assert edges["left"].low is not None
    assert edges["left"].high is not None
    assert edges["left"].low <= 0.02 <= edges["left"].high
    assert not edges["bottom"].is_shifted


def test_the_interval_holds_the_true_median_about_as_often_as_it_says() -> None:
    """Of lopsided values, and of images whose boxes all say the same: that would fool who counts each box."""
    rng = Random(2)
    held = Counter[str]()
    for _ in range(400):
        tally = EdgeTally()
        for _ in range(60):
            value = 0.02 * (rng.expovariate(1) - 0.6931)  # the median is 0
            tally.add([value] * rng.choice([1, 1, 5]))
        interval = tally.interval()
        assert interval is not None
        held["within" if interval[0] <= 0 <= interval[1] else "outside"] += 1

    assert held["within"] >= 0.93 * 400


def test_too_few_images_have_no_interval() -> None:
    tally = EdgeTally()
    tally.add([0.1] * 100)  # one image, however many boxes

    assert tally.interval() is None
    assert EdgeTally().interval() is None


@given(st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=3), min_size=1, max_size=30))
def test_an_interval_holds_its_own_median(images: list[list[float]]) -> None:
    tally = EdgeTally()
    for deltas in images:
        tally.add(deltas)
    told = tally.answer("left")

    if told.low is not None and told.high is not None and told.quantiles is not None:
        assert told.low <= told.quantiles.median <= told.high


def test_only_the_wanted_versions_are_counted() -> None:
    images = [
        image("a", [FACE], [FACE]),
        image("b", [FACE], [FACE], "2.0.0"),
        image("c", [FACE], [box(0.4, 0.2, 0.2, 0.4)]),
        image("d", [FACE], [box(0.4, 0.2, 0.2, 0.4)], "2.0.0"),
        ImageDocuments(image_id="e", predictions=image("e", [FACE], []).predictions, annotations=()),
    ]
    tally = Tally()
    for each in against(images, model_versions={"2.0.0"}):
        tally.add(each)

    told = tally.summary(synthetic=False, min_iou=0.0, asked={"2.0.0"})
    assert [version.model_version for version in told.model_versions] == told.asked == ["2.0.0"]
    assert (told.images, told.compared, told.not_predicted, told.not_annotated) == (5, 1, 3, 0)
    assert (told.refused.count, told.refused.examples) == (1, ["d"])


@pytest.mark.parametrize("model_versions", ["3.0.0", ["2.0.0", "3.0.0"]])
def test_a_model_version_that_there_is_not_is_refused_and_the_others_named(
    store: Store, model_versions: Any
) -> None:
    store["bbox.model"].insert_many(
        [{"model_version": "2.0.0"}, {"model_version": "10.0.0"}, {"model_version": 1}]
    )

    with pytest.raises(InputRefused, match=r'"3\.0\.0": there are predictions of 10\.0\.0, 2\.0\.0\.'):
        summary(store, model_versions=model_versions)


def test_the_summary_of_the_slice_is_that_of_its_answers(store: Store, face_slice: Path, tmp_path: Path) -> None:
    load(store, [face_slice], rejects_folder=tmp_path)
    told = summary(store)

    assert (told.images, told.compared, told.not_predicted, told.not_annotated) == (2443, 776, 342, 1324)
    assert (told.refused.count, told.refused.examples) == (1, ["0c8ab894bf50daa46320126e4d731a35"])
    counted: dict[str, Counter[Any]] = {}
    for answer in all_failures(store, selection=Selection.of(kinds=list(Kind))):
        for item in answer.items:
            counted.setdefault(item.model_version, Counter())[item.kind] += 1
    narrowed = summary(store, model_versions="2.0.0")
    assert (narrowed.compared, narrowed.model_versions) == (474, told.model_versions[:1])
    assert narrowed.compared + narrowed.not_predicted + narrowed.not_annotated + narrowed.refused.count == 2443
    for version in told.model_versions:
        kinds = counted[version.model_version]
        assert version.unrelated == kinds["unrelated"]
        for kind in ("match", "misplaced", "duplicate"):
            assert getattr(version.counts, kind) == kinds[kind]
        assert version.counts.missed == kinds["missed"] + kinds["unrelated"]
        assert version.counts.spurious == kinds["spurious"] + kinds["unrelated"]


@pytest.mark.parametrize("worst", [-1, 1001, None])
def test_a_number_of_worst_images_out_of_range_is_refused(store: Store, worst: Any) -> None:
    with pytest.raises(InputRefused, match="worst"):
        summary(store, worst=worst)


def test_an_empty_workspace_has_a_summary(store: Store) -> None:
    told = summary(store)

    assert (told.images, told.model_versions, told.worst) == (0, [], [])


def test_a_tally_does_not_grow_with_the_images() -> None:
    found: list[Image] = against([image(str(n), [FACE], [FAR]) for n in range(500)])
    tally = Tally(worst=3)
    for each in found:
        tally.add(each)

    assert len(tally._worst) <= 2 * 3 + 5
