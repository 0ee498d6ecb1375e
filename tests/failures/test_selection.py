from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truthloop.errors import InputRefused
from truthloop.failures.kinds import Edges, Item, Kind, _kind
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
        (Selection(iou_below=0.5, kinds=frozenset({Kind.SPURIOUS})), False, False),  # a box alone has no IoU
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
        ({"iou_at_least": "0.5"}, "iou_at_least"),
        ({"kinds": 1}, "kind"),
        ({"model_versions": [1]}, "model_version"),
        ({"iou_at_least": 0.4, "iou_below": 0.2}, "iou_below"),
        ({"iou_below": 0}, "iou_below"),
        ({"kinds": ["missed", "duplicate"], "iou_below": 0.5}, "iou_below"),
        ({"kinds": ["match"], "iou_below": 0.5}, "iou_below"),
        ({"kinds": ["unrelated"], "iou_at_least": 0.1}, "iou_at_least"),
    ],
)
def test_what_there_is_not_is_refused_with_its_place(given_fields: dict[str, object], place: str) -> None:
    with pytest.raises(InputRefused) as refused:
        Selection.of(**given_fields)

    assert list(refused.value.errors) == [place]


def test_a_single_kind_size_or_version_needs_no_list_around_it() -> None:
    single = Selection.of(model_versions="1.0.0", kinds="missed", sizes="small")

    assert single == Selection.of(model_versions=["1.0.0"], kinds=["missed"], sizes=["small"])


_tenths = st.none() | st.integers(0, 10).map(lambda number: number / 10)


@given(st.sets(st.sampled_from(Kind)), _tenths, _tenths)
def test_what_is_refused_is_what_no_item_can_match(
    kinds: set[Kind], iou_at_least: float | None, iou_below: float | None
) -> None:
    items = [replace(PAIR, iou=n / 20, kind=_kind(n / 20)) for n in range(21)]
    items += [replace(ALONE, kind=kind) for kind in (Kind.MISSED, Kind.SPURIOUS, Kind.DUPLICATE)]
    plain = Selection(kinds=frozenset(kinds), iou_at_least=iou_at_least, iou_below=iou_below)
    try:
        Selection.of(kinds=kinds, iou_at_least=iou_at_least, iou_below=iou_below)
    except InputRefused:
        assert not any(map(plain.takes, items))
    else:
        assert any(map(plain.takes, items))
