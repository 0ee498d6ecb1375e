"""The relay, as processes of its own, to a real Kafka."""

import itertools
import json
import os
import random
import signal
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import jsonschema
import pytest
from confluent_kafka import Message, Producer
from pymongo.change_stream import ChangeStream
from pymongo.errors import OperationFailure

from cli.processes import Terminal
from events.log import write
from kafka import PASSWORD, USER, Kafka
from truthloop.errors import SettingRefused, Unavailable
from truthloop.events import kafka as kafka_client
from truthloop.events import listeners, relay
from truthloop.events.cloudevent import to_cloudevent_json
from truthloop.events.from_kafka import KafkaEvents
from truthloop.events.passed_on import first_id_at, id_time_ms
from truthloop.events.record import COLLECTION, record
from truthloop.monitor.doctor import examine
from truthloop.settings import Settings, load_settings
from truthloop.store import embedded
from truthloop.store.connection import Store, connect

SCHEMA = json.loads((Path(__file__).parent / "cloudevents-1.0.schema.json").read_text())
TOPIC = "truthloop.documents"
DEADLINE_SECONDS = 60.0
# Messages that anybody may write into our topics.
POISON = (
    None,
    b"",
    b"\xff\x00",
    b"{}",
    b"[1]",
    json.dumps({"specversion": "1.0", "id": "1", "source": "/x", "type": "com.example.made"}).encode(),
)


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    kafka = Kafka()
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.remove()


