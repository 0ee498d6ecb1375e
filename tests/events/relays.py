"""Relays as processes and on threads, what they are given to do, and what has arrived in Kafka."""

import itertools
import json
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from confluent_kafka import Message

from cli.processes import Terminal, wait_for
from events.log import write
from kafka import Kafka
from truthloop.errors import Unavailable
from truthloop.events import relay
from truthloop.events.record import record
from truthloop.settings import Settings
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
    read = [(_read(message), message) for message in kafka.messages(topic)]
    return [(event, message) for event, message in read if event.get("id") in wanted]


def _read(message: Message) -> dict:
    """An event; or nothing, for what other tests write there to see it left out."""
    try:
        event = json.loads(message.value() or b"")
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


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


def write_job(store: Store, job: str, sequence: int, verb: str, state: str) -> str:
    """An event of a job, as one of its changes records it."""
    return store.transaction(
        lambda session: record(
            store,
            session,
            type=f"job.{verb}",
            subject=job,
            source="/predict",
            sequence=sequence,
            data={"state": state, "model": "tiny"},
        )
    )
