"""kill -9 of everything at random moments under load, and a broker that is away: nothing is lost or doubled.

The load is the simulator, which checks by itself. What is asserted here stands on MongoDB's own documents and on
Kafka's own consumer (judge.py). The moments come from a seed, which is new each time unless
TRUTHLOOP_TEST_SEED gives it, and is shown with what was killed when a test fails.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from cli.processes import wait_for
from nothing_lost import judge
from nothing_lost.chaos import Chaos
from nothing_lost.cluster import DATABASE, Cluster

# 2,000 take several minutes more; TRUTHLOOP_TEST_SIMULATED_JOBS=2000 has them.
JOBS = int(os.environ.get("TRUTHLOOP_TEST_SIMULATED_JOBS", "400"))
KILLED = (
    *("api", "api", "worker 1", "worker 1", "worker 2", "worker 2", "relay", "relay", "Kafka", "Kafka"),
    *("the primary of MongoDB", "the primary of MongoDB", "a stepdown of MongoDB", "a member of MongoDB"),
)
# On a slow machine jobs among kills take many minutes.
TIMEOUT_SECONDS = 1800
# A minute takes a minute; TRUTHLOOP_TEST_BROKER_AWAY_SECONDS=60 has it.
BROKER_AWAY_SECONDS = float(os.environ.get("TRUTHLOOP_TEST_BROKER_AWAY_SECONDS", "12"))

pytestmark = [pytest.mark.alone, pytest.mark.timeout(TIMEOUT_SECONDS)]


class Simulator:
    """`truthloop simulate`, with the cheapest real model."""

    def __init__(self, cluster: Cluster, jobs: int) -> None:
        self.code = -1
        self._seen = 0.0
        self._client = MongoClient(cluster.mongodb.uri)
        self._events = self._client[DATABASE]["truthloop.events"]
        self._wanted, self._before = jobs, 0
        self._before = self.count("created")
        self._process = cluster.terminal.start(
            "simulate", "--jobs", str(jobs), "--models", "opencv_faces", "--json"
        )

    def progress(self) -> float:
        """How many of its jobs are made: from 0 to 1."""
        with suppress(PyMongoError):  # nobody takes questions now; it is further when somebody does
            self._seen = (self.count("created") - self._before) / self._wanted
        return self._seen

    def count(self, verb: str) -> int:
        """How many jobs this has happened to, with those before it began."""
        return self._events.count_documents({"type": f"dev.truthloop.job.{verb}"})

    def summary(self) -> dict[str, Any]:
        """Waits for its end: what it says of it."""
        printed, errors = self._process.communicate(timeout=TIMEOUT_SECONDS)
        self._client.close()
        self.code = self._process.returncode
        assert printed, errors
        return json.loads(printed)


def faults(cluster: Cluster) -> list[str]:
    """What is wrong with the jobs, with what Kafka has of them, and with the processes."""
    there = judge.stored(cluster.mongodb.uri, DATABASE)
    messages = judge.consumed(cluster.kafka)
    return judge.faults_of_jobs(there) + judge.faults_of_events(there, messages) + cluster.errors()


def assert_all_is_well(said: dict[str, Any], jobs: int) -> None:
    """What the simulator must say of a run of so many jobs, whatever was killed."""
    assert (said["ok"], said["jobs"], said["acknowledged"]) == (True, jobs, jobs), said
    assert said["lost"] == said["doubled"] == said["out_of_order"] == [], said
    assert said["unexpected"] == said["unanswered"] == [], said
    # Of the others, which are cancelled or deleted, a few are too quick for it.
    assert 0.8 * jobs <= said["states"]["succeeded"] <= 0.9 * jobs, said
    assert said["events_in_kafka"] == said["events"] > 0, said


def test_whatever_is_killed_every_job_ends_once_and_every_event_reaches_kafka_in_order(cluster: Cluster) -> None:
    """One test, since it is one run of 2,000 jobs."""
    seed = int(os.environ.get("TRUTHLOOP_TEST_SEED") or random.SystemRandom().randrange(10**6))
    simulator = Simulator(cluster, JOBS)
    with Chaos(cluster, KILLED, seed=seed, progress=simulator.progress) as chaos:
        try:
            said = simulator.summary()
            assert chaos.all_done(), "all jobs had ended before everything was killed"
        except BaseException as error:
            raise AssertionError(f"{chaos}\n{cluster.last_words()}") from error
    story = f"{chaos}; simulator: {said}"

    assert faults(cluster) == [], story
    assert simulator.code == 0, story
    assert_all_is_well(said, JOBS)
    there = judge.stored(cluster.mongodb.uri, DATABASE)
    made = [event["subject"] for event in there.events if event["type"] == "dev.truthloop.job.created"]
    assert len(made) == len(set(made)) == JOBS, f"a repeated request has made a second job: {story}"
    states = Counter(job["state"] for job in there.jobs.values())
    states["deleted"] = sum(event["type"] == "dev.truthloop.job.deleted" for event in there.events)
    assert states == Counter(said["states"]), f"the simulator was told something else: {story}"


def test_jobs_go_on_while_the_broker_is_away_and_every_event_reaches_it_afterwards(cluster: Cluster) -> None:
    simulator = Simulator(cluster, jobs := 100)
    wait_for(lambda: simulator.progress() > 0.1, "the first jobs")
    cluster.kafka.stop(signal.SIGKILL)
    back_at = time.monotonic() + BROKER_AWAY_SECONDS
    enough = simulator.count("succeeded") + 10
    try:
        wait_for(lambda: simulator.count("succeeded") > enough, "jobs to be worked without Kafka")
        wait_for(lambda: time.monotonic() > back_at, "the time to be over")
    finally:
        cluster.kafka.start()

    said = simulator.summary()
    assert simulator.code == 0, said
    assert_all_is_well(said, jobs)
    assert faults(cluster) == []
