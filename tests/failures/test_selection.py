from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truthloop.errors import InputRefused
from truthloop.failures.kinds import Edges, Item, Kind
from truthloop.failures.selection import Selection, size_of

SMALL = Edges(top=0.0, left=0.0, bottom=0.05, right=0.05)
LARGE = Edges(top=0.0, left=0.0, bottom=0.9, right=0.9)
PAIR = Item(image_id="i", predicted=LARGE, annotated=SMALL, delta=SMALL, iou=0.3, kind=Kind.MISPLACED)
ALONE = Item(image_id="i", predicted=LARGE, annotated=None, delta=None, iou=None, kind=Kind.SPURIOUS)


@pytest.mark.parametrize(
    ("side", "size"),
    [(0.0999, "small"), (0.1001, "medium"), (0.3162, "medium"), (0.3163, "large"), (1.0, "large")],
)
def test_sizes_are_parts_of_the_image_s_area(side: float, size: str) -> None:
    assert size_of(Edges(top=0.0, left=0.0, bottom=side, right=side)) == size


@pytest.mark.parametrize(
    ("selection", "pair", "alone"),
    [
        (Selection(), True, True),
        (Selection.of(kinds=["misplaced"]), True, False),
        (Selection.of(sizes=["small"]), True, False),  # of a pair, the annotated box counts
        (Selection.of(sizes=["large"]), False, True),
        (Selection.of(iou_at_least=0.3), True, False),
        (Selection.of(iou_below=0.3), False, False),
        (Selection.of(iou_at_least=0.1, iou_below=0.5), True, False),
        (Selection.of(iou_below=0.3, kinds=["spurious"]), False, False),  # a box alone has no IoU
    ],
)
def test_what_is_taken(selection: Selection, pair: bool, alone: bool) -> None:
    assert (selection.takes(PAIR), selection.takes(ALONE)) == (pair, alone)


@given(st.sets(st.sampled_from(Kind)), st.sets(st.sampled_from(Kind)), st.sampled_from(Kind))
def test_naming_more_takes_no_less(one: set[Kind], other: set[Kind], kind: Kind) -> None:
    item = replace(ALONE, kind=kind)

    if one and Selection.of(kinds=one).takes(item):
        assert Selection.of(kinds=one | other).takes(item)


@pytest.mark.parametrize(
    ("given_fields", "place"),
    [
        ({"kinds": ["wrong"]}, "kind"),
        ({"sizes": ["huge"]}, "size"),
        ({"iou_below": 1.5}, "iou_below"),
        ({"iou_at_least": float("nan")}, "iou_at_least"),
    ],
)
def test_what_there_is_not_is_refused_with_its_place(given_fields: dict[str, object], place: str) -> None:
    with pytest.raises(InputRefused) as refused:
        Selection.of(**given_fields)

    assert list(refused.value.errors) == [place]
