"""A prediction as it is answered."""

import numpy as np

from truthloop.models.answer import answer_of
from truthloop.models.documents import Boxes, ClassMap, Label, Labels, ScoredBox

BOX = ScoredBox(label="cat", score=0.5, left=0.25, top=0.5, right=0.75, bottom=1.0)
# A cat of four cells and a dog of two, on a grid of 4 x 4.
CLASSES = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 2], [0, 0, 0, 2]], np.uint8)


def test_labels_and_boxes_are_answered_as_they_are() -> None:
    labels, boxes = Labels(labels=[Label(label="cat", score=0.5)]), Boxes(boxes=[BOX])

    assert answer_of(labels, width=8, height=8).model_dump() == {"labels": [{"label": "cat", "score": 0.5}]}
    assert answer_of(boxes, width=8, height=8).model_dump() == {
        "boxes": [{"label": "cat", "score": 0.5, "left": 0.25, "top": 0.5, "right": 0.75, "bottom": 1.0}]
    }


def test_a_class_map_is_its_classes_and_their_objects() -> None:
    found = ClassMap(classes=CLASSES, scores=np.full((4, 4), 0.75, np.float32), labels=("cat", "dog"))

    answer = answer_of(found, width=400, height=200, tolerance=0).model_dump()

    assert list(answer) == ["classes", "objects"]
    assert answer["classes"] == [{"label": "cat", "fraction": 0.25}, {"label": "dog", "fraction": 0.125}]
    cat, dog = answer["objects"]
    assert (cat["label"], cat["score"], dog["label"]) == ("cat", 0.75, "dog")
    assert cat["box"] == {"left": 0.0, "top": 0.0, "right": 0.5, "bottom": 0.5}
    assert sorted(cat["outlines"][0]["outer"]["pixels"]) == [(0, 0), (0, 100), (200, 0), (200, 100)]


def test_background_alone_is_no_class() -> None:
    found = ClassMap(classes=np.zeros((4, 4), np.uint8), scores=np.ones((4, 4), np.float32), labels=("cat",))

    assert answer_of(found, width=8, height=8).model_dump() == {"classes": [], "objects": []}
