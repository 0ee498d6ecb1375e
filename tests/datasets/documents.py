"""Generators of one image's documents, and the shortest way to write one by hand."""

from typing import Any

from hypothesis import strategies as st

from strategies import _extra, _few_boxes, _wrong

BOX = {"left": 0.1, "top": 0.2, "right": 0.3, "bottom": 0.4}
OTHER_BOX = {"center_x": 0.5, "center_y": 0.5, "width": 0.5, "height": 0.25}
SWAPPED = {"left": 0.3, "top": 0.2, "right": 0.1, "bottom": 0.4}

_versions = st.sampled_from(["1.0.0", "1.0", "2.0.0", "9.0.0", "10.0.0", "1.beta"])
_stamps = st.sampled_from([1, 1.0, 2, 2.5, 1.7e9, 1_700_000_000])
_boxes = _few_boxes | st.just(BOX) | st.just(OTHER_BOX) | st.just(SWAPPED)
_good_boxes = st.just(BOX) | st.just(OTHER_BOX) | _few_boxes

predictions = st.fixed_dictionaries(
    {"image_id": st.just("a"), "model_version": _versions, "bboxes": st.lists(_good_boxes, max_size=3)}
)
audits = st.fixed_dictionaries(
    {
        "image_id": st.just("a"),
        "model_version": _versions,
        "bbox_correct": st.booleans(),
        "auditor": st.sampled_from(["x", "y"]),
        "task_version": _versions,
        "timestamp": _stamps,
    }
)
annotations = st.fixed_dictionaries(
    {
        "image_id": st.just("a"),
        "bbox": st.none() | st.just("None") | _good_boxes | _good_boxes,
        "annotator": st.sampled_from(["x", "y"]),
        "task_version": _versions,
        "timestamp": _stamps,
    }
)


@st.composite
def odd(draw: st.DrawFn, documents: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """A document that other systems may have written: perhaps something more, missing or wrong in it."""
    document = dict(draw(documents))
    document |= draw(_extra)
    places = sorted(document.keys() - {"image_id"})
    match draw(st.sampled_from(["good"] * 5 + ["lacks", "wrong", "in a box", "label", "verdict", "timestamp"])):
        case "lacks":
            del document[draw(st.sampled_from(places))]
        case "wrong":
            document[draw(st.sampled_from(places))] = draw(_storable)
        case "verdict":
            document["verdict"] = draw(st.booleans() | _storable)
        case "timestamp":
            document["timestamp"] = draw(_storable | st.sampled_from([float("nan"), 5, 2.0]))
        case ("in a box" | "label") as what:
            boxes = document.get("bboxes") or [document.get("bbox")]
            if isinstance(boxes, list) and isinstance(boxes[-1], dict):
                box = dict(boxes[-1])
                if what == "label":
                    box["label"] = draw(st.sampled_from(["face", None, 1]))
                else:
                    box[draw(st.sampled_from([*sorted(box), "left", "width"]))] = draw(_storable)
                if "bboxes" in document:
                    document["bboxes"] = [*boxes[:-1], box]
                else:
                    document["bbox"] = box
    return document


# What BSON can hold.
_storable = _wrong.filter(lambda value: not (isinstance(value, int) and abs(value) >= 2**63))


def prediction(image_id: str = "a", *bboxes: Any, version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    return {"image_id": image_id, "model_version": version, "bboxes": list(bboxes), **more}


def annotation(
    image_id: str = "a", bbox: Any = None, *, version: str = "1.0.0", timestamp: Any = 1.0, **more: Any
) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "bbox": bbox,
        "annotator": "x",
        "task_version": version,
        "timestamp": timestamp,
        **more,
    }


def audit(
    image_id: str = "a", correct: bool = True, *, version: str = "1.0.0", timestamp: Any = 1.0, **more: Any
) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "model_version": version,
        "bbox_correct": correct,
        "auditor": "x",
        "task_version": "1.0.0",
        "timestamp": timestamp,
        **more,
    }
