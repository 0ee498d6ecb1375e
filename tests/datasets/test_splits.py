"""An image's part of an export depends on its group and the shares alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truthloop.datasets.splits import PARTS, parse_split, part_of
from truthloop.errors import InputRefused

shares = (
    st.tuples(st.integers(0, 100), st.integers(0, 100))
    .map(sorted)
    .map(lambda cuts: f"{cuts[0]}/{cuts[1] - cuts[0]}/{100 - cuts[1]}")
)


@given(st.text(), shares)
def test_every_group_has_one_part_that_never_changes(group, text):
    split = parse_split(text)

    assert split[part_of(group, split)] > 0
    assert part_of(group, split) == part_of(group, split)


@given(st.text(), st.integers(0, 99))
def test_a_larger_share_keeps_all_that_a_part_had(group, train):
    if part_of(group, parse_split(f"{train}/{100 - train}/0")) == "train":
        assert part_of(group, parse_split(f"{train + 1}/{99 - train}/0")) == "train"


def test_the_parts_have_about_their_shares():
    split = parse_split("80/10/10")
    parts = [part_of(f"image {number}", split) for number in range(10_000)]

    for part in PARTS:
        assert abs(parts.count(part) - split[part] * 100) < 200


def test_the_hash_is_the_same_for_ever():
    split = parse_split("80/10/10")

    assert [part_of(name, split) for name in ("f", "g", "h", "i")] == ["train", "val", "train", "val"]


@pytest.mark.parametrize(
    "text", ["", "80/20", "80/10/10/0", "80/10/11", "-10/100/10", "80/10/1x", "٨٠/10/10", "1e2/0/0"]
)
def test_a_split_that_is_none_is_refused(text):
    with pytest.raises(InputRefused):
        parse_split(text)
