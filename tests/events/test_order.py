from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from truthloop.events.documents import Event
from truthloop.events.order import in_sequence
from truthloop.events.passed_on import first_id_at


def made(number: int, subject: str, sequence: int, entity: str = "job") -> Event:
    """An event whose id is the `number`th."""
    return Event(
        id=first_id_at(number),
        type=f"dev.truthloop.{entity}.updated",
        source="/tests",
        subject=subject,
        time=datetime(2026, 1, 31, tzinfo=UTC),
        sequence=sequence,
        data={},
    )


logs = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=50).map(
    lambda rows: [made(number, *row) for number, row in enumerate(rows)]
)


@given(logs, st.integers(0, 60))
def test_putting_events_in_sequence_loses_and_doubles_none(log, within):
    assert sorted(event.id for event in in_sequence(log, within=within)) == [event.id for event in log]


@given(logs)
def test_within_reach_the_events_of_a_subject_follow_their_sequence(log):
    for subject in "abc":
        sequences = [event.sequence for event in in_sequence(log, within=50) if event.subject == subject]
        assert sequences == sorted(sequences)


@given(logs, st.integers(0, 60))
def test_each_place_in_the_log_keeps_its_subject(log, within):
    assert [event.subject for event in in_sequence(log, within=within)] == [event.subject for event in log]


def test_an_event_from_a_clock_that_lags_behind_comes_after_what_it_follows():
    queued, started, other = made(5, "job", 2), made(3, "job", 3), made(4, "else", 1)

    assert list(in_sequence([started, other, queued], within=10)) == [queued, other, started]


def test_an_image_and_its_annotation_with_one_id_are_counted_apart():
    image, annotation = made(1, "id", 7, "image"), made(2, "id", 1, "annotation")

    assert list(in_sequence([image, annotation], within=10)) == [image, annotation]