@pytest.fixture
def kafka(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> Kafka:
    monkeypatch.setenv("TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS", broker.servers)
    return broker


@pytest.fixture
def with_kafka(settings: Settings, kafka: Kafka) -> Settings:
    """This workspace's settings, with Kafka's."""
    return load_settings()


class Relay:
    """A relay in a process of its own."""

    def __init__(self, store: Store, kafka: Kafka) -> None:
        self._terminal = Terminal(
            store.settings.home,
            TRUTHLOOP_DATABASE=store.settings.database,
            TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS=kafka.servers,
        )
        self.start()

    def start(self) -> None:
        self.process = self._terminal.start("relay", "--json")
        self.said: list[dict] = []
        self.logged: list[str] = []
        self._ears = [
            reading(self.process.stdout, lambda line, said=self.said: said.append(json.loads(line))),
            reading(self.process.stderr, self.logged.append),
        ]

    def wait_until(self, state: str) -> None:
        wait_for(lambda: state in [said["state"] for said in self.said], f"{state}: {self.logged}")

    def end(self, number: int) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(DEADLINE_SECONDS)
        for ear in self._ears:
            ear.join(DEADLINE_SECONDS)
        return code


def reading(stream, take) -> threading.Thread:
    """Takes each line of a stream on a thread, and closes it at its end."""

    def read() -> None:
        with stream:
            for line in stream:
                take(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def relays(store: Store, kafka: Kafka) -> Iterator:
    """Starts relays of this workspace; all are ended afterwards."""
    started: list[Relay] = []

    def start(store: Store = store) -> Relay:
        started.append(Relay(store, kafka))
        return started[-1]

    yield start
    for one in started:
        one.end(signal.SIGKILL)


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


class Writer:
    """Writes events of a few subjects until it is told to end, whatever MongoDB does."""

    def __init__(self, store: Store) -> None:
        self.subjects = [f"{letter}-{uuid.uuid4().hex}" for letter in "abcdefgh"]
        self.written: dict[str, tuple[str, int]] = {}
        self._store = store
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        for number in itertools.count():
            if self._done.wait(0.002):
                return
            subject, sequence = self.subjects[number % 8], number // 8 + 1
            while True:
                try:
                    self.written[write(self._store, subject, sequence=sequence)] = (subject, sequence)
                    break
                except Unavailable:
                    if self._done.wait(0.2):
                        return

    def grow(self, by: int) -> None:
        """Waits until so many more are written."""
        enough = len(self.written) + by
        wait_for(lambda: len(self.written) >= enough, "the writer")


def arrived(kafka: Kafka, wanted: "set[str] | dict", topic: str = TOPIC) -> list[dict]:
    """Those messages of a topic that tell of these events, each partition in its order."""
    return [event for event, _ in with_messages(kafka, wanted, topic)]


def with_messages(kafka: Kafka, wanted, topic: str = TOPIC) -> list[tuple[dict, Message]]:
    found = [message for message in kafka.messages(topic) if message.value() not in POISON]
    read = [(json.loads(message.value()), message) for message in found]
    return [(event, message) for event, message in read if event["id"] in wanted]


def all_arrived_in_order(kafka: Kafka, written: dict[str, tuple[str, int]]) -> None:
    """Waits until every event is in Kafka; then each subject's events stand in one partition, by sequence."""
    wait_for(lambda: {event["id"] for event in arrived(kafka, written)} == set(written), "every event in Kafka")
    first: defaultdict[str, list[int]] = defaultdict(list)
    partitions: defaultdict[str, set[int]] = defaultdict(set)
    seen: set[str] = set()
    for event, message in with_messages(kafka, written):
        assert (event["subject"], int(event["sequence"])) == written[event["id"]]
        assert message.key().decode() == event["subject"]
        partitions[event["subject"]].add(message.partition())
        if event["id"] not in seen:
            seen.add(event["id"])
            first[event["subject"]].append(int(event["sequence"]))
    assert all(sequences == sorted(sequences) for sequences in first.values())
    assert all(len(numbers) == 1 for numbers in partitions.values())


def backdated(store: Store, subject: str, seconds: float) -> str:
    """Writes an event as if it had been made before."""
    written = write(store, subject)
    document = store[COLLECTION].find_one_and_delete({"_id": written})
    document["_id"] = first_id_at(id_time_ms(written) - int(seconds * 1000))[:-12] + written[-12:]
    store[COLLECTION].insert_one(document)
    return document["_id"]


# What arrives


def test_kafkas_own_consumer_reads_each_event_as_valid_cloudevents(store, kafka, relays):
    subjects = [f"{number}-{uuid.uuid4().hex}" for number in range(30)]
    written = {write(store, subject, file="ä.json"): (subject, 1) for subject in subjects}
    relays()
    all_arrived_in_order(kafka, written)

    printed = kafka.run(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", kafka.servers, "--topic", TOPIC, "--from-beginning", "--timeout-ms", "3000"),
        *("--property", "print.key=true", "--property", "print.headers=true"),
    )

    mine = [line.split("\t", 2) for line in printed.splitlines() if any(id_ in line for id_ in written)]
    assert {json.loads(value)["id"] for _, _, value in mine} == set(written)
    for headers, key, value in mine:
        event = json.loads(value)
        jsonschema.validate(event, SCHEMA)
        assert key == event["subject"] == event["partitionkey"]
        assert headers == "content-type:application/cloudevents+json"
        assert event["data"] == {"file": "ä.json"}


def test_a_topic_of_each_entity_is_made_with_six_partitions(store, kafka, with_kafka):
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


def test_an_event_too_large_for_a_message_keeps_back_none_of_the_others(store, kafka, relays):
    write(store, "large", text="x" * 2_000_000)
    behind = write(store, "behind")
    started = relays()

    wait_for(lambda: arrived(kafka, {behind}), "the event behind it")
    assert started.end(signal.SIGTERM) == 0
    wait_for(lambda: started.said[-1]["state"] == "stopped", "its last word")
    assert started.said[-1]["unsendable"] == 1
    assert any("event_unsendable" in line for line in started.logged)


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


# What goes away


def test_a_relay_killed_again_and_again_leaves_nothing_out_and_nothing_in_disorder(store, kafka, relays):
    chance = random.Random(11)
    with Writer(store) as writer:
        started = relays()
        for _ in range(2):
            started.wait_until("active")
            time.sleep(chance.uniform(0.0, 1.0))  # a random moment is what is tried
            started.end(signal.SIGKILL)
            started.start()
        started.wait_until("active")
        writer.grow(50)

    all_arrived_in_order(kafka, writer.written)


def test_while_the_broker_is_away_events_wait_and_none_comes_twice(store, kafka, relays):
    with Writer(store) as writer:
        relays().wait_until("active")
        writer.grow(50)
        kafka.stop(signal.SIGKILL)
        writer.grow(200)
        time.sleep(1.0)  # so long at the least that the client has tried in vain to connect
        kafka.start()
        writer.grow(50)

    all_arrived_in_order(kafka, writer.written)
    assert len(arrived(kafka, writer.written)) == len(writer.written)


def test_when_mongodb_was_killed_and_came_back_nothing_is_missing(settings, kafka, relays, tmp_path_factory):
    home = tmp_path_factory.mktemp("killed") / ".truthloop"
    try:
        with connect(settings.model_copy(update={"home": home}), create=True) as store:
            with Writer(store) as writer:
                started = relays(store)
                started.wait_until("active")
                writer.grow(50)
                os.kill(embedded.inspect(home).mongod_pid, signal.SIGKILL)
                writer.grow(50)

            all_arrived_in_order(kafka, writer.written)
            assert started.end(signal.SIGTERM) == 0
    finally:
        embedded.stop(home)


def test_relays_take_over_from_one_another_when_one_freezes_or_is_killed(store, kafka, relays):
    with Writer(store) as writer:
        first = relays()
        first.wait_until("active")
        second = relays()
        second.wait_until("standby")
        writer.grow(50)
        first.process.send_signal(signal.SIGSTOP)
        second.wait_until("active")
        writer.grow(100)
        first.process.send_signal(signal.SIGCONT)  # with events in hand that the other has sent
        first.wait_until("standby")
        first.said.clear()
        second.end(signal.SIGKILL)
        first.wait_until("active")
        writer.grow(50)

    all_arrived_in_order(kafka, writer.written)


def test_a_topic_that_was_deleted_is_made_again(store, kafka, relays):
    before = write(store, "s", sequence=1)
    relays()
    wait_for(lambda: arrived(kafka, {before}), "the first event")
    kafka.clear()
    after = write(store, "s", sequence=2)

    wait_for(lambda: arrived(kafka, {after}), "the event after")
    assert len(kafka.admin().list_topics(timeout=10).topics[TOPIC].partitions) == 6


def test_a_cluster_made_anew_under_the_same_address_gets_the_whole_log(store, kafka, relays):
    before = backdated(store, "before", seconds=1_000)
    lately = write(store, "lately")
    relays()
    wait_for(lambda: len(arrived(kafka, {before, lately})) == 2, "both events")
    kafka.make_anew()
    kafka.start()
    after = write(store, "after")

    wait_for(
        lambda: {event["id"] for event in arrived(kafka, {before, lately, after})} == {before, lately, after},
        "all",
    )


def test_sigterm_ends_a_relay_after_what_is_on_its_way_has_arrived(store, kafka, relays):
    started = relays()
    started.wait_until("active")
    with Writer(store) as writer:
        writer.grow(50)
        assert started.end(signal.SIGTERM) == 0
        wait_for(lambda: started.said[-1]["state"] == "stopped", "its last word")
        assert len(kafka_ids := arrived(kafka, writer.written)) == started.said[-1]["delivered"]
        assert len({event["id"] for event in kafka_ids}) == len(kafka_ids)
        relays().wait_until("active")  # at once: the place was given free

    all_arrived_in_order(kafka, writer.written)


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


def test_what_kafka_has_not_confirmed_is_sent_by_the_next_relay(store, kafka, with_kafka, monkeypatch):
    """The events are hours apart, so that no rescan of two minutes hides a position that ran ahead."""
    sent: list[str] = []

    def noted(event):
        sent.append(event.id)
        return to_cloudevent_json(event)

    monkeypatch.setattr(relay, "to_cloudevent_json", noted)
    monkeypatch.setattr(relay, "FLUSH_SECONDS", 0.5)
    first = backdated(store, "first", seconds=36_000)
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {first}), "the first event")
        kafka.stop(signal.SIGKILL)
        try:
            written = {backdated(store, f"{hour}", seconds=hour * 3_600) for hour in (9, 5, 1)}
            wait_for(lambda: written <= set(sent), "the relay to read them")
        except BaseException:
            kafka.start()
            raise
    kafka.start()
    with relay_in_this_process(with_kafka):
        wait_for(lambda: len(arrived(kafka, written)) == 3, "all of them")


