"""The quick way comes to exactly what the rule says, for whatever documents there are."""

from collections import defaultdict
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


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(metadata, *some, st.booleans())
def test_it_decides_as_the_rule_does_whatever_others_wrote(metadata, predictions, audits, annotations, without):
    agree(metadata, predictions, audits, annotations, without)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(metadata, *usual, st.booleans())
def test_it_decides_as_the_rule_does_in_bulk(metadata, predictions, audits, annotations, without):
    agree(metadata, predictions, audits, annotations, without)


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


def test_a_label_is_kept():
    assert agree([{"image_id": "a"}], [prediction("a", BOX | {"label": "face"})], [], [], False) == 1


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
