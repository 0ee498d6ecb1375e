"""The quick way comes to exactly what the rule says, for whatever documents there are."""

import random
from collections import defaultdict
from datetime import datetime
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets import documents as made
from datasets.documents import BOX, annotation, audit, odd, prediction
from truthloop.datasets import layouts
from truthloop.datasets.entry_document import document
from truthloop.datasets.quick import decide_quickly
from truthloop.datasets.report import Tally
from truthloop.datasets.rule import Entry, LeftOut, decide

_ids = st.sampled_from(["a", "b", "c", "é", "", "a\x00", "0123456789abcdef"])


def of_images(documents: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    one = st.builds(
        lambda found, image_id, own: {"_id": own} | found | {"image_id": image_id}, documents, _ids, _own
    )
    return st.lists(one, max_size=12)


_own = st.integers(0, 3) | st.sampled_from(["x", "y", "longer", bson.ObjectId(b"a" * 12), 1.5])
metadata = of_images(st.just({}))
some = of_images(odd(made.predictions)), of_images(odd(made.audits)), of_images(odd(made.annotations))
usual = of_images(made.predictions), of_images(made.audits), of_images(made.annotations)


def batch(documents: list[dict[str, Any]]) -> list[layouts.Batch]:
    """As a reply of MongoDB's holds them, in two batches."""
    half = len(documents) // 2
    replies = [bson.encode({"cursor": part}) for part in (documents[:half], documents[half:])]
    return [layouts.Batch.of_array(reply, layouts.elements(reply, 0)["cursor"].begin) for reply in replies]


def plain(outcome: Any) -> dict[str, Any]:
    return bson.decode(outcome.raw) if isinstance(outcome, RawBSONDocument) else outcome


def agree(metadata, predictions, audits, annotations, without: bool) -> int:
    """Decides quickly, holds it against the rule, and returns how many images were left to the rule."""
    quick = decide_quickly(
        metadata=batch(metadata),
        predictions=batch(predictions),
        annotations=batch(annotations),
        audits=batch(audits),
        version=7,
        without_incorrect=without,
    )
    by_image: dict[str, dict[str, list]] = defaultdict(
        lambda: {"predictions": [], "audits": [], "annotations": []}
    )
    for name, found in (("predictions", predictions), ("audits", audits), ("annotations", annotations)):
        for each in found:
            # As `decide` gets them.
            by_image[each["image_id"]][name].append(bson.decode(bson.encode(each)))
    known = {each["image_id"] for each in metadata}
    outcomes = {image_id: decide(image_id, **by_image[image_id], without_incorrect=without) for image_id in known}
    odd_ones = set(quick.odd)
    expected, tally = {}, Tally()
    for image_id, outcome in outcomes.items():
        if image_id in odd_ones:
            continue
        tally.add(outcome)
        expected[image_id] = document(outcome, 7) if isinstance(outcome, Entry) else outcome
    tally.add_unknown(sorted(by_image.keys() - known))

    found = [plain(each) for each in quick.documents]
    decided = {each["image_id"]: each for each in found} | {each.image_id: each for each in quick.left_out}
    assert len(found) + len(quick.left_out) == len(decided)
    assert decided == expected
    assert odd_ones <= known
    assert (quick.tally.entries, quick.tally.verdicts) == (tally.entries, tally.verdicts)
    assert +quick.tally.empty == +tally.empty
    assert +quick.tally.boxes == +tally.boxes
    assert (quick.tally.clipped_boxes, quick.tally.clipped_images) == (tally.clipped_boxes, tally.clipped_images)
    assert quick.tally.left() == tally.left()
    assert quick.tally.unknown_examples == tally.unknown_examples
    return len(odd_ones)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(metadata, *some, st.booleans())
def test_it_decides_as_the_rule_does_whatever_others_wrote(metadata, predictions, audits, annotations, without):
    agree(metadata, predictions, audits, annotations, without)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(metadata, *usual, st.booleans())
def test_it_decides_as_the_rule_does_in_bulk(metadata, predictions, audits, annotations, without):
    agree(metadata, predictions, audits, annotations, without)


# What stands on a box beside its numbers, and on a document beside its own fields, in whatever place.
_labels = st.sampled_from(["face", "cat", "traffic light", "", "é", "a\x00b", "x" * 300, None, 1, ["face"]])
_more_on_a_box = st.fixed_dictionaries(
    {},
    optional={
        "label": _labels,
        "score": st.sampled_from([0.5, 1, 0.25, None, "high"]),
        "note": st.text(max_size=12) | st.lists(st.integers(0, 2), max_size=2) | st.just({"left": 0.5}),
        "at": st.just(datetime(2026, 1, 1)),
    },
)
_moments = [0, 1.5, 1_700_000_000, 2**53 + 1, -(2**60), float("nan"), float("inf"), 1e301, -0.0]
_no_moments = [None, True, "2026-01-01T00:00:00Z", datetime(2026, 1, 1), bson.Decimal128("1.5"), [1.5]]
_more_on_a_prediction = st.fixed_dictionaries(
    {},
    optional={
        "timestamp": st.sampled_from(_moments + _no_moments),
        "model": st.sampled_from(
            [{"name": "faces", "version": "1", "sha256": None}, {"name": "f"}, None, "faces"]
        ),
        "width": st.integers(1, 2) | st.just(2.5),
        "note": st.text(max_size=30),
    },
)


@st.composite
def with_more(draw: st.DrawFn, documents: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Documents with fields that the rule ignores or keeps, on them and on their boxes, in any order."""

    def more(found: dict[str, Any], fields: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
        return dict(draw(st.permutations(list({**found, **draw(fields)}.items()))))

    document = dict(draw(documents))
    if "bboxes" in document:
        document["bboxes"] = [more(box, _more_on_a_box) for box in document["bboxes"]]
        return more(document, _more_on_a_prediction)
    if isinstance(document.get("bbox"), dict):
        document["bbox"] = more(document["bbox"], _more_on_a_box)
    fields = {"note": st.text(max_size=30), "verdict": st.booleans()}
    return more(document, st.fixed_dictionaries({}, optional=fields))


full = (
    of_images(with_more(made.predictions)),
    of_images(with_more(made.audits)),
    of_images(with_more(made.annotations)),
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(metadata, *full, st.booleans())
def test_it_decides_as_the_rule_does_whatever_else_documents_carry(
    metadata, predictions, audits, annotations, without
):
    agree(metadata, predictions, audits, annotations, without)


# Documents that differ as little as documents can: in one letter or type, at the same place.
_alike = of_images(
    st.builds(
        lambda version, stamp, label: prediction("a", BOX | {"label": label}, version=version, timestamp=stamp),
        st.sampled_from(["1.0.0", "2.0.0", "3.0.0", "5.0.0", "9.0.0", "1.0.2"]),
        st.sampled_from([1.0, 2.0, datetime(2026, 1, 1), bson.Timestamp(1, 1), bson.Int64(3)]),
        st.sampled_from(["a", "b", "c", "e", "i", "q", "A"]),
    )
)
_drawn_alike = of_images(
    st.builds(
        lambda version, stamp: annotation("a", BOX, version=version, timestamp=stamp),
        st.sampled_from(["1.0.0", "2.0.0", "3.0.0", "5.0.0", "9.0.0"]),
        st.sampled_from([1.0, 2.0, bson.Int64(3), datetime(2026, 1, 1)]),
    )
)
_audits_alike = of_images(
    st.builds(
        lambda correct, version, stamp, said: audit("a", correct, version=version, timestamp=stamp, verdict=said),
        st.booleans(),
        st.sampled_from(["1.0.0", "3.0.0", "9.0.0"]),
        st.sampled_from([1.0, bson.Int64(3), datetime(2026, 1, 1)]),
        st.booleans(),
    )
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(_alike, _audits_alike, _drawn_alike, st.booleans())
def test_documents_that_differ_in_one_bit_are_told_apart(predictions, audits, annotations, without):
    known = [{"image_id": each} for each in ("a", "b", "c", "é", "", "a\x00", "0123456789abcdef")]
    predictions, audits, annotations = (
        [each | {"_id": 1} for each in found] for found in (predictions, audits, annotations)
    )
    agree(known, predictions, audits, annotations, without)


@pytest.mark.parametrize("version", ["3.0.0", "5.0.0", "9.0.0", "q.0.0"])
def test_versions_that_differ_in_one_bit_are_two(version):
    predictions = [prediction("a", BOX), prediction("b", BOX, version=version)] * 2
    ids = ["a", "b", "c", "d"]
    predictions = [found | {"image_id": each} for found, each in zip(predictions, ids, strict=True)]

    assert agree([{"image_id": each} for each in ids], predictions, [], [], False) == 0


def scored(rng: random.Random, labels: list[str], **more: Any) -> dict[str, Any]:
    """A box as `predict --as` writes it."""
    left, top = rng.random() / 2, rng.random() / 2
    sides = {"left": left, "top": top, "right": left + 0.25, "bottom": top + 0.5}
    return {"label": rng.choice(labels), "score": rng.random(), **sides, **more}


def as_predicted(number: int, labels: list[str], *, most: int = 9) -> list[dict[str, Any]]:
    """Predictions of that many images as `predict --as` writes them, of two models."""
    rng = random.Random(1)
    model = {"name": "detector", "version": "1.0.0", "sha256": "0" * 64}
    return [
        prediction(
            f"{image:04}",
            *[scored(rng, labels) for _ in range(rng.randint(0, most))],
            version=version,
            model=model | {"version": version},
            timestamp=1.7e9 + rng.random(),
        )
        for image in range(number)
        for version in ("1.0.0", "10.0.0")
    ]


LABELS = [f"class {number}" + "x" * (number % 12) for number in range(80)]


def test_what_predict_writes_is_left_to_nobody_however_many_classes_there_are():
    predictions = as_predicted(300, LABELS)
    ids = sorted({each["image_id"] for each in predictions})
    audits = [audit(each, bool(number % 3), version="10.0.0") for number, each in enumerate(ids[::2])]
    annotations = [
        annotation(each, BOX | {"label": LABELS[number], "score": 1.0}) for number, each in enumerate(ids[::4])
    ]

    assert agree([{"image_id": each} for each in ids], predictions, audits, annotations, True) == 0


def test_an_image_with_hundreds_of_boxes_is_left_to_nobody():
    predictions = as_predicted(3, ["face"], most=400)
    ids = sorted({each["image_id"] for each in predictions})

    assert max(len(each["bboxes"]) for each in predictions) > 100
    assert agree([{"image_id": each} for each in ids], predictions, [], [], False) == 0


def test_an_image_with_more_boxes_than_are_read_in_bulk_is_left_to_the_rule(monkeypatch):
    monkeypatch.setattr(layouts, "MAX_ITEMS", 2)
    predictions = [prediction(name, *[BOX] * count) for name, count in (("a", 1), ("b", 2), ("c", 3))]

    assert agree([{"image_id": each} for each in "abc"], predictions, [], [], False) == 1


@pytest.mark.parametrize("other", [None, "None", 1, [], {}, {"left": 0.1}])
def test_a_list_with_something_else_than_boxes_is_left_to_the_rule(other):
    predictions = [prediction("a", BOX, other), prediction("b", BOX, BOX), prediction("c", other)]

    assert agree([{"image_id": each} for each in "abc"], predictions, [], [], False) == 2


@pytest.mark.parametrize("moment", [*_no_moments, float("nan"), float("inf"), 1e301])
def test_a_timestamp_that_cannot_be_read_is_as_none_and_hinders_nothing(moment):
    assert agree([{"image_id": "a"}], [prediction("a", BOX, timestamp=moment)], [], [], False) == 0


def test_a_longer_text_hides_no_field():
    # They have the same length, and begin and end alike.
    longer, shorter = {"auditor": "x" * 11}, {"auditor": "x", "verdict": False}
    rest = {"model_version": "1.0.0", "bbox_correct": True, "task_version": "1.0.0", "timestamp": 1.0}
    ids = ["a", "b", "c", "d"]
    audits = [{"image_id": each} | who | rest for each, who in zip(ids, [longer, shorter] * 2, strict=True)]
    assert len({len(bson.encode(each)) for each in audits}) == 1

    assert (
        agree([{"image_id": each} for each in ids], [prediction(each, BOX) for each in ids], audits, [], True) == 0
    )


def test_it_writes_the_bytes_that_the_rule_would_write():
    predictions = as_predicted(60, LABELS, most=12)
    quick = decide_quickly(
        metadata=batch([{"image_id": each["image_id"]} for each in predictions[::2]]),
        predictions=batch(predictions),
        annotations=batch([]),
        audits=batch([]),
        version=7,
        without_incorrect=False,
    )
    outcomes = [decide(each["image_id"], predictions=[each]) for each in predictions[1::2]]

    assert sorted(bytes(each.raw) for each in quick.documents) == sorted(
        bson.encode(document(each, 7)) for each in outcomes if isinstance(each, Entry)
    )


def test_usual_documents_are_left_to_nobody():
    ids = [f"{number:04}" for number in range(40)]
    odd_ones = agree(
        [{"image_id": each, "capture_timestamp": 1.0} for each in ids],
        [
            prediction(each, *[BOX] * (number % 4), version=f"{1 + number % 2}.0.0")
            for number, each in enumerate(ids)
        ],
        [audit(each, bool(number % 3)) for number, each in enumerate(ids[::2])],
        [annotation(each, BOX if number % 3 else None, timestamp=number) for number, each in enumerate(ids[::3])],
        False,
    )

    assert odd_ones == 0


def test_documents_of_more_layouts_than_are_read_in_bulk_are_left_to_the_rule(monkeypatch):
    monkeypatch.setattr(layouts, "MAX_LAYOUTS", 1)
    names = ["a", "bb", "ccc"]

    assert (
        agree([{"image_id": each} for each in names], [prediction(each, BOX) for each in names], [], [], False) > 0
    )


@pytest.mark.parametrize("number", [2**53 + 1, -(2**60)])
def test_an_integer_that_is_no_float_is_left_to_the_rule(number):
    assert agree([{"image_id": "a"}], [], [], [annotation("a", BOX, timestamp=number)], False) == 1


def test_a_label_is_kept_and_a_score_is_not():
    box = {"label": "face", "score": 0.5, **BOX}
    quick = decide_quickly(
        metadata=batch([{"image_id": "a"}, {"image_id": "b"}]),
        predictions=batch([prediction("a", box, BOX, box | {"label": "cat"})]),
        annotations=batch([annotation("b", box)]),
        audits=batch([]),
        version=1,
        without_incorrect=False,
    )

    assert {each["image_id"]: plain(each)["bboxes"] for each in quick.documents} == {
        "a": [BOX | {"label": "face"}, BOX, BOX | {"label": "cat"}],
        "b": [BOX | {"label": "face"}],
    }


def test_left_out_images_say_why():
    quick = decide_quickly(
        metadata=batch([{"image_id": "a"}]),
        predictions=batch([prediction("a", BOX)]),
        annotations=batch([]),
        audits=batch([audit("a", False)]),
        version=1,
        without_incorrect=True,
    )

    assert quick.left_out == [LeftOut(image_id="a", reason="audited incorrect", detail="model 1.0.0")]


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11, 99, 100, 101, 1234])
def test_all_documents_of_an_array_are_found_however_many(number):
    documents = [{"image_id": "x" * (each % 7), "n": each} for each in range(number)]
    reply = bson.encode({"a": 1, "batch": documents})
    found = layouts.Batch.of_array(reply, layouts.elements(reply, 0)["batch"].begin)

    assert [
        bson.decode(reply[begin : begin + length])
        for begin, length in zip(found.begins.tolist(), found.lengths.tolist(), strict=True)
    ] == documents
