"""What goes away, and what may not be lost with it: relays, brokers, MongoDB, topics and whole clusters."""

import os
import random
import signal
import threading

import pytest
from pymongo.change_stream import ChangeStream
from pymongo.errors import OperationFailure

from events.closed_partition import door
from events.log import backdated, write
from events.relays import (
    TOPIC,
    Writer,
    all_arrived_in_order,
    arrived,
    relay_in_this_process,
    wait_for,
)
from truthloop.errors import KafkaUnavailable
from truthloop.events import listeners, relay
from truthloop.events.cloudevent import to_cloudevent_json
from truthloop.events.kafka import Cluster
from truthloop.store import embedded
from truthloop.store import lease as leases
from truthloop.store.connection import connect


def test_a_relay_that_was_killed_leaves_nothing_out_and_nothing_in_disorder(store, kafka, relays):
    with Writer(store) as writer:
        started = relays()
        started.wait_until("active")
        writer.grow(random.Random(11).randrange(200))  # a random moment is what is tried
        started.end(signal.SIGKILL)
        started.start()
        started.wait_until("active")
        writer.grow(50)

    all_arrived_in_order(kafka, writer.written)


def test_while_the_broker_is_away_events_wait_and_none_comes_twice(store, kafka, with_kafka):
    with Writer(store) as writer, relay_in_this_process(with_kafka):
        writer.grow(50)
        kafka.stop(signal.SIGKILL)
        try:
            writer.grow(200)
        finally:
            kafka.start()  # it takes seconds, in which the relay tries in vain
        writer.grow(50)
        all_arrived_in_order(kafka, dict(writer.written))

    came = [event["id"] for event in arrived(kafka, writer.written)]
    assert len(came) == len(set(came))


def test_when_mongodb_was_killed_and_came_back_nothing_is_missing(kafka, with_kafka, tmp_path_factory):
    home = tmp_path_factory.mktemp("killed") / ".truthloop"
    own = with_kafka.model_copy(update={"home": home})
    try:
        with connect(own, create=True) as store, relay_in_this_process(own):
            with Writer(store) as writer:
                writer.grow(50)
                os.kill(embedded.inspect(home).mongod_pid, signal.SIGKILL)
                writer.grow(50)
            all_arrived_in_order(kafka, writer.written)
    finally:
        embedded.stop(home)


def test_relays_take_over_from_one_another_when_one_freezes_or_is_killed(store, kafka, relays):
    with Writer(store) as writer:
        both = [relays(), relays()]
        wait_for(lambda: all(one.said and one.said[-1]["state"] != "connecting" for one in both), "both relays")
        first, second = sorted(both, key=lambda one: one.said[-1]["state"])
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


def test_a_fresh_topic_that_is_not_open_yet_loses_nothing(store, kafka, with_kafka):
    kafka.needs_all()
    kafka.clear()
    with door(kafka) as proxy, relay_in_this_process(_through(proxy, with_kafka)) as said:
        written = _before_a_closed_partition(store, proxy, "fresh")
        all_arrived_in_order(kafka, written)

    assert said[-1].delivered == len(written)


def test_a_new_turn_before_a_partition_that_is_not_open_yet_loses_nothing(store, kafka, with_kafka):
    kafka.needs_all()
    with door(kafka) as proxy, relay_in_this_process(_through(proxy, with_kafka)) as said:
        before = write(store, "before")
        wait_for(lambda: arrived(kafka, {before}), "the event of the first turn")
        store[leases.COLLECTION].delete_many({"_id": {"$regex": "^relay "}})
        wait_for(lambda: [one.state for one in said].count("active") == 2, "the second turn")
        all_arrived_in_order(kafka, _before_a_closed_partition(store, proxy, "turns"))


def _through(proxy, settings):
    host, port = proxy.server_address
    return settings.model_copy(update={"kafka_bootstrap_servers": f"{host}:{port}"})


def _before_a_closed_partition(store, proxy, subject: str) -> dict[str, tuple[str, int]]:
    """Writes an event, which is refused, and while the answer is on its way those that follow it."""
    proxy.close()
    written = {write(store, subject, sequence=1): (subject, 1)}
    wait_for(lambda: proxy.refused == 1, "the refusal")
    return written | {write(store, subject, sequence=sequence): (subject, sequence) for sequence in range(2, 6)}


