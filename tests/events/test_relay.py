"""What the relay takes to Kafka, and where it begins; a real Kafka."""

import json
import random
import re
import threading
import time
import uuid

import jsonschema
import pytest

from cli.processes import Terminal
from events.log import backdated, write
from events.relays import (
    SCHEMA,
    all_arrived_in_order,
    arrived,
    relay_in_this_process,
    wait_for,
    with_messages,
)
from kafka import PASSWORD, USER, Kafka
from predict.given import ENTRY, OTHER, TinyModel, loaded, png, take_next
from truthloop.errors import SettingRefused
from truthloop.events import kafka as kafka_client
from truthloop.events import relay
from truthloop.events.from_kafka import KafkaEvents
from truthloop.events.passed_on import first_id_at, id_time_ms
from truthloop.events.record import COLLECTION, record
from truthloop.ingest.images import store_image
from truthloop.monitor.doctor import examine
from truthloop.predict import batches, jobs
from truthloop.predict.held import put_back
from truthloop.predict.queue_limit import QueueLimit
from truthloop.predict.run import slices_of
from truthloop.predict.worker import Worker
from truthloop.settings import Settings, load_settings
from truthloop.workspace import Workspace


@pytest.fixture
def every_kind(store, tmp_path) -> None:
    """A log with what each stage records: images, documents, a dataset, jobs and a batch."""
    workspace = Workspace(store)
    store.settings = store.settings.model_copy(update={"blobs": f"file://{tmp_path / 'blobs'}"})
    image = workspace.ingest_image(png(7), name="grey.png")
    documents = tmp_path / "metadata.json"
    documents.write_text('[{"image_id": "a", "image_path": "a.jpg", "timestamp": 1}]')
    workspace.load([documents])
    workspace.dataset.build()
    stored = store_image(workspace.blobs, store.settings, png(8))
    limit = QueueLimit(store)
    first, withdrawn = (jobs.create(store, entry=ENTRY, image=stored) for _ in range(2))
    jobs.update(store, first.id, deadline_seconds=3_600.0)
    for job in (first, withdrawn):
        jobs.execute(store, limit, job.id)
    jobs.cancel(store, withdrawn.id)
    wrong = jobs.submit(store, limit, entry=OTHER, image=stored)
    given_back = take_next(store, worker="one that is stopped")
    assert given_back is not None
    put_back(store, given_back.token, given_back.jobs)
    batch = batches.create(store, entry=ENTRY, image_ids=[image.image_id])
    batches.cancel(store, batch.id)
    batches.resume(store, batch.id)
    models, stop = loaded(TinyModel()), threading.Event()
    claim_slice = slices_of(store, workspace.blobs, models, stop, worker="me")
    Worker(store, workspace.blobs, models, claim_slice=claim_slice).run(stop, until_empty=True)
    assert jobs.get(store, wrong.id).state == "failed"
    jobs.delete(store, first.id)


@pytest.mark.usefixtures("every_kind")
def test_kafkas_own_consumer_reads_what_every_stage_records_as_valid_cloudevents(store, kafka, with_kafka):
    log = {event["_id"]: event for event in store[COLLECTION].find()}
    topics = {f"truthloop.{event['type'].split('.')[2]}" for event in log.values()}
    with relay_in_this_process(with_kafka):
        wait_for(lambda: sum(len(arrived(kafka, log, topic)) for topic in topics) == len(log), "the log")

    there = sum(len(kafka.messages(topic)) for topic in topics)
    printed = kafka.run(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", kafka.servers, "--from-beginning"),
        *("--include", "|".join(re.escape(topic) for topic in topics), "--max-messages", str(there)),
        *("--property", "print.key=true", "--property", "print.headers=true"),
    )

    mine = [line.split("\t", 2) for line in printed.splitlines() if any(id_ in line for id_ in log)]
    for headers, key, value in mine:
        event = json.loads(value)
        jsonschema.validate(event, SCHEMA)
        recorded = log.pop(event["id"])
        assert key == event["subject"] == event["partitionkey"] == recorded["subject"]
        assert headers == "content-type:application/cloudevents+json"
        assert (event["type"], event["data"]) == (recorded["type"], recorded["data"])
        assert int(event["sequence"]) == recorded["sequence"]
    assert not log
    assert {json.loads(value)["type"].removeprefix("dev.truthloop.") for _, _, value in mine} == {
        *("image.ingested", "documents.loaded", "dataset.built"),
        *(f"job.{verb}" for verb in ("created", "updated", "queued", "started", "requeued", "succeeded")),
        *("job.failed", "job.cancelled", "job.deleted"),
        *(f"batch.{verb}" for verb in ("created", "cancelled", "resumed", "started", "completed")),
    }


