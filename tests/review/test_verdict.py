"""The verdict of a prediction, against a slow reference written from the design's sentence."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis.strategies import lists, randoms

from strategies import audits
from truthloop.review.verdict import Audit, verdict
from truthloop.versions import version_key


def expected(audits: Sequence[Audit]) -> bool | None:
    """The design: newest task version; the verdict field; else majority; tie: most recent, then false."""
    if not audits:
        return None
    by_age = sorted(audits, key=lambda audit: (version_key(audit.task_version), audit.timestamp))
    counted = [audit for audit in by_age if audit.task_version == by_age[-1].task_version]
    carried = [audit for audit in counted if audit.verdict is not None]
    if carried:
        return False not in [a.verdict for a in carried if a.timestamp == carried[-1].timestamp]
    yes, no = (len([audit for audit in counted if audit.correct is answer]) for answer in (True, False))
    if yes != no:
        return yes > no
    return False not in [audit.correct for audit in counted if audit.timestamp == counted[-1].timestamp]


def audit(correct: bool, *, version: str = "1.0.0", timestamp: float = 0.0, resolved: bool | None = None) -> Audit:
    return Audit(correct=correct, task_version=version, timestamp=timestamp, verdict=resolved)


@given(lists(audits, max_size=7))
def test_the_verdict_is_what_the_design_says(given_audits: list[Audit]) -> None:
    assert verdict(given_audits) == expected(given_audits)


@given(lists(audits, max_size=7), randoms())
def test_the_order_of_audits_does_not_change_the_verdict(given_audits: list[Audit], rng: Random) -> None:
    shuffled = rng.sample(given_audits, len(given_audits))

    assert verdict(shuffled) == verdict(given_audits)


def test_no_audits_are_no_verdict() -> None:
    assert verdict([]) is None


def test_the_majority_decides() -> None:
    assert verdict([audit(True), audit(True), audit(False, timestamp=9)]) is True


def test_a_tie_goes_to_the_most_recent_audit() -> None:
    assert verdict([audit(True, timestamp=2), audit(False, timestamp=1)]) is True


def test_among_equally_recent_audits_of_a_tie_false_wins() -> None:
    assert verdict([audit(True, timestamp=2), audit(False, timestamp=2.0)]) is False


def test_only_the_newest_task_version_counts() -> None:
    assert verdict([audit(True, version="10.0.0"), audit(False, version="9.0.0", timestamp=9)]) is True


def test_a_carried_verdict_wins_over_the_majority() -> None:
    assert verdict([audit(False), audit(False), audit(False, resolved=True)]) is True


def test_of_several_carried_verdicts_the_most_recent_decides() -> None:
    assert verdict([audit(True, resolved=True, timestamp=2), audit(True, resolved=False, timestamp=1)]) is True


def test_among_equally_recent_carried_verdicts_false_wins() -> None:
    assert verdict([audit(True, resolved=True), audit(True, resolved=False)]) is False


def test_a_verdict_carried_by_an_older_task_version_does_not_count() -> None:
    assert verdict([audit(True, version="1.0.0", resolved=True), audit(False, version="2.0.0")]) is False


@pytest.mark.parametrize(
    "changed",
    [
        {"bbox_correct": 1},
        {"bbox_correct": "true"},
        {"task_version": 1},
        {"timestamp": "now"},
        {"timestamp": True},
        {"timestamp": None},
        {"timestamp": float("nan")},
    ],
)
def test_an_audit_of_another_shape_is_left_out(changed: dict[str, object]) -> None:
    document = {"bbox_correct": True, "task_version": "1.0.0", "timestamp": 5, **changed}

    assert Audit.parse(document) is None


@pytest.mark.parametrize("field", ["bbox_correct", "task_version", "timestamp"])
def test_an_audit_that_lacks_a_field_is_left_out(field: str) -> None:
    document = {"bbox_correct": True, "task_version": "1.0.0", "timestamp": 5}
    del document[field]

    assert Audit.parse(document) is None


def test_a_verdict_that_is_no_truth_value_counts_as_absent() -> None:
    document = {"bbox_correct": True, "task_version": "1.0.0", "timestamp": 5, "verdict": "yes"}

    assert Audit.parse(document) == Audit(correct=True, task_version="1.0.0", timestamp=5)
