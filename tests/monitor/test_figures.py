from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from strategies import image_states
from truthloop.monitor.figures import Figures
from truthloop.monitor.states import ImageState

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def figures(given_states: list[ImageState]) -> Figures:
    found = Figures()
    for state in given_states:
        found.add(state)
    return found


@given(st.lists(image_states), st.lists(image_states))
def test_taking_away_what_was_added_leaves_the_figures_as_they_were(
    kept: list[ImageState], gone: list[ImageState]
):
    found = figures(kept + gone)
    for state in gone:
        found.take_away(state)

    assert found == figures(kept)


@given(st.lists(image_states))
def test_figures_are_the_same_after_being_written_and_read(given_states: list[ImageState]):
    found = figures(given_states)

    assert Figures.of(found.document()) == found


@given(st.lists(image_states), st.lists(image_states))
def test_figures_of_two_sets_of_images_add_up(some: list[ImageState], others: list[ImageState]):
    assert figures(some) + figures(others) == figures(some + others)


@given(st.lists(image_states))
def test_status_counts_what_a_loop_over_the_images_counts(given_states: list[ImageState]):
    known = [state for state in given_states if state.known]
    wrong = [state for state in known if state.correct_now is False]
    status = figures(given_states).status(as_of=NOW, synthetic=False)

    assert status.images == len(known)
    assert status.not_in_metadata == len(given_states) - len(known)
    assert status.processed.count == sum(bool(state.predicted) for state in known)
    assert status.correct.count == sum(state.correct_now is True for state in known)
    assert status.incorrect.count == len(wrong)
    assert status.audited.count == status.correct.count + status.incorrect.count
    assert status.corrected.count == sum(state.annotated for state in wrong)
    assert status.waiting.uncorrected == len(wrong) - status.corrected.count
    for version in status.model_versions:
        name = version.model_version
        assert version.processed.count == sum(name in state.predicted for state in known)
        assert version.correct.count == sum(name in state.correct for state in known)
        assert version.corrected.count == sum(name in state.incorrect and state.annotated for state in known)


def test_fractions_of_nothing_are_null_and_not_zero():
    status = Figures().status(as_of=NOW, synthetic=False)

    assert status.processed.fraction is None
    assert status.corrected.fraction_of_incorrect is None


def test_model_versions_stand_newest_first():
    found = figures([ImageState(known=True, predicted=("10.0.0", "9.0.0", "9.beta"))])

    versions = [version.model_version for version in found.status(as_of=NOW, synthetic=False).model_versions]
    assert versions == ["10.0.0", "9.0.0", "9.beta"]