def test_letters_of_any_language_arrive_as_they_were_written(store, kafka, with_kafka):
    written = write(store, "ä", file="写真.json")
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {written}), "the event")

    [(event, message)] = with_messages(kafka, {written})
    assert (event["data"], message.key().decode()) == ({"file": "写真.json"}, "ä")


def test_a_topic_of_each_entity_is_made_with_six_partitions(store, kafka, with_kafka):
    kafka.needs_all()
    entity = f"thing_{random.randrange(10**9)}".translate(str.maketrans("0123456789", "abcdefghij"))
    id_ = store.transaction(
        lambda session: record(
            store, session, type=f"{entity}.made", subject="s", source="/tests", sequence=1, data={}
        )
    )
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {id_}, f"truthloop.{entity}"), "the event")

    topic = kafka.admin().list_topics(timeout=10).topics[f"truthloop.{entity}"]
    assert len(topic.partitions) == 6


def test_an_event_too_large_for_a_message_keeps_back_none_of_the_others(store, kafka, with_kafka):
    write(store, "large", text="x" * 2_000_000)
    behind = write(store, "behind")
    with relay_in_this_process(with_kafka) as said:
        wait_for(lambda: arrived(kafka, {behind}), "the event behind it")

    assert said[-1].unsendable == 1


@pytest.fixture
def secured(kafka: Kafka, settings, monkeypatch) -> Settings:
    """This workspace's settings, with Kafka's for a user over TLS."""
    for name, value in {
        "BOOTSTRAP_SERVERS": kafka.secured,
        "SECURITY_PROTOCOL": "sasl_ssl",
        "SASL_MECHANISM": "PLAIN",
        "SASL_USERNAME": USER,
        "SASL_PASSWORD": PASSWORD,
        "SSL_CA_LOCATION": str(kafka.certificate),
    }.items():
        monkeypatch.setenv(f"TRUTHLOOP_KAFKA_{name}", value)
    return load_settings()


def test_events_reach_a_kafka_that_asks_for_tls_and_a_password(store, kafka, secured):
    written = write(store, "secret")
    with relay_in_this_process(secured):
        wait_for(lambda: arrived(kafka, {written}), "the event")

    assert written in [event.id for event in KafkaEvents(secured, follow=False)]


def test_a_wrong_password_is_told_as_such(store, secured, monkeypatch):
    monkeypatch.setenv("TRUTHLOOP_KAFKA_SASL_PASSWORD", "wrong-one")
    monkeypatch.setattr(kafka_client, "ANSWER_SECONDS", 1.0)
    [found] = [finding for finding in examine(load_settings()) if finding.name == "Kafka"]

    assert found.level == "failure"
    assert "authentication" in found.text.lower()
    assert "wrong-one" not in found.text


def test_a_relay_begins_where_the_last_one_was_confirmed(store, kafka, with_kafka):
    old = backdated(store, "old", seconds=300)
    new = write(store, "new")
    with relay_in_this_process(with_kafka):
        wait_for(lambda: len(arrived(kafka, {old, new})) == 2, "both events")
    newest = write(store, "newest")
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {newest}), "the newest event")

    assert len(arrived(kafka, {old})) == 1


