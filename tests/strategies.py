"""Generators of test data, shared by the tests of all stages."""

from typing import Any

from hypothesis import strategies as st

from truthloop.boxes import Box
from truthloop.monitor.states import ImageState
from truthloop.review.verdict import Audit

# Few distinct parts, so that equal and nearly equal versions are common.
_parts = st.sampled_from(["0", "1", "2", "9", "10", "00", "01", "", "a", "beta", "-1", "1a", "\u0663"])
versions = st.lists(_parts, min_size=1, max_size=4).map(".".join)

fractions = st.floats(min_value=0.0, max_value=1.0).map(lambda value: round(value, 6))
numbers = st.one_of(fractions, st.integers(-2, 2), st.floats(min_value=-2.0, max_value=3.0))


@st.composite
def valid_boxes(draw: st.DrawFn) -> Box:
    """A box with an area that is well above a float's rounding, in the image."""
    left, right = sorted(draw(st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(draw(st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True)))
    return Box(left=left / 1000, top=top / 1000, right=right / 1000, bottom=bottom / 1000)


# Any box that can be stored: swapped, empty and outside ones, too.
boxes = st.builds(Box, left=numbers, top=numbers, right=numbers, bottom=numbers)
box_documents: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries(dict.fromkeys(("left", "top", "right", "bottom"), numbers)),
    st.fixed_dictionaries(dict.fromkeys(("center_x", "center_y", "width", "height"), numbers)),
)

timestamps = st.one_of(st.integers(0, 3), st.floats(min_value=0.0, max_value=3.0), st.integers(10**9, 2 * 10**9))
audits = st.builds(
    Audit,
    correct=st.booleans(),
    verdict=st.one_of(st.none(), st.none(), st.booleans()),
    task_version=st.sampled_from(["1.0.0", "1.0", "2.0.0", "9.0.0", "10.0.0"]),
    timestamp=st.integers(0, 2) | st.sampled_from([0.0, 1.0, 1.5]),
)

versions_seen = st.sampled_from(["1.0.0", "2.0.0", "10.0.0"])
image_states = st.builds(
    lambda known, predicted, audited, annotated: ImageState(
        known=known,
        predicted=tuple(sorted(predicted)),
        correct=tuple(sorted(version for version, right in audited.items() if right)),
        incorrect=tuple(sorted(version for version, right in audited.items() if not right)),
        annotated=annotated,
    ),
    st.booleans(),
    st.sets(versions_seen),
    st.dictionaries(versions_seen, st.booleans()),
    st.booleans(),
)

# Documents of the four collections. Few distinct values each, so that equal keys are common.
image_ids = st.sampled_from(
    ["a", "b", "0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdee", "é"]
)
_extra = st.dictionaries(
    st.sampled_from(["label", "score", "model", "a.b", ""]),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-2, 2)
        | st.sampled_from([1.0, -0.0, 0.0, 2.5])
        | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2)
        ),
        max_leaves=3,
    ),
    max_size=1,
)
_few_numbers = st.sampled_from([0, 1, 0.0, -0.0, 1.0, 0.25, 0.5, -0.5, 2, 1.5])
_few_boxes = st.one_of(
    st.fixed_dictionaries(dict.fromkeys(("left", "top", "right", "bottom"), _few_numbers)),
    st.fixed_dictionaries(dict.fromkeys(("center_x", "center_y", "width", "height"), _few_numbers)),
)
_stamps = st.sampled_from([1, 1.0, 2, 2.5, 2**60, float(2**60), 2**60 + 1])


def _document(extra: st.SearchStrategy[dict[str, Any]], **fields: st.SearchStrategy[Any]) -> Any:
    return st.builds(lambda known, more: {**more, **known}, st.fixed_dictionaries(fields), extra)


good_documents: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "metadata": _document(_extra, image_id=image_ids, capture_timestamp=_stamps),
    "bbox.model": _document(
        _extra,
        image_id=image_ids,
        model_version=st.sampled_from(["1.0.0", "2.0.0"]),
        bboxes=st.lists(st.builds(lambda box, more: {**more, **box}, _few_boxes, _extra), max_size=2),
    ),
    "bbox.human_audit": _document(
        _extra,
        image_id=image_ids,
        model_version=st.just("1.0.0"),
        bbox_correct=st.booleans(),
        auditor=st.sampled_from(["x", "y"]),
        task_version=st.just("1.0.0"),
        timestamp=_stamps,
    ),
    "bbox.human_annotation": _document(
        _extra,
        image_id=image_ids,
        bbox=st.one_of(st.none(), st.just("None"), _few_boxes),
        annotator=st.just("x"),
        task_version=st.sampled_from(["1.0.0", "2.0.0"]),
        timestamp=_stamps,
    ),
}
# What stands where something else should.
_wrong = st.sampled_from(
    [None, True, 1, 1.5, "text", "", [], {}, float("nan"), float("inf"), 2**70, [[]], {"left": 1}]
)


@st.composite
def any_documents(draw: st.DrawFn, collection: str) -> Any:
    """A document that is good, or lacks a field, or has something else in a field or a box."""
    document = draw(good_documents[collection])
    match draw(st.sampled_from(["good", "good", "good", "lacks", "wrong", "in a box", "no object"])):
        case "lacks":
            del document[draw(st.sampled_from(sorted(document)))]
        case "wrong":
            document[draw(st.sampled_from(sorted(document)))] = draw(_wrong)
        case "in a box":
            boxes = document.get("bboxes") or [document.get("bbox")]
            box = boxes[-1]
            if isinstance(box, dict):
                box[draw(st.sampled_from([*sorted(box), "left", "width"]))] = draw(_wrong)
        case "no object":
            return draw(_wrong)
    return document
