import pytest
from hypothesis import given

from strategies import image_states
from truthloop.monitor.documents import State
from truthloop.monitor.states import KEYS, NOT_IN_METADATA, ImageState, keys_of, verdicts
from truthloop.review.verdict import Audit


def audit(*, correct: bool, timestamp: float = 1.0) -> Audit:
    return Audit(correct=correct, task_version="1.0.0", timestamp=timestamp)


def states_of(state: ImageState) -> set[State]:
    return set(KEYS[state.key])


def test_an_image_without_prediction_is_unprocessed_and_waits_for_no_audit():
    assert states_of(ImageState(known=True)) == {State.UNPROCESSED}


def test_a_prediction_without_audit_is_unaudited():
    assert states_of(ImageState(known=True, predicted=("1.0.0",))) == {State.PROCESSED, State.UNAUDITED}


def test_the_verdict_is_that_of_the_newest_audited_version_by_number_not_by_text():
    correct, incorrect = verdicts({"9.0.0": [audit(correct=True)], "10.0.0": [audit(correct=False)]})
    state = ImageState(known=True, predicted=("10.0.0", "9.0.0"), correct=correct, incorrect=incorrect)

    assert state.correct_now is False
    assert State.UNCORRECTED in states_of(state)


def test_an_audit_counts_though_its_prediction_is_not_stored():
    correct, incorrect = verdicts({"1.0.0": [audit(correct=True)]})
    state = ImageState(known=True, correct=correct, incorrect=incorrect)

    assert states_of(state) == {State.UNPROCESSED, State.AUDITED, State.CORRECT}


def test_an_annotation_alone_corrects_nothing():
    state = ImageState(known=True, predicted=("1.0.0",), correct=("1.0.0",), annotated=True)

    assert not states_of(state) & {State.CORRECTED, State.UNCORRECTED}


def test_an_image_that_metadata_lacks_is_in_no_state():
    assert ImageState(known=False, predicted=("1.0.0",)).key == NOT_IN_METADATA


@given(image_states.filter(lambda state: state.known))
def test_audited_is_correct_and_incorrect_together_and_incorrect_is_corrected_or_not(state: ImageState):
    found = states_of(state)

    assert (State.PROCESSED in found) != (State.UNPROCESSED in found)
    assert (State.AUDITED in found) == bool(found & {State.CORRECT, State.INCORRECT})
    assert (State.INCORRECT in found) == bool(found & {State.CORRECTED, State.UNCORRECTED})
    assert (State.UNAUDITED in found) == (State.PROCESSED in found and State.AUDITED not in found)


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_images_that_can_be_in_it(state: State):
    assert keys_of(state)
