"""What wakes workers: MongoDB's change stream, and Kafka where its address is set."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer
from hypothesis import given
from hypothesis import strategies as st

from cli.processes import Terminal
from events.relays import POISON, relay_in_this_process
from kafka import Kafka
from predict.given import ENTRY, OTHER, TinyModel, assert_whole, in_state, loaded, queued, wait_until, working
from truthloop.blobs import Blobs
from truthloop.errors import InputRefused, SettingRefused
from truthloop.ingest.images import StoredImage
from truthloop.predict import batches, jobs, kafka_wake
from truthloop.predict import claim as claims
from truthloop.predict.held import put_back
from truthloop.predict.kafka_wake import MAX_BYTES, TOPICS, Hint, KafkaWakeUp, read_hint
from truthloop.predict.wake import WakeUp, wake_up
from truthloop.predict.worker import Worker
from truthloop.settings import load_settings
from truthloop.store.connection import Store

JOBS = "truthloop.job"
QUEUED = json.dumps(
    {"specversion": "1.0", "type": "dev.truthloop.job.queued", "data": {"state": "queued", "model": "tiny"}}
).encode()


class Ear:
    """Counts what a worker would be told."""

    def __init__(self) -> None:
        self.times = 0

    def tell(self, job: object) -> None:
        self.times += 1

    def hears(self, after: Callable[[], object]) -> bool:
        """Waits until anything is told from now on, once this is done."""
        before = self.times
        after()
        wait_until(lambda: self.times > before)
        return True


@pytest.fixture
def wakes() -> Iterator[Callable[..., Ear]]:
    """Makes wake-ups that listen already; all are ended afterwards."""
    begun: list[WakeUp] = []

    def make(wake: Callable[[Callable[[Any], None]], WakeUp]) -> Ear:
        ear = Ear()
        begun.append(wake(ear.tell))
        assert ear.hears(begun[-1].begin)
        wait_until(lambda: getattr(begun[-1], "stands", True))
        return ear

    yield make
    for wake in begun:
        wake.end()


class WakeUpContract:
    """What every way of waking a worker does."""

    def test_each_waiting_worker_is_told_of_whatever_is_put_into_the_queue(
        self, waking: Store, wakes: Callable[..., Ear]
    ) -> None:
        ears = [wakes(lambda tell: wake_up(waking, tell)) for _ in range(2)]

        def all_hear(change: Callable[[], object]) -> None:
            before = [ear.times for ear in ears]
            change()
            wait_until(lambda: all(ear.times > times for ear, times in zip(ears, before, strict=True)))

        job = queued(waking)
        batch = batches.create(waking, entry=ENTRY, image_ids=["a" * 64])
        all_hear(lambda: queued(waking))
        taken = claims.take(waking, claims.look(waking), worker="me")
        assert job.id in [each.id for each in taken.jobs]
        all_hear(lambda: put_back(waking, taken.token, taken.jobs))
        batches.cancel(waking, batch.id)
        all_hear(lambda: batches.resume(waking, batch.id))

    def test_one_that_has_ended_tells_no_more(self, waking: Store, wakes: Callable[..., Ear]) -> None:
        other = wakes(lambda tell: wake_up(waking, tell))
        ear = Ear()
        ended = wake_up(waking, ear.tell)
        assert ear.hears(ended.begin)
        ended.end()
        before = ear.times

        assert other.hears(lambda: queued(waking))
        assert ear.times == before


class TestChangeStream(WakeUpContract):
    @pytest.fixture
    def waking(self, store: Store) -> Store:
        return store


class TestKafka(WakeUpContract):
    @pytest.fixture
    def waking(self, store: Store, by_kafka: Store) -> Iterator[Store]:
        with relay_in_this_process(by_kafka.settings):
            yield by_kafka


# Through Kafka alone


@pytest.fixture
def by_kafka(store: Store, kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A workspace whose workers are woken by Kafka; topics that come and go are seen soon."""
    monkeypatch.setattr(kafka_wake, "TOPIC_SECONDS", 0.2)
    monkeypatch.setattr(kafka_wake, "HEARTBEAT_SECONDS", 0.2)
    for topic in TOPICS:
        kafka.make_topic(topic)
    store.settings = store.settings.model_copy(update={"kafka_bootstrap_servers": kafka.servers})
    return store


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[KafkaWakeUp]:
    """What wakes the workers that are begun."""
    found: list[KafkaWakeUp] = []
    begin = KafkaWakeUp.begin

    def noted(wake: KafkaWakeUp) -> None:
        found.append(wake)
        begin(wake)

    monkeypatch.setattr(KafkaWakeUp, "begin", noted)
    return found


def send(kafka: Kafka, *messages: bytes | None, topic: str = JOBS) -> None:
    """Messages that anybody has written, in any number, into a topic that is made if it isn't there."""
    producer = Producer({"bootstrap.servers": kafka.servers, "message.max.bytes": 2_000_000, "log_level": 0})
    kafka.make_topic(topic)
    for message in messages:
        producer.produce(topic, message)
    assert producer.flush(60) == 0


