"""The decoders, on outputs whose meaning is known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from truthloop.errors import ModelRefused
from truthloop.models.catalogue import shipped_entries
from truthloop.models.decode import decode
from truthloop.models.documents import Boxes, CatalogueEntry, ClassMap, Labels
from truthloop.models.prepare import Prepared
from truthloop.models.runtime import Outputs

WHOLE = (0.0, 0.0, 1.0, 1.0)
CAT, DOG, COW = "cat", "dog", "cow"


def entry(name: str, **output: Any) -> CatalogueEntry:
    """A shipped entry whose decoder has other options."""
    found = next(each for each in shipped_entries() if each.name == name)
    return found.model_copy(update={"output": found.output.model_copy(update=output)})


def prepared(inside: tuple[float, float, float, float] = WHOLE, shape: tuple[int, ...] = (100, 200)) -> Prepared:
    return Prepared(array=np.zeros(shape, np.uint8), inside=inside)


def floats(*rows: Any) -> np.ndarray:
    return np.array(rows, np.float32)


def boxes_of(
    given_entry: CatalogueEntry,
    outputs: Outputs,
    *,
    labels: tuple[str, ...] = (CAT, DOG),
    like: Prepared | None = None,
) -> list[tuple[str, float, float, float, float, float]]:
    found = decode(given_entry, labels, outputs, like or prepared())
    assert isinstance(found, Boxes)
    return [(box.label, box.score, box.left, box.top, box.right, box.bottom) for box in found.boxes]


def test_the_best_labels_come_first_and_background_is_none() -> None:
    found = decode(
        entry("mobilenet_v2", top=2),
        ("background", CAT, DOG, COW),
        (floats(0.5, 0.125, 0.25, 0.0625),),
        prepared(),
    )

    assert isinstance(found, Labels)
    assert [(label.label, label.score) for label in found.labels] == [(DOG, 0.25), (CAT, 0.125)]


def test_labels_below_the_threshold_or_without_any_score_are_left_out() -> None:
    scores = (floats(0.0, 0.4, 0.6),)

    assert len(decode(entry("mobilenet_v2", background=None), (CAT, DOG, COW), scores, prepared()).labels) == 2  # type: ignore[union-attr]
    least = decode(entry("mobilenet_v2", background=None, min_score=0.5), (CAT, DOG, COW), scores, prepared())
    assert [label.label for label in least.labels] == [COW]  # type: ignore[union-attr]


def test_logits_become_scores_that_sum_to_one() -> None:
    found = decode(
        entry("mobilenet_v2", activation="softmax", background=None),
        (CAT, DOG),
        (floats(1000.0, 1000.0),),
        prepared(),
    )

    assert [label.score for label in found.labels] == [0.5, 0.5]  # type: ignore[union-attr]


def test_as_many_labels_as_scores_are_needed() -> None:
    with pytest.raises(ModelRefused, match=r"^output: .* reads 2 scores, but the model mobilenet_v2 gives 3"):
        decode(entry("mobilenet_v2"), (CAT, DOG), (floats(1, 2, 3),), prepared())


def test_ssd_boxes_are_turned_clipped_and_counted() -> None:
    outputs = (
        floats([-0.1, 0.25, 0.5, 1.5], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]),  # top, left, bottom, right
        floats(1, 0, 0),
        floats(0.75, 0.875, 1.0),
        floats(2),  # the third is none
    )

    assert boxes_of(entry("ssd_mobilenet_v1_coco"), outputs) == [
        (CAT, 0.875, 0.0, 0.0, 0.5, 0.5),
        (DOG, 0.75, 0.25, 0.0, 1.0, 0.5),
    ]


def test_ssd_outputs_may_come_in_another_order() -> None:
    given_entry = entry(
        "ssd_mobilenet_v1_coco", order=("scores", "boxes", "count", "classes"), first_class=1, threshold=0.5
    )
    outputs = (floats(0.75), floats([0.0, 0.0, 0.5, 0.25]), floats(1), floats(2))

    assert boxes_of(given_entry, outputs) == [(DOG, 0.75, 0.0, 0.0, 0.25, 0.5)]


def test_ssd_classes_without_a_label_are_left_out() -> None:
    outputs = (floats([0.0, 0.0, 0.5, 0.25]), floats(7), floats(0.75), floats(1))

    assert boxes_of(entry("ssd_mobilenet_v1_coco"), outputs) == []


def anchored(**at: tuple[list[float], float]) -> Outputs:
    """The outputs of face_short_range: regressors and logits of some anchors, by `a<index>`; no face elsewhere."""
    regressors, logits = np.zeros((896, 16), np.float32), np.full((896, 1), -100, np.float32)
    for name, (regressor, logit) in at.items():
        regressors[int(name[1:]), :4] = regressor
        logits[int(name[1:])] = logit
    return regressors, logits


def test_anchored_boxes_are_relative_to_their_anchor_s_centre() -> None:
    # Anchor 0 is centred in the first of 16 cells: 4 pixels from the edge of 128.
    found = boxes_of(entry("face_short_range"), anchored(a0=([60.0, 28.0, 64.0, 32.0], 0.0)), labels=("face",))

    assert found == [("face", 0.5, 0.25, 0.125, 0.75, 0.375)]


def test_the_second_grid_of_anchors_has_larger_cells() -> None:
    # 16 x 16 x 2 anchors come before it; its first cell's centre is at 8 pixels.
    found = boxes_of(entry("face_short_range"), anchored(a512=([56.0, 56.0, 64.0, 64.0], 100.0)), labels=("face",))

    assert found == [("face", 1.0, 0.25, 0.25, 0.75, 0.75)]


def test_the_letterbox_is_taken_out_of_boxes() -> None:
    like = prepared(inside=(0.0, 0.25, 1.0, 0.75))
    found = boxes_of(
        entry("face_short_range"), anchored(a0=([60.0, 60.0, 64.0, 32.0], 0.0)), labels=("face",), like=like
    )

    assert found == [("face", 0.5, 0.25, 0.25, 0.75, 0.75)]


def test_boxes_beside_the_image_are_left_out() -> None:
    like = prepared(inside=(0.0, 0.5, 1.0, 1.0))

    assert boxes_of(entry("face_short_range"), anchored(a0=([0.0, 0.0, 8.0, 8.0], 9.0)), like=like) == []


def test_of_overlapping_boxes_the_surer_stays() -> None:
    outputs = (
        floats([0.1, 0.875], [0.1, 0.9375], [0.1, 0.75], [0.9, 0.0625]),
        floats([0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4], [0.5, 0.5, 1, 1], [0, 0, 1, 1]),
    )

    found = boxes_of(entry("ultraface_rfb_320"), outputs, labels=("face",))

    assert found == [("face", 0.9375, 0.0, 0.0, 0.5, 0.4), ("face", 0.75, 0.5, 0.5, 1.0, 1.0)]


def test_a_box_turned_inside_out_is_none() -> None:
    outputs = (floats([0.0, 1.0], [0.0, 0.9]), floats([0.5, 0.5, 0.25, 0.75], [0.25, 0.5, 0.25, 0.75]))

    assert boxes_of(entry("ultraface_rfb_320"), outputs, labels=("face",)) == []


def test_opencv_s_boxes_are_in_pixels_of_the_input_and_its_weights_become_scores() -> None:
    found = boxes_of(
        entry("opencv_faces"), (floats([50, 25, 100, 75]), floats(4.0)), labels=("face",), like=prepared()
    )

    assert found == [("face", pytest.approx(1 - np.exp(-1), abs=1e-6), 0.25, 0.25, 0.5, 0.75)]


def test_a_class_map_is_the_best_class_of_each_cell_and_its_share() -> None:
    logits = floats([[0, 0, 0], [5, 50, 5]], [[0, 0, 9], [1, 0, 0]])

    found = decode(entry("deeplab_v3"), ("background", CAT, DOG, "remarks"), (logits,), prepared())

    assert isinstance(found, ClassMap)
    assert found.classes.tolist() == [[0, 1], [2, 0]]
    assert found.labels == (CAT, DOG)
    assert found.scores[0] == pytest.approx([1 / 3, 1.0])


def test_the_letterbox_is_cut_off_class_maps() -> None:
    logits = np.zeros((4, 4, 2), np.float32)
    logits[1, :, 1] = 9  # the first row of the image

    found = decode(entry("deeplab_v3"), ("background", CAT), (logits,), prepared(inside=(0.0, 0.25, 1.0, 0.75)))

    assert isinstance(found, ClassMap)
    assert found.classes.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]


def test_classes_without_labels_are_refused() -> None:
    with pytest.raises(ModelRefused, match=r"^output: "):
        decode(entry("deeplab_v3"), ("background", CAT), (np.zeros((4, 4, 3), np.float32),), prepared())


def test_a_foreground_mask_has_one_class_and_says_how_sure_it_is_of_either() -> None:
    likely = floats([[0.875], [0.25]], [[0.5], [1.0]])

    found = decode(entry("selfie_segmentation"), ("foreground",), (likely,), prepared())

    assert isinstance(found, ClassMap)
    assert found.classes.tolist() == [[1, 0], [0, 1]]
    assert found.scores.tolist() == [[0.875, 0.75], [0.5, 1.0]]
    assert found.labels == ("foreground",)


@given(arrays(np.float32, (896, 4), elements=st.floats(-300, 300, width=32)), st.integers(0, 2**32 - 1))
def test_whatever_a_detector_gives_boxes_lie_in_the_image_surest_first(rows: np.ndarray, seed: int) -> None:
    regressors = np.zeros((896, 16), np.float32)
    regressors[:, :4] = rows
    logits = np.random.default_rng(seed).normal(-6, 5, (896, 1)).astype(np.float32)

    found = boxes_of(entry("face_short_range"), (regressors, logits), like=prepared(inside=(0.1, 0.0, 0.9, 1.0)))

    assert all(0 <= left < right <= 1 and 0 <= top < bottom <= 1 for _, _, left, top, right, bottom in found)
    assert [box[1] for box in found] == sorted((box[1] for box in found), reverse=True)
