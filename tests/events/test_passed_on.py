"""What the ids of events tell, and which were passed on already: pure."""

import uuid

import pytest
import uuid_utils
from hypothesis import given
from hypothesis import strategies as st

from truthloop.errors import CursorRefused
from truthloop.events.passed_on import (
    REMEMBERED_MS,
    RESCAN_MS,
    PassedOn,
    checked_cursor,
    first_id_at,
    id_time_ms,
    rescan_from,
)

NOW_MS = 1_800_000_000_000
times = st.integers(min_value=0, max_value=2**48 - 1)


def id_at(time_ms: int, number: int = 0) -> str:
    return first_id_at(time_ms)[:-12] + f"{number:012x}"


@given(times)
def test_an_id_tells_the_time_at_which_it_was_made(time_ms):
    assert id_time_ms(id_at(time_ms, 7)) == time_ms


@given(times, times)
def test_ids_sort_as_their_times_do(one, other):
    assert (id_at(one) < id_at(other)) == (one < other)


def test_the_first_id_of_a_time_is_a_uuid_of_version_7_that_no_other_precedes():
    made = str(uuid_utils.uuid7())

    assert uuid.UUID(first_id_at(id_time_ms(made))).version == 7
    assert first_id_at(id_time_ms(made)) <= made < first_id_at(id_time_ms(made) + 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "not an id",
        "00000000-0000-0000-0000-000000000000",
        "2f1b4c9e-6a1d-4c57-9d0e-0a6f3a1b2c3d",
        "01890A5D-AC96-774B-BCCE-B302099A8057",
        "01890a5d-ac96-774b-7cce-b302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a8057\n",
        "{01890a5d-ac96-774b-bcce-b302099a8057}",
        "01890a5dac96774bbcceb302099a8057",
        "x" * 100_000,
    ],
    ids=range(11),
)
def test_a_cursor_that_is_no_uuid_of_version_7_is_refused(text):
    with pytest.raises(CursorRefused) as refusal:
        checked_cursor(text)

    assert refusal.value.errors.keys() == {"after"}
    assert len(str(refusal.value)) < 300


def test_a_rescan_begins_120_seconds_before_the_last_event_seen():
    assert id_time_ms(rescan_from(id_at(NOW_MS), now_ms=NOW_MS)) == NOW_MS - RESCAN_MS


def test_an_id_from_a_clock_that_runs_ahead_does_not_make_a_rescan_skip_the_events_of_others():
    ahead = id_at(NOW_MS + 3_600_000)

    assert rescan_from(ahead, now_ms=NOW_MS) == first_id_at(NOW_MS - RESCAN_MS)


def test_a_rescan_from_the_beginning_of_time_begins_there():
    assert rescan_from(id_at(5), now_ms=NOW_MS) == first_id_at(0)


@given(st.lists(st.integers(min_value=NOW_MS - RESCAN_MS, max_value=NOW_MS).map(id_at)))
def test_what_a_rescan_can_meet_again_is_known(ids):
    passed = PassedOn()

    assert [passed.add(each, now_ms=NOW_MS) for each in ids] == [
        each not in ids[:place] for place, each in enumerate(ids)
    ]
    assert all(each in passed for each in ids)


def test_ids_that_no_rescan_reaches_are_forgotten():
    passed = PassedOn()
    for number in range(10_000):
        passed.add(id_at(NOW_MS + number * 1000), now_ms=NOW_MS + number * 1000)

    assert len(passed) == REMEMBERED_MS // 1000 + 1


def test_an_id_from_a_clock_that_runs_ahead_makes_nobody_forget():
    passed = PassedOn()
    passed.add(id_at(NOW_MS), now_ms=NOW_MS)
    passed.add(id_at(NOW_MS + 3_600_000), now_ms=NOW_MS)

    assert id_at(NOW_MS) in passed