@pytest.fixture
def turn(kafka, with_kafka):
    """A turn with nothing to send yet; whoever runs it is the test."""
    with connect(with_kafka, create=True) as store:
        lease = leases.acquire(store, "relay cluster", holder="me", seconds=60)
        position = relay._Position.claim(store, "cluster", lease)
        with relay._Turn(store, Cluster(with_kafka, name="test"), position, relay._Delivered()) as begun:
            yield begun


def test_a_confirmation_that_the_client_only_inferred_is_none(turn):
    """librdkafka gives the message no offset then."""

    class Inferred:
        def offset(self) -> None:
            return None

    sent = relay._OnTheWay("id", "documents.loaded")
    turn._heard(sent, None, Inferred())

    assert not sent.confirmed
    assert isinstance(turn.failure, KafkaUnavailable)


def test_behind_a_failed_message_a_turn_sends_nothing(store, turn):
    turn._fail(KafkaUnavailable("gone"))
    write(store, "behind")
    wait_for(turn._reader_done.is_set, "the reader to end")

    assert not turn._on_the_way


@pytest.fixture
def narrow_topic(kafka):
    """The topic takes messages of 5,000 bytes at most, which the producer doesn't know."""
    kafka.needs_all()
    kafka.clear()
    kafka.make_topic(TOPIC, **{"max.message.bytes": "5000"})
    yield
    kafka.clear()


@pytest.mark.usefixtures("narrow_topic")
def test_an_event_that_the_broker_refuses_for_good_keeps_back_none_of_the_others(store, kafka, with_kafka):
    # In one subject and at once, so that the others are in a batch with it.
    ids = [
        write(store, "s", sequence=1),
        write(store, "s", sequence=2, text=random.Random(5).randbytes(9_000).hex()),
    ]
    ids += [write(store, "s", sequence=sequence) for sequence in range(3, 20)]
    others = {id_: ("s", sequence) for sequence, id_ in enumerate(ids, 1) if sequence != 2}
    with relay_in_this_process(with_kafka) as said:
        all_arrived_in_order(kafka, others)
        wait_for(lambda: relay.waiting(store, limit=10) == (0, 0.0), "the position to pass them all")

    assert said[-1].unsendable == 1
    assert not arrived(kafka, {ids[1]})


@pytest.fixture
def soon_gone(monkeypatch) -> None:
    """What is gone from Kafka is taken as gone soon."""
    monkeypatch.setattr(relay, "GONE_SECONDS", 0.5)


@pytest.mark.usefixtures("soon_gone")
def test_a_topic_that_was_deleted_is_made_again(store, kafka, with_kafka):
    before = write(store, "s", sequence=1)
    with relay_in_this_process(with_kafka):
        wait_for(lambda: arrived(kafka, {before}), "the first event")
        kafka.clear()
        after = write(store, "s", sequence=2)
        wait_for(lambda: arrived(kafka, {after}), "the event after")

    assert len(kafka.admin().list_topics(timeout=10).topics[TOPIC].partitions) == 6


@pytest.mark.usefixtures("soon_gone")
def test_a_cluster_made_anew_under_the_same_address_gets_the_whole_log(store, kafka, with_kafka):
    before = backdated(store, "before", seconds=1_000)
    lately = write(store, "lately")
    with relay_in_this_process(with_kafka):
        wait_for(lambda: len(arrived(kafka, {before, lately})) == 2, "both events")
        kafka.make_anew()
        kafka.start()
        every = {before, lately, write(store, "after")}
        wait_for(lambda: {event["id"] for event in arrived(kafka, every)} == every, "all")


def test_sigterm_ends_a_relay_after_what_is_on_its_way_has_arrived(store, kafka, relays):
    started = relays()
    started.wait_until("active")
    with Writer(store) as writer:
        writer.grow(50)
        assert started.end(signal.SIGTERM) == 0
        wait_for(lambda: started.said[-1]["state"] == "stopped", "its last word")
        came = arrived(kafka, dict(writer.written))
        assert len({event["id"] for event in came}) == len(came) == started.said[-1]["delivered"]
        relays().wait_until("active")  # at once: the place was given free

    all_arrived_in_order(kafka, writer.written)


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