@contextmanager
def relay_in_this_process(settings: Settings) -> Iterator[list[relay.Standing]]:
    stop, said = threading.Event(), []
    with connect(settings, create=True) as store:
        thread = threading.Thread(target=relay.run_relay, args=(store, stop), kwargs={"tell": said.append})
        thread.start()
        wait_for(lambda: said and said[-1].state == "active", "the relay")
        try:
            yield said
        finally:
            stop.set()
            thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


def test_when_the_place_in_the_change_stream_is_lost_nothing_is_missing(store, kafka, with_kafka, monkeypatch):
    broken, read = threading.Event(), ChangeStream.try_next

    def try_next(stream):
        if broken.is_set():
            raise OperationFailure("Resume of change stream was not possible", code=286)
        return read(stream)

    monkeypatch.setattr(ChangeStream, "try_next", try_next)
    with relay_in_this_process(with_kafka), Writer(store) as writer:
        writer.grow(50)
        broken.set()
        writer.grow(50)
        broken.clear()
        writer.grow(50)
        written = writer.written
    with relay_in_this_process(with_kafka):
        all_arrived_in_order(kafka, written)


def test_more_events_than_any_queue_holds_wait_in_the_log(store, kafka, with_kafka, monkeypatch):
    monkeypatch.setattr(relay, "MAX_ON_THE_WAY", 20)
    monkeypatch.setattr(listeners.ThreadListener.__init__, "__defaults__", (20,))
    with relay_in_this_process(with_kafka) as said, Writer(store) as writer:
        writer.grow(10)
        kafka.process.send_signal(signal.SIGSTOP)
        try:
            writer.grow(200)
        finally:
            kafka.process.send_signal(signal.SIGCONT)
        writer.grow(10)
        all_arrived_in_order(kafka, dict(writer.written))

    assert len(arrived(kafka, writer.written)) == said[-1].delivered


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