def test_a_relay_that_was_away_for_hours_sends_all_that_happened_meanwhile(store, kafka, with_kafka):
    """Its place in the change stream would be long gone: the position is a time in the log, not a token."""
    first = backdated(store, "first", seconds=36_000)
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {first}), "the first event")
    missed = [backdated(store, f"missed {hour}", seconds=hour * 3_600) for hour in (9, 5, 1)]
    with relay_in_this_process(with_kafka):
        wait_for(lambda: len(arrived(kafka, set(missed))) == 3, "what was missed")


def test_an_event_from_a_clock_that_lags_behind_comes_after_what_it_follows(store, kafka, with_kafka):
    subject = uuid.uuid4().hex
    first = write(store, subject, sequence=1)
    second = write(store, subject, sequence=2)
    document = store[COLLECTION].find_one_and_delete({"_id": second})
    second = first_id_at(id_time_ms(first) - 5_000)[:-12] + second[-12:]
    store[COLLECTION].insert_one(document | {"_id": second})

    with relay_in_this_process(with_kafka):
        all_arrived_in_order(kafka, {first: (subject, 1), second: (subject, 2)})


def test_a_clock_that_runs_ahead_does_not_take_the_position_with_it(store):
    lease = relay.leases.acquire(store, "relay", holder="me", seconds=60)
    position = relay._Position.claim(store, "cluster", lease)
    position.passed(first_id_at(int(time.time() + 3_600) * 1000))

    assert id_time_ms(position.id) <= time.time() * 1000


def test_a_position_never_goes_back(store):
    lease = relay.leases.acquire(store, "relay", holder="me", seconds=60)
    position = relay._Position.claim(store, "cluster", lease)
    position.passed(first_id_at(2_000_000))
    position.passed(first_id_at(1_000_000))

    assert id_time_ms(position.id) == 2_000_000


def test_a_relay_without_kafkas_address_says_what_to_set(tmp_path):
    done = Terminal(tmp_path / ".truthloop").run("relay")

    assert done.returncode == 2
    assert "TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS" in done.stderr


def test_doctor_tells_whether_kafka_answers(store, kafka, with_kafka):
    [found] = [finding for finding in examine(with_kafka) if finding.name == "Kafka"]

    assert (found.level, kafka.servers in found.text) == ("ok", True)


def test_doctor_tells_that_kafka_does_not_answer(store, settings, monkeypatch):
    monkeypatch.setenv("TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr(kafka_client, "ANSWER_SECONDS", 0.5)
    [found] = [finding for finding in examine(load_settings()) if finding.name == "Kafka"]

    assert (found.level, "127.0.0.1:1" in found.text) == ("failure", True)


def test_doctor_tells_that_events_wait_for_kafka_until_a_relay_has_taken_them(store, kafka, with_kafka):
    def found() -> tuple[str, str]:
        [one] = [finding for finding in examine(with_kafka) if finding.name == "relay"]
        return one.level, one.text

    old = backdated(store, "old", seconds=60)
    level, text = found()
    assert (level, text.startswith("1 event is not in Kafka yet")) == ("warning", True)
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {old}), "the event")
    assert found() == ("ok", "no event waits for Kafka")


def test_doctor_does_not_speak_of_a_kafka_that_nobody_asked_for(store, settings):
    assert {"Kafka", "relay"} & {finding.name for finding in examine(settings)} == set()


def test_signing_in_without_a_user_is_refused(settings, monkeypatch):
    monkeypatch.setenv("TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("TRUTHLOOP_KAFKA_SECURITY_PROTOCOL", "sasl_ssl")

    with pytest.raises(SettingRefused, match="TRUTHLOOP_KAFKA_SASL_USERNAME"):
        relay.client_settings(load_settings(), name="x")
