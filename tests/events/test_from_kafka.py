"""Reading back from Kafka what the relay has taken there, as users do."""

import itertools
import json
import threading
import uuid

import jsonschema
import pytest
from confluent_kafka import Producer

from cli.processes import Terminal
from events.log import write
from events.relays import (
    DEADLINE_SECONDS,
    POISON,
    SCHEMA,
    TOPIC,
    arrived,
    reading,
    relay_in_this_process,
    wait_for,
    write_job,
)
from truthloop.events import from_kafka
from truthloop.events.from_kafka import KafkaEvents
from truthloop.events.record import COLLECTION


@pytest.fixture
def terminal(store, kafka) -> Terminal:
    return Terminal(
        store.settings.home,
        TRUTHLOOP_DATABASE=store.settings.database,
        TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS=kafka.servers,
    )


def test_following_from_kafka_prints_what_following_the_log_prints(store, with_kafka, terminal):
    job = uuid.uuid4().hex
    with relay_in_this_process(with_kafka):
        _follow_both(store, job, terminal)


def _follow_both(store, job, terminal) -> None:
    from_log = terminal.start("events", "--follow")
    from_kafka = terminal.start("events", "--follow", "--from-kafka")
    logged, read = [], []
    ears = [
        reading(from_log.stdout, logged.append),
        reading(from_kafka.stdout, read.append),
        *(reading(process.stderr, [].append) for process in (from_log, from_kafka)),
    ]
    try:
        ready = (f"warm-{number}" for number in itertools.count())
        # Either begins with what happens once it listens.
        wait_for(lambda: write(store, next(ready)) and logged and read, "both to listen")
        write_job(store, job, 1, "queued", "queued")
        write_job(store, job, 2, "started", "running")
        write_job(store, job, 3, "succeeded", "succeeded")
        expected = [
            f"Inference job (id: {job}) {said}\n"
            for said in ("queued: queued", "started: running", "succeeded: succeeded")
        ]
        wait_for(lambda: [line for line in read if job in line] == expected, f"the job's lines, not {read}")
        wait_for(lambda: [line for line in logged if job in line] == expected, "the same from the log")
    finally:
        for process in (from_log, from_kafka):
            process.kill()
            process.wait()
        for ear in ears:
            ear.join(DEADLINE_SECONDS)


def test_events_from_kafka_are_chosen_by_entity_subject_and_type(store, kafka, with_kafka, terminal):
    one, other = uuid.uuid4().hex, uuid.uuid4().hex
    for job in (one, other):
        write_job(store, job, 1, "queued", "queued")
        write_job(store, job, 2, "started", "running")
    last = store[COLLECTION].find_one({}, sort=[("_id", -1)])["_id"]
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {last}, "truthloop.job"), "the events")

    def told(*options: str) -> set[tuple[str, str]]:
        printed = terminal.answer("events", "--from-kafka", "--json", "--limit", "100000", *options)
        events = [json.loads(line) for line in printed.splitlines()]
        for event in events:
            jsonschema.validate(event, SCHEMA)
        return {(event["subject"], event["type"]) for event in events}

    queued, started = "dev.truthloop.job.queued", "dev.truthloop.job.started"
    assert told("--entity", "job", "--subject", one) == {(one, queued), (one, started)}
    assert {(one, queued), (other, queued)} <= told("--type", queued)
    none = terminal.run("events", "--from-kafka", "--type", "job.banana")
    assert (none.returncode, none.stdout) == (0, "")
    # Other tests may have left messages there that are no events, which are told of, too.
    assert "No such events. There is no type 'job.banana'; there are batch.created" in none.stderr
    from_log = terminal.answer("events", "--entity", "job", "--subject", other, "--type", "job.queued")
    assert from_log == f"Inference job (id: {other}) queued: queued\n"


def test_that_kafka_may_have_more_than_the_limit_is_said_beside_the_answer(store, kafka, with_kafka, terminal):
    job = uuid.uuid4().hex
    for sequence in (1, 2, 3):
        write_job(store, job, sequence, "updated", "created")
    last = store[COLLECTION].find_one({}, sort=[("_id", -1)])["_id"]
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {last}, "truthloop.job"), "the events")

    def told(*options: str) -> tuple[int, bool]:
        done = terminal.run("events", "--from-kafka", "--subject", job, *options)
        assert done.returncode == 0
        return len(done.stdout.splitlines()), "There may be more: give a greater --limit." in done.stderr

    assert told("--limit", "2") == (2, True)
    assert told("--limit", "4") == (3, False)
    assert told("--limit", "2", "--json") == (2, False)


def test_messages_that_are_no_events_are_counted_and_left_out(store, kafka, with_kafka, terminal):
    kafka.clear()
    written = write(store, "before")
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {written}), "the event")
        producer = Producer({"bootstrap.servers": kafka.servers, "partitioner": "murmur2_random"})
        for poison in POISON:
            producer.produce(TOPIC, poison, key=b"before")  # into the same partition
        producer.flush(30)
        behind = write(store, "before", sequence=2)
        wait_for(lambda: arrived(kafka, {behind}), "the event behind them")

    done = terminal.run("events", "--from-kafka", "--json", "--limit", "100000")

    assert done.returncode == 0
    told = [json.loads(line)["id"] for line in done.stdout.splitlines()]
    assert written in told
    assert behind in told
    assert f"{len(POISON)} messages left out: no events of Truthloop." in done.stderr


def test_a_topic_that_one_answer_lacks_is_not_read_from_its_beginning(store, kafka, with_kafka, monkeypatch):
    before = write(store, "s", sequence=1)
    looked, real, stop, read = [], KafkaEvents._partitions, threading.Event(), []

    def partitions(self):
        looked.append(self)
        return real(self) if len(looked) != 2 else []

    monkeypatch.setattr(from_kafka, "LOOK_SECONDS", 0.1)
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {before}), "the event before")
        monkeypatch.setattr(KafkaEvents, "_partitions", partitions)
        events = KafkaEvents(with_kafka, follow=True, stop=stop)
        reader = threading.Thread(target=lambda: read.extend(event.id for event in events))
        reader.start()
        wait_for(lambda: len(looked) >= 4, "the looks after the one that lacks it")
        after = write(store, "s", sequence=2)
        wait_for(lambda: arrived(kafka, {after}), "the event after")
        wait_for(lambda: after in read, "the reader")
        stop.set()
        reader.join(DEADLINE_SECONDS)

    assert read == [after]