# Reading back


@pytest.fixture
def terminal(store, kafka) -> Terminal:
    return Terminal(
        store.settings.home,
        TRUTHLOOP_DATABASE=store.settings.database,
        TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS=kafka.servers,
    )


def write_job(store: Store, job: str, sequence: int, verb: str, state: str) -> None:
    store.transaction(
        lambda session: record(
            store,
            session,
            type=f"job.{verb}",
            subject=job,
            source="/predict",
            sequence=sequence,
            data={"state": state},
        )
    )


def test_following_from_kafka_prints_what_following_the_log_prints(store, kafka, relays, terminal):
    relays().wait_until("active")
    job = uuid.uuid4().hex
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
    from_log = terminal.answer("events", "--entity", "job", "--subject", other, "--type", "job.queued")
    assert from_log == f"Inference job (id: {other}) queued: queued\n"


def test_messages_that_are_no_events_are_counted_and_left_out(store, kafka, with_kafka, terminal):
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


# Without Kafka


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


def test_doctor_tells_that_events_wait_for_kafka_until_a_relay_has_taken_them(store, kafka, relays, with_kafka):
    def found() -> tuple[str, str]:
        [one] = [finding for finding in examine(with_kafka) if finding.name == "relay"]
        return one.level, one.text

    old = backdated(store, "old", seconds=60)
    level, text = found()
    assert (level, text.startswith("1 event is not in Kafka yet")) == ("warning", True)
    relays()
    wait_for(lambda: arrived(kafka, {old}), "the event")
    wait_for(lambda: found()[0] == "ok", "the position")


def test_doctor_does_not_speak_of_a_kafka_that_nobody_asked_for(store, settings):
    assert {"Kafka", "relay"} & {finding.name for finding in examine(settings)} == set()


def test_signing_in_without_a_user_is_refused(settings, monkeypatch):
    monkeypatch.setenv("TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("TRUTHLOOP_KAFKA_SECURITY_PROTOCOL", "sasl_ssl")

    with pytest.raises(SettingRefused, match="TRUTHLOOP_KAFKA_SASL_USERNAME"):
        relay.client_settings(load_settings(), name="x")