def deaf_but_for_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers don't look by themselves."""
    monkeypatch.setattr("truthloop.predict.worker.LOOK_SECONDS", 1e6)


def test_several_idle_workers_share_jobs_that_are_queued_at_once(
    by_kafka: Store, blobs: Blobs, image: StoredImage, begun: list[KafkaWakeUp], monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf_but_for_kafka(monkeypatch)
    monkeypatch.setattr("truthloop.predict.worker.FIRST_CLAIM", 1)
    at_work: set[int] = set()

    def worker(number: int) -> Worker:
        def meet(batch: list[float]) -> None:  # neither gets on without the other
            at_work.add(number)
            wait_until(lambda: len(at_work) == 2)

        return Worker(by_kafka, blobs, loaded(TinyModel(before_run=meet)))

    with (
        relay_in_this_process(by_kafka.settings),
        working(worker(0)),
        working(worker(1)),
    ):
        wait_until(lambda: len(begun) == 2 and all(wake.stands for wake in begun))
        for _ in range(6):
            queued(by_kafka, image=image)
        wait_until(lambda: in_state(by_kafka, "succeeded") == 6)

    assert_whole(by_kafka)


def test_a_job_that_one_worker_has_no_model_for_wakes_another(
    by_kafka: Store, blobs: Blobs, image: StoredImage, begun: list[KafkaWakeUp], monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf_but_for_kafka(monkeypatch)
    able, unable = TinyModel(entry=OTHER), TinyModel()
    with (
        relay_in_this_process(by_kafka.settings),
        working(Worker(by_kafka, blobs, loaded(unable), models=["tiny"])),
        working(Worker(by_kafka, blobs, loaded(able), models=["other"])),
    ):
        wait_until(lambda: len(begun) == 2 and all(wake.stands for wake in begun))
        for _ in range(4):
            queued(by_kafka, entry=OTHER, image=image)
        wait_until(lambda: in_state(by_kafka, "succeeded") == 4)

    assert (len(able.runs) > 0, unable.runs) == (True, [])


def test_events_that_come_again_run_nothing_twice(
    by_kafka: Store, blobs: Blobs, image: StoredImage, kafka: Kafka
) -> None:
    model = TinyModel()
    with relay_in_this_process(by_kafka.settings), working(Worker(by_kafka, blobs, loaded(model))):
        for _ in range(5):
            queued(by_kafka, image=image)
            send(kafka, *[QUEUED] * 50)
        wait_until(lambda: in_state(by_kafka, "succeeded") == 5)

    assert sum(model.runs) == 5
    assert_whole(by_kafka)


def test_messages_that_are_no_events_are_counted_and_passed_over(
    by_kafka: Store, kafka: Kafka, wakes: Callable[..., Ear]
) -> None:
    made: list[KafkaWakeUp] = []

    def wake(tell: Callable[[Any], None]) -> KafkaWakeUp:
        made.append(KafkaWakeUp(by_kafka.settings, tell))
        return made[0]

    ear = wakes(wake)
    huge = b'{"type": "dev.truthloop.job.queued", "data": {"state": "queued", "model": "%s"}}' % (b"x" * MAX_BYTES)
    deep = b"[" * 30_000
    poison = [*POISON, huge, deep, QUEUED.replace(b'"tiny"', b"7"), QUEUED.replace(b'"data"', b'"date"')]
    send(kafka, *poison)
    assert ear.hears(lambda: send(kafka, QUEUED))
    wait_until(lambda: made[0].unreadable == len(poison))
    assert ear.hears(lambda: send(kafka, QUEUED))


def test_only_what_waits_for_a_model_of_the_worker_wakes_it(by_kafka: Store, kafka: Kafka) -> None:
    ear = Ear()
    wake = wake_up(by_kafka, ear.tell, models=["tiny"])
    assert isinstance(wake, KafkaWakeUp)
    wake.begin()
    wait_until(lambda: wake.stands)
    before = ear.times
    send(kafka, *[QUEUED.replace(b"tiny", b"other"), QUEUED.replace(b'"queued"', b'"running"')] * 20)

    assert ear.hears(lambda: send(kafka, QUEUED))
    wake.end()
    assert ear.times == before + 1


def test_a_topic_that_is_not_there_yet_or_vanishes_and_comes_back_is_listened_to(
    by_kafka: Store, kafka: Kafka
) -> None:
    kafka.clear()
    ear = Ear()
    wake = KafkaWakeUp(by_kafka.settings, ear.tell)

    def hears_again() -> bool:
        before = ear.times
        wait_until(lambda: send(kafka, QUEUED) or ear.times > before)
        return True

    wake.begin()
    try:
        for _ in range(2):
            kafka.make_topic(JOBS)
            assert hears_again()
            wait_until(lambda: wake.stands)
            assert ear.hears(lambda: send(kafka, QUEUED))
            kafka.clear()
    finally:
        wake.end()


def test_a_rebalance_of_its_group_leaves_a_worker_listening(by_kafka: Store, kafka: Kafka) -> None:
    kafka.needs_all()  # in the mock cluster a rebalance takes most of a minute
    ear = Ear()
    wake = KafkaWakeUp(by_kafka.settings, ear.tell)
    wake.begin()
    wait_until(lambda: wake.stands)
    intruder = Consumer(
        {"bootstrap.servers": kafka.servers, "group.id": wake.group, "heartbeat.interval.ms": 200, "log_level": 0}
    )
    try:
        intruder.subscribe([JOBS])

        def intrude() -> None:
            wait_until(lambda: intruder.poll(0.1) is None and intruder.assignment())

        # Each time it looks, since it had no ears for a moment.
        assert ear.hears(intrude)
        wait_until(lambda: wake.stands)
        assert ear.hears(intruder.close)
        wait_until(lambda: wake.stands)
        assert ear.hears(lambda: send(kafka, QUEUED))
    finally:
        wake.end()


def test_a_fault_while_it_listens_is_not_the_end_of_it(
    by_kafka: Store, kafka: Kafka, wakes: Callable[..., Ear], monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka.needs_all()  # in the mock cluster it takes most of a minute to join a group again
    faults: list[Exception] = []
    hear = KafkaWakeUp._hear

    def faulty(wake: KafkaWakeUp, message: Message) -> bool:
        if faults:
            raise faults.pop()
        return hear(wake, message)

    monkeypatch.setattr(KafkaWakeUp, "_hear", faulty)
    monkeypatch.setattr(kafka_wake, "PAUSE_SECONDS", 0.05)
    ear = wakes(lambda tell: wake_up(by_kafka, tell))
    faults.append(RuntimeError("a fault"))

    assert ear.hears(lambda: send(kafka, QUEUED))
    assert not faults


def test_a_broker_that_is_away_at_the_start_and_later_is_listened_to_when_it_is_back(
    by_kafka: Store, kafka: Kafka, wakes: Callable[..., Ear]
) -> None:
    early = wakes(lambda tell: wake_up(by_kafka, tell))
    late = Ear()
    wake = KafkaWakeUp(by_kafka.settings, late.tell)
    kafka.stop(signal.SIGKILL)
    try:
        wake.begin()
    finally:
        kafka.start()
    try:
        wait_until(lambda: wake.stands)
        assert early.hears(lambda: send(kafka, QUEUED))
        assert late.hears(lambda: send(kafka, QUEUED))
    finally:
        wake.end()


def test_without_a_broker_workers_find_their_jobs_by_looking(
    store: Store, blobs: Blobs, image: StoredImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("truthloop.predict.worker.LOOK_SECONDS", 0.1)
    store.settings = store.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    with working(Worker(store, blobs, loaded(TinyModel()))):
        wait_until(lambda: jobs.get(store, queued(store, image=image).id) and in_state(store, "succeeded"))


def test_a_setting_that_kafkas_client_refuses_is_told_before_the_worker_begins(store: Store, blobs: Blobs) -> None:
    unusable = {"kafka_bootstrap_servers": "127.0.0.1:1", "kafka_ssl_ca_location": Path("/no/such/file")}
    store.settings = store.settings.model_copy(update=unusable | {"kafka_security_protocol": "ssl"})

    with pytest.raises(SettingRefused, match="TRUTHLOOP_KAFKA_"):
        Worker(store, blobs, loaded(TinyModel())).run(threading.Event())


def test_a_worker_says_what_wakes_it(store: Store, kafka: Kafka) -> None:
    settings = load_settings()
    terminal = Terminal(
        settings.home, TRUTHLOOP_DATABASE=settings.database, TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS=kafka.servers
    )
    worker = terminal.start("worker", "--json")
    try:
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline())["woken_by"] == "kafka"
    finally:
        worker.terminate()
        worker.communicate(timeout=60)


# What a message tells


@pytest.mark.parametrize("poison", POISON)
def test_a_message_that_is_no_event_is_refused(poison: bytes | None) -> None:
    with pytest.raises(InputRefused):
        read_hint(poison)


def _objects(some: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(["type", "data", "state", "model"]), some) | st.lists(some)


_VALUES = st.none() | st.text() | st.integers() | st.sampled_from(["dev.truthloop.job.queued", "queued"])


@given(st.binary(max_size=200) | st.recursive(_VALUES, _objects, max_leaves=10))
def test_whatever_a_message_holds_it_is_a_hint_or_nothing_or_refused(content: Any) -> None:
    message = content if isinstance(content, bytes) else json.dumps(content).encode()
    with suppress(InputRefused):
        assert isinstance(read_hint(message), Hint | None)
