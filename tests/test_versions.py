"""The order of versions, against a slow reference written from the design's sentence."""

from functools import cmp_to_key
from itertools import zip_longest

from hypothesis import given
from hypothesis.strategies import lists

from strategies import versions
from truthloop.versions import version_key


def compare(one: str, other: str) -> int:
    """Split at `.`; digits are that number, any other part is -1; missing parts 0; then the greater text."""
    for mine, theirs in zip_longest(numbers(one), numbers(other), fillvalue=0):
        if mine != theirs:
            return 1 if mine > theirs else -1
    return (one > other) - (one < other)


def numbers(version: str) -> list[int]:
    return [int(part) if part and set(part) <= set("0123456789") else -1 for part in version.split(".")]


@given(lists(versions, max_size=8))
def test_versions_sort_as_the_design_says(given_versions: list[str]) -> None:
    assert sorted(given_versions, key=version_key) == sorted(given_versions, key=cmp_to_key(compare))


@given(versions, versions)
def test_two_versions_are_equal_only_if_their_texts_are(one: str, other: str) -> None:
    assert (version_key(one) == version_key(other)) == (one == other)


def test_ten_is_newer_than_nine() -> None:
    assert version_key("10.0.0") > version_key("9.0.0")


def test_a_missing_part_is_zero_and_the_text_decides() -> None:
    assert version_key("1.0") < version_key("1.0.0") < version_key("1.0.1")


def test_a_part_that_is_no_number_is_older_than_a_missing_one() -> None:
    assert version_key("1.0.beta") < version_key("1")
    assert version_key("1.beta") < version_key("1.0.beta")


def test_only_ascii_digits_are_digits() -> None:
    assert version_key("1.\u0663") < version_key("1.0")
    assert version_key("1.\u00b2") < version_key("1.0")


def test_leading_zeros_do_not_change_the_number() -> None:
    assert version_key("1.010") > version_key("1.9")


def test_a_number_of_any_length_compares() -> None:
    assert version_key("9" * 5000) < version_key("1" + "0" * 5000)
