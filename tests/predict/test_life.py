"""A job's life as a state machine in which workers crash, and are late, at any moment."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from predict.given import ENTRY, Image, events_of, queued, take_next, with_result
from truthloop.errors import Conflict
from truthloop.predict import claim as claims
from truthloop.predict import jobs
from truthloop.predict.claim import Claim
from truthloop.predict.documents import MAX_ATTEMPTS
from truthloop.predict.held import Done, finish, put_back, sweep
from truthloop.predict.queue_limit import QueueLimit
from truthloop.store.connection import Store

RESULT = {"width": 4, "height": 3, "answer": {"labels": []}}
ENDED = ("succeeded", "failed", "cancelled")


class Life(RuleBasedStateMachine):
    """What is known of each job here is what the database must say."""

    store: Store

    @initialize()
    def begin(self) -> None:
        for name in ("jobs", "results", "events"):
            self.store[f"truthloop.{name}"].delete_many({})
        self.limit = QueueLimit(self.store)
        self.states: dict[str, str] = {}
        self.revisions: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.deleted: dict[str, int] = {}  # with their last revision
        self.holds: dict[str, str] = {}  # the claim that holds a running job
        self.claims: dict[str, Claim] = {}  # also those that have lost their jobs

    def move(self, job_id: str, state: str) -> None:
        self.states[job_id] = state
        self.revisions[job_id] += 1
        if state != "running":
            self.holds.pop(job_id, None)

    def some(self, data: st.DataObject, *states: str) -> str | None:
        ids = [job_id for job_id, state in self.states.items() if not states or state in states]
        return data.draw(st.sampled_from(ids)) if ids else None

    @rule()
    def create(self) -> None:
        job = jobs.create(self.store, entry=ENTRY, image=Image())
        self.states[job.id], self.revisions[job.id], self.attempts[job.id] = "created", 1, 0

    @rule(number=st.integers(1, 3))
    def submit(self, number: int) -> None:
        for _ in range(number):
            job = queued(self.store)
            self.states[job.id], self.revisions[job.id], self.attempts[job.id] = "queued", 2, 0

    @rule(data=st.data())
    def execute(self, data: st.DataObject) -> None:
        if job_id := self.some(data):
            if self.states[job_id] == "created":
                jobs.execute(self.store, self.limit, job_id)
                self.move(job_id, "queued")
            else:
                with pytest.raises(Conflict):
                    jobs.execute(self.store, self.limit, job_id)

    @rule()
    def claim(self) -> None:
        taken = take_next(self.store, worker="one")
        waiting = {job_id for job_id, state in self.states.items() if state == "queued"}
        got = {job.id for job in taken.jobs} if taken else set()
        assert got <= waiting
        new = [job_id for job_id in waiting if self.attempts[job_id] == 0]
        assert len(got) == 1 or len(got) <= min(len(new), claims.MAX_CLAIM)
        assert bool(got) == bool(waiting)
        assert len(got) == 1 or got <= {*new}, "one that was begun before is taken alone"
        if taken:
            self.claims[taken.token] = taken
            for job in taken.jobs:
                self.move(job.id, "running")
                self.attempts[job.id] += 1
                self.holds[job.id] = taken.token
                assert (job.attempts, job.revision) == (self.attempts[job.id], self.revisions[job.id])

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """By whoever once had a claim, also after it was lost or finished before."""
        taken = self.claims[data.draw(st.sampled_from(sorted(self.claims)))]
        kinds = data.draw(
            st.lists(
                st.sampled_from(["result", "error", "retry", "away"]),
                min_size=len(taken.jobs),
                max_size=len(taken.jobs),
            )
        )
        said: dict[str, dict[str, Any]] = {
            "result": {"result": RESULT},
            "error": {"error": "broken"},
            "retry": {"retry": "try again"},
            "away": {"retry": "not there", "unavailable": True},
        }
        held = finish(
            self.store,
            taken.token,
            [Done(job=job, **said[kind]) for job, kind in zip(taken.jobs, kinds, strict=True)],
        )
        mine = 0
        for job, kind in zip(taken.jobs, kinds, strict=True):
            if self.holds.get(job.id) == taken.token:
                mine += 1
                again = "failed" if self.attempts[job.id] >= MAX_ATTEMPTS else "queued"
                self.attempts[job.id] -= kind == "away"
                ends = {"result": "succeeded", "error": "failed", "retry": again, "away": "queued"}
                self.move(job.id, ends[kind])
        assert held == mine

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        taken = self.claims[data.draw(st.sampled_from(sorted(self.claims)))]
        put_back(self.store, taken.token, taken.jobs)
        for job in taken.jobs:
            if self.holds.get(job.id) == taken.token:
                self.attempts[job.id] -= 1
                self.move(job.id, "queued")

    @rule()
    def crash(self) -> None:
        """All workers die; their leases run out."""
        self.store["truthloop.jobs"].update_many(
            {"state": "running"}, [{"$set": {"lease.expires_at": {"$subtract": ["$$NOW", 1]}}}]
        )
        assert sweep(self.store) == len(self.holds)
        assert sweep(self.store) == 0
        for job_id in list(self.holds):
            self.move(job_id, "failed" if self.attempts[job_id] >= MAX_ATTEMPTS else "queued")

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if job_id := self.some(data):
            if self.states[job_id] in ENDED:
                with pytest.raises(Conflict):
                    jobs.cancel(self.store, job_id)
            else:
                jobs.cancel(self.store, job_id)
                self.move(job_id, "cancelled")

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if job_id := self.some(data):
            jobs.delete(self.store, job_id)
            cancelled = self.states.pop(job_id) not in ENDED
            self.deleted[job_id] = self.revisions.pop(job_id) + cancelled + 1
            self.holds.pop(job_id, None)

    @invariant()
    def the_database_says_the_same(self) -> None:
        if not hasattr(self, "states"):
            return
        there = {each["_id"]: each for each in self.store["truthloop.jobs"].find()}
        assert {job_id: job["state"] for job_id, job in there.items()} == self.states
        assert {job_id: job["attempts"] for job_id, job in there.items()} == {
            job_id: self.attempts[job_id] for job_id in there
        }
        assert all("lease" in job for job in there.values() if job["state"] == "running")
        assert with_result(self.store) == {job_id for job_id, state in self.states.items() if state == "succeeded"}

    def teardown(self) -> None:
        for job_id, revision in [*self.revisions.items(), *self.deleted.items()]:
            events = events_of(self.store, job_id)
            assert [sequence for sequence, _, _ in events] == list(range(1, revision + 1)), events


def test_whatever_happens_a_job_is_in_one_state_with_one_result_and_all_its_events(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truthloop.predict.held.RETRY_SECONDS", 0.0)
    machine = type("LifeHere", (Life,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[*HealthCheck],
        ),
    )
