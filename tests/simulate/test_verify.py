from hypothesis import given
from hypothesis.strategies import composite, integers, lists, randoms, sampled_from

from truthloop.predict.documents import JobState
from truthloop.simulate.verify import Arrivals, Fault, Said, Told, judge

STATES = {
    "created": "created",
    "queued": "queued",
    "started": "running",
    "requeued": "queued",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
ENDS = ("succeeded", "failed", "cancelled")


def history(verbs: list[str]) -> list[Told]:
    told: list[Told] = []
    for sequence, verb in enumerate(verbs, start=1):
        state = told[-1].state if verb == "deleted" else STATES[verb]
        told.append(Told(sequence, verb, state, f"event-{sequence}"))
    return told


@composite
def lives(draw) -> list[Told]:
    """The events of a job that came to a good end, as the service makes them."""
    verbs = ["created", "queued"]
    for _ in range(draw(integers(0, 2))):
        verbs += ["started", "requeued"]
    end = draw(sampled_from(["succeeded", "cancelled"]))  # a failed job is a finding by itself
    verbs += ["started", end] if end != "cancelled" or draw(sampled_from([True, False])) else [end]
    if draw(sampled_from([True, False])):
        verbs.append("deleted")
    return history(verbs)


def said_of(told: list[Told]) -> Said:
    verbs = {event.verb for event in told}
    said = Said.CREATED | Said.EXECUTED
    if "cancelled" in verbs:
        said |= Said.CANCELLED | Said.ASKED_TO_CANCEL
    if "deleted" in verbs:
        said |= Said.DELETED | Said.ASKED_TO_DELETE
    return said


def faults(told: list[Told], *, like: list[Told]) -> set[Fault]:
    """What is found in these events, if it is those of `like` that happened."""
    last = like[-1]
    gone = last.verb == "deleted"
    state, revision = (None, None) if gone else (last.state, last.sequence)
    return {finding.fault for finding in judge("job", said_of(like), told, state=state, revision=revision)}


@given(lives(), randoms())
def test_a_life_in_which_all_is_right_has_no_findings_in_whatever_order_it_is_read(life, rng):
    assert faults(rng.sample(life, len(life)), like=life) == set()


@given(lives(), randoms())
def test_a_lost_event_is_found(life, rng):
    gone = rng.choice(life)

    assert Fault.LOST in faults([event for event in life if event != gone], like=life)


@given(lives(), randoms())
def test_a_doubled_event_is_found(life, rng):
    twice = rng.choice(life)._replace(id="another")

    assert Fault.DOUBLED in faults([*life, twice], like=life)


@given(lives())
def test_a_job_that_ends_twice_is_found(life):
    end = next(event for event in life if event.verb in ENDS)
    after = history([event.verb for event in life if event.verb != "deleted"] + [end.verb])

    assert Fault.DOUBLED in faults(after, like=after)


@given(lives(), randoms())
def test_two_events_in_the_wrong_order_are_found(life, rng):
    place = rng.randrange(len(life) - 1)
    first, second = life[place], life[place + 1]
    swapped = [
        *life[:place],
        second._replace(sequence=first.sequence),
        first._replace(sequence=second.sequence),
        *life[place + 2 :],
    ]

    assert Fault.OUT_OF_ORDER in faults(swapped, like=life)


@given(lives())
def test_a_job_without_any_event_is_lost(life):
    assert Fault.LOST in faults([], like=life)


@given(lives())
def test_a_job_that_is_not_as_its_last_event_says_is_found(life):
    last = life[-1]
    if last.verb == "deleted":
        found = judge("job", said_of(life), life, state=last.state, revision=last.sequence)
    else:
        found = judge("job", said_of(life), life, state=last.state, revision=last.sequence + 1)

    assert Fault.LOST in {finding.fault for finding in found}


def test_a_job_that_is_gone_and_that_nobody_deleted_is_lost():
    life = history(["created", "queued", "started", "succeeded"])

    found = judge("job", Said.CREATED | Said.EXECUTED, life, state=None, revision=None)

    assert [finding.fault for finding in found] == [Fault.LOST]


def test_a_job_that_is_gone_though_no_event_tells_of_its_deleting_is_lost():
    said = Said.CREATED | Said.EXECUTED | Said.ASKED_TO_DELETE
    life = history(["created", "queued", "started", "succeeded"])

    assert [each.fault for each in judge("job", said, life, state=None, revision=None)] == [Fault.LOST]


def test_a_cancelling_without_an_answer_may_or_may_not_have_happened():
    said = Said.CREATED | Said.EXECUTED | Said.ASKED_TO_CANCEL
    ran = history(["created", "queued", "started", "succeeded"])
    cancelled = history(["created", "queued", "cancelled"])

    assert judge("job", said, ran, state=JobState.SUCCEEDED, revision=4) == []
    assert judge("job", said, cancelled, state=JobState.CANCELLED, revision=3) == []


def test_a_failed_job_is_told_of_with_its_own_error():
    said = Said.CREATED | Said.EXECUTED
    life = history(["created", "queued", "started", "requeued", "started", "failed"])

    found = judge("job", said, life, state="failed", revision=6, error="Tried 3 times. w-1 has gone.")

    assert [finding.fault for finding in found] == [Fault.UNEXPECTED]
    assert found[0].text.endswith("has failed: Tried 3 times. w-1 has gone.")


def test_a_job_that_failed_before_it_was_deleted_is_told_of():
    said = Said.CREATED | Said.EXECUTED | Said.ASKED_TO_DELETE | Said.DELETED
    life = history(["created", "queued", "started", "failed", "deleted"])

    assert [each.fault for each in judge("job", said, life, state=None, revision=None)] == [Fault.UNEXPECTED]


def test_a_job_that_was_only_made_need_not_end():
    assert judge("job", Said.CREATED, history(["created"]), state=JobState.CREATED, revision=1) == []


@given(lists(lives(), min_size=1, max_size=4), randoms())
def test_repeats_and_whatever_order_between_jobs_are_fine_in_kafka(told, rng):
    logged = dict(enumerate_jobs(told))
    arrivals = Arrivals(logged)
    for job, event in shuffled_between_jobs(logged, rng):
        arrivals.add(job, event)
        if rng.random() < 0.3:
            again = rng.choice([each for each in logged[job] if each.sequence <= event.sequence])
            arrivals.add(job, again)
    arrivals.add("somebody else's", Told(1, "created", "created", "event"))

    assert arrivals.end() == []
    assert (arrivals.missing, arrivals.come) == (0, sum(map(len, told)))


@given(lists(lives(), min_size=1, max_size=4), randoms())
def test_an_event_that_kafka_lacks_is_found(told, rng):
    logged = dict(enumerate_jobs(told))
    arrivals = Arrivals(logged)
    events = shuffled_between_jobs(logged, rng)
    gone = rng.choice(events)
    for job, event in events:
        if (job, event) != gone:
            arrivals.add(job, event)

    assert Fault.LOST in {finding.fault for finding in arrivals.end()}
    assert arrivals.missing == 1


@given(lives(), randoms())
def test_an_event_that_comes_to_kafka_too_late_is_found(life, rng):
    arrivals = Arrivals({"job": life})
    late = life.pop(rng.randrange(len(life) - 1))
    for event in [*life, late]:
        arrivals.add("job", event)

    assert {finding.fault for finding in arrivals.end()} == {Fault.OUT_OF_ORDER}


@given(lives(), randoms())
def test_an_event_that_comes_to_kafka_under_two_ids_is_found(life, rng):
    arrivals = Arrivals({"job": life})
    for event in life:
        arrivals.add("job", event)
    another = rng.choice(life)._replace(id="another")
    for _ in range(2):
        arrivals.add("job", another)

    assert [finding.fault for finding in arrivals.end()] == [Fault.DOUBLED]


@given(lives(), sampled_from(["verb", "state"]), randoms())
def test_an_event_that_tells_something_else_in_kafka_is_found(life, field, rng):
    changed = rng.choice(life)
    arrivals = Arrivals({"job": life})
    for event in life:
        arrivals.add("job", event._replace(**{field: "other"}) if event == changed else event)

    assert Fault.DOUBLED in {finding.fault for finding in arrivals.end()}


def enumerate_jobs(told: list[list[Told]]) -> list[tuple[str, list[Told]]]:
    return [
        (f"job-{number}", [event._replace(id=f"{number}-{event.id}") for event in life])
        for number, life in enumerate(told)
    ]


def shuffled_between_jobs(logged: dict[str, list[Told]], rng) -> list[tuple[str, Told]]:
    """All events; those of one job in their order."""
    jobs = [job for job, life in logged.items() for _ in life]
    rng.shuffle(jobs)
    left = {job: iter(life) for job, life in logged.items()}
    return [(job, next(left[job])) for job in jobs]
