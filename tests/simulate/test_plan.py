from hypothesis import given
from hypothesis.strategies import integers

from truthloop.predict.documents import JobState
from truthloop.simulate.plan import Ending, plan


def plans(seed: int, jobs: int):
    return [plan(seed, number, models=["a", "b"], pictures=5) for number in range(jobs)]


@given(integers(), integers(1, 200))
def test_at_least_eight_of_ten_jobs_run_to_their_end_however_many_there_are(seed, jobs):
    run = sum(each.ending is Ending.RUN for each in plans(seed, jobs))

    assert run >= 0.8 * jobs


def test_jobs_are_cancelled_and_deleted_in_different_states():
    others = {(each.ending, each.when) for each in plans(0, 30) if each.ending is not Ending.RUN}

    assert {when for ending, when in others if ending is Ending.CANCEL} == {
        JobState.CREATED,
        JobState.QUEUED,
        JobState.RUNNING,
    }
    assert {when for ending, when in others if ending is Ending.DELETE} == {
        JobState.CREATED,
        JobState.QUEUED,
        JobState.SUCCEEDED,
    }


def test_jobs_are_made_both_ways_with_every_model_and_picture():
    all_of_them = plans(0, 100)

    assert {each.at_once for each in all_of_them} == {True, False}
    assert {each.model for each in all_of_them} == {"a", "b"}
    assert {each.picture for each in all_of_them} == set(range(5))


@given(integers(), integers(0, 1000))
def test_a_job_that_is_to_be_ended_while_it_is_created_is_not_executed_when_it_is_made(seed, number):
    made = plan(seed, number, models=["a"], pictures=1)

    assert not (made.at_once and made.when is JobState.CREATED)


@given(integers(), integers(0, 1000))
def test_the_same_seed_gives_the_same_plan(seed, number):
    assert plan(seed, number, models=["a", "b"], pictures=9) == plan(seed, number, models=["a", "b"], pictures=9)
