"""What wakes a worker where there is Kafka: the events that put something into the queue.

Each worker hears of all of them, as a consumer group of its own. In one group for all workers each hint would go
to one of them, which may be busy or lack the model while another stands idle.

Source: docs/decisions/0014-kafka-wakes-workers.md.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from truthloop.errors import InputRefused
from truthloop.events.documents import TYPE_PREFIX
from truthloop.events.kafka import REPEAT_SECONDS, client_settings, kafka_errors, topic_of
from truthloop.logs import get_logger
from truthloop.predict.documents import JobState
from truthloop.settings import Settings
from truthloop.store.connection import Document

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

CLIENT = "truthloop-worker"
GROUP_PREFIX = "truthloop-workers-"
TOPICS = (topic_of("job"), topic_of("batch"))
# How soon a topic that is made, or made again, is listened to.
TOPIC_SECONDS = 2.0
# How soon it is seen that the group's coordinator gives out the partitions anew.
HEARTBEAT_SECONDS = 3.0
POLL_SECONDS = 0.5
# Before a client is made anew that can't go on.
PAUSE_SECONDS = 1.0
# Messages that came together are one hint: there is one look for them.
BATCH = 500
# Ours have a few hundred bytes. Anybody may write into a topic; what is larger is passed over without parsing it.
MAX_BYTES = 64_000
# What may wait in memory to be read.
QUEUED_KBYTES = 4_096

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Hint:
    """Something that was put into the queue: for which model."""

    model: str


def read_hint(message: bytes | None) -> Hint | None:
    """What a message tells a worker; None where it is an event that puts nothing into the queue.

    Only what is needed is looked at, since there are many: a wrong hint costs a look.

    Args:
        message: the value of a message, as anybody may have written it.

    Raises:
        InputRefused: it is no event of Truthloop.

    >>> read_hint(b'{"type": "dev.truthloop.job.queued", "data": {"state": "queued", "model": "tiny"}}')
    Hint(model='tiny')
    >>> read_hint(b'{"type": "dev.truthloop.job.started", "data": {"state": "running", "model": "tiny"}}')
    """
    if not message:
        raise InputRefused("The message is empty.")
    if len(message) > MAX_BYTES:
        raise InputRefused(f"The message has {len(message):,} bytes, more than {MAX_BYTES:,}.")
    try:
        event = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"The message is no JSON ({str(error)[:200]}).") from error
    if not isinstance(event, dict) or not str(event.get("type")).startswith(TYPE_PREFIX):
        raise InputRefused("The message is no event of Truthloop.")
    data: Any = event.get("data")
    if not isinstance(data, dict):
        raise InputRefused("The event has no data.")
    if data.get("state") != JobState.QUEUED:
        return None
    if not isinstance(data.get("model"), str):
        raise InputRefused("The event says that something waits, and not for which model.")
    return Hint(data["model"])


class KafkaWakeUp:
    """Tells, on a thread of its own, whenever the topics of jobs and batches say that something waits.

    It is a hint, never a promise: who is told also looks every few seconds. Nothing is stored in Kafka. It begins
    at the end of each partition, and tells when it stands there: what came before is found by a look.

    Args:
        settings: where Kafka is.
        tell: called with None: what waits is in MongoDB.
        models: those that the worker works; None for any.

    Raises:
        SettingRefused: Kafka's settings can't be used.
    """

    def __init__(
        self, settings: Settings, tell: Callable[[Document | None], None], *, models: Collection[str] | None = None
    ) -> None:
        self.unreadable = 0  # messages that are no events of Truthloop
        self.stands = False  # whether it has come to the end of all partitions
        self._settings, self._tell, self._models = settings, tell, models
        self.group = f"{GROUP_PREFIX}{uuid.uuid4().hex}"
        self._ended = threading.Event()
        self._coming: set[tuple[str, int]] = set()  # partitions given to it and not yet read to their end
        self._logged: dict[str, float] = {}
        self._first = self._connected()

    def begin(self) -> None:
        """Starts to listen."""
        threading.Thread(target=self._run, name="truthloop-wake", daemon=True).start()

    def end(self) -> None:
        """Tells no more; the thread ends by itself."""
        self._ended.set()

    def _connected(self) -> "Consumer":
        """A consumer, which reaches for the brokers from now on, however long they are away."""
        from confluent_kafka import Consumer

        with kafka_errors(self._settings):
            consumer = Consumer(
                client_settings(self._settings, name=CLIENT)
                | {
                    "group.id": self.group,
                    # A group without offsets is forgotten by the brokers when its worker has ended.
                    "enable.auto.commit": False,
                    # Only where a topic was made anew: then all in it is new. Else `_stand` says where to begin.
                    "auto.offset.reset": "earliest",
                    "enable.partition.eof": True,
                    "allow.auto.create.topics": False,
                    "heartbeat.interval.ms": round(1000 * HEARTBEAT_SECONDS),
                    "topic.metadata.refresh.interval.ms": round(1000 * TOPIC_SECONDS),
                    "topic.metadata.propagation.max.ms": round(1000 * TOPIC_SECONDS),
                    "queued.max.messages.kbytes": QUEUED_KBYTES,
                }
            )
            consumer.subscribe([*TOPICS], on_assign=self._stand)
        return consumer

    def _run(self) -> None:
        consumer: Consumer | None = self._first
        while not self._ended.is_set():
            try:
                consumer = consumer or self._connected()
                self._listen(consumer)
            except Exception as error:  # whatever it is, the worker looks without hints
                log.warning("queue_topics_lost", error=str(error)[:300])
                self._ended.wait(PAUSE_SECONDS)
            finally:
                if consumer is not None:
                    with suppress(Exception):
                        consumer.close()
                    consumer = None

    def _listen(self, consumer: "Consumer") -> None:
        while not self._ended.is_set():
            first = consumer.poll(POLL_SECONDS)
            if first is None:
                continue
            # Alone it would wait until its number is full or the time is up.
            heard = [self._hear(message) for message in (first, *consumer.consume(BATCH, timeout=0))]
            if any(heard) and not self._ended.is_set():
                self._tell(None)

    def _stand(self, consumer: "Consumer", places: "list[TopicPartition]") -> None:
        """Begins at the end of the partitions that were given to it."""
        from confluent_kafka import OFFSET_END

        for place in places:
            place.offset = OFFSET_END
        consumer.assign(places)
        self._coming, self.stands = {(place.topic, place.partition) for place in places}, False
        log.debug("queue_topics", partitions=len(places))

    def _hear(self, message: "Message") -> bool:
        """Whether a message, or what the client says in its place, is a reason to look into the queue."""
        from confluent_kafka import KafkaError, KafkaException

        place = (message.topic() or "", message.partition() or 0)
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                came, self._coming = place in self._coming, self._coming - {place}
                self.stands = not self._coming
                return came
            if error.fatal():
                raise KafkaException(error)
            if error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:  # the relay makes them with their first event
                self._note("kafka_trouble", client=CLIENT, error=error.str()[:300])
            return False
        try:
            hint = read_hint(message.value())
        except InputRefused as refused:
            self.unreadable += 1
            self._note(
                "message_unreadable",
                topic=place[0],
                partition=place[1],
                offset=message.offset(),
                reason=str(refused),
                so_far=self.unreadable,
            )
            return False
        return hint is not None and (self._models is None or hint.model in self._models)

    def _note(self, what: str, **told: object) -> None:
        """Logs what is wrong, not as often as it comes: anybody may fill a topic with anything."""
        now = time.monotonic()
        if now - self._logged.get(what, float("-inf")) >= REPEAT_SECONDS:
            self._logged[what] = now
            log.warning(what, **told)
