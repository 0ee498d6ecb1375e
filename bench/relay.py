"""How soon an event is in Kafka, and how long the relay needs for a log that it hasn't seen.

    TRUTHLOOP_TEST_KAFKA_CLASSPATH=FOLDER python bench/relay.py [--events 2000] [--rate 200] [--log 100000]

A real MongoDB, a real broker and `truthloop relay`, each a process of its own on this machine. Prints, in one run:

- the delay from the commit to a consumer in Kafka (p50, p99), beside the delay from the commit to one who follows
  the log itself, which is the limit: nobody can be told sooner;
- the seconds that the relay needs for the log of --log events, beside those of reading the same log and sending
  the same bytes to the same broker as fast as the client can, without positions, order or confirmations kept.
"""

import argparse
import json
import os
import sys
import threading
import time
import uuid

from percentiles import print_delays
from with_kafka import active_relay, broker, has_kafka, home_of_a_workspace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000, help="how many the delay is measured on")
    parser.add_argument("--rate", type=float, default=200.0, help="events a second meanwhile")
    parser.add_argument("--log", type=int, default=100_000, help="how many the relay has to catch up with")
    options = parser.parse_args()
    if not has_kafka():
        return 0
    from truthloop.settings import load_settings
    from truthloop.store.connection import connect

    with home_of_a_workspace() as home, broker() as kafka:
        result = {}
        for name, number, measure in (
            ("delays", options.events, lambda *given: delays(*given, rate=options.rate)),
            ("log", options.log, lambda *given: catching_up(*given, kafka=kafka)),
        ):
            os.environ["TRUTHLOOP_DATABASE"] = name
            with connect(load_settings(home), create=True) as store:
                result |= measure(store, number)
        print(json.dumps(result))
    return 0


def catching_up(store, number: int, *, kafka) -> dict:
    from truthloop.events.cloudevent import to_cloudevent_json
    from truthloop.events.kafka import Cluster
    from truthloop.events.passed_on import first_id_at
    from truthloop.events.stream import EventHub

    write_log(store, number)
    # The limit first, on another topic.
    Cluster(store.settings, name="bench").make_topic("truthloop.limit")
    from confluent_kafka import Producer

    began = time.perf_counter()
    producer = Producer(
        {
            "bootstrap.servers": kafka.servers,
            "linger.ms": 2,
            "compression.type": "lz4",
            "acks": "all",
            "log_level": 0,
        }
    )
    hub = EventHub(store)
    for _, event in zip(range(number), hub.follow(after=first_id_at(0)), strict=False):
        while True:
            try:
                producer.produce("truthloop.limit", to_cloudevent_json(event), key=event.subject)
                break
            except BufferError:
                producer.poll(0.01)
        producer.poll(0)
    producer.flush()
    limit = time.perf_counter() - began
    hub.close()

    with active_relay(store):
        began = time.perf_counter()
        while ends(kafka, "truthloop.benchmark") < number:
            time.sleep(0.02)
        ours = time.perf_counter() - began
    print(f"{'a log of ' + format(number, ',') + ' events':44}{ours:8.1f} s{number / ours:12,.0f} events/s")
    print(f"{'the same, read and sent without any promise':44}{limit:8.1f} s{number / limit:12,.0f} events/s")
    return {"catch_up_seconds": round(ours, 2), "catch_up_against_limit": round(ours / limit, 2)}


def write_log(store, number: int) -> None:
    from truthloop.events.record import NewEvent, record_all

    for start in range(0, number, 500):
        events = [
            NewEvent(
                type="benchmark.run",
                subject=f"subject-{index % 1000}",
                sequence=index // 1000 + 1,
                data={"state": "running", "model": "benchmark", "attempt": 1},
            )
            for index in range(start, min(start + 500, number))
        ]
        store.transaction(lambda session, events=events: record_all(store, session, events, source="/bench"))


def ends(kafka, topic: str) -> int:
    """How many messages a topic holds, by the ends of its partitions."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    if topic not in ends.consumers:
        told = {"bootstrap.servers": kafka.servers, "group.id": uuid.uuid4().hex, "log_level": 0}
        ends.consumers[topic] = Consumer(told)
    consumer = ends.consumers[topic]
    found = consumer.list_topics(timeout=10).topics
    if topic not in found:
        return 0
    try:
        return sum(
            consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
            for partition in found[topic].partitions
        )
    except KafkaException:  # for a moment a new topic has no leaders
        return 0


ends.consumers = {}


def delays(store, number: int, *, rate: float) -> dict:
    from truthloop.events.from_kafka import KafkaEvents
    from truthloop.events.stream import EventHub

    committed: dict[str, float] = {}
    in_log: dict[str, float] = {}
    in_kafka: dict[str, float] = {}
    with active_relay(store):
        hub = EventHub(store)
        live, read = hub.follow(), KafkaEvents(store.settings, follow=True)

        def listen(events, seen: dict[str, float]) -> None:
            for event in events:
                seen[event.id] = time.perf_counter()

        for events, seen in ((live, in_log), (read, in_kafka)):
            threading.Thread(target=listen, args=(events, seen), daemon=True).start()
        warm = write_one(store, 0)
        while warm not in in_kafka or warm not in in_log:
            time.sleep(0.01)
        begins = time.perf_counter()
        for index in range(number):
            time.sleep(max(0.0, begins + index / rate - time.perf_counter()))
            id_ = write_one(store, index + 1)
            committed[id_] = time.perf_counter()
        while not committed.keys() <= in_kafka.keys() or not committed.keys() <= in_log.keys():
            time.sleep(0.01)
        took = time.perf_counter() - begins
    hub.close()
    print()
    p50, p99 = print_delays(
        f"from the commit, {number / took:,.0f} events/s",
        {
            name: [max(seen[id_] - at, 0.0) * 1000 for id_, at in committed.items()]
            for name, seen in (("consumer in Kafka", in_kafka), ("follower of the log", in_log))
        },
    )["consumer in Kafka"]
    return {"delay_p50_ms": round(p50, 1), "delay_p99_ms": round(p99, 1)}


def write_one(store, number: int) -> str:
    from truthloop.events.record import record

    return store.transaction(
        lambda session: record(
            store,
            session,
            type="live.run",
            subject=f"live-{number % 100}",
            source="/bench",
            sequence=number // 100 + 1,
            data={},
        )
    )


if __name__ == "__main__":
    sys.exit(main())
