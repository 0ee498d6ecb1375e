"""Reading the events back from Kafka, where the relay has taken them; needs no MongoDB."""

import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from truthloop.errors import InputRefused
from truthloop.events.cloudevent import from_cloudevent_json
from truthloop.events.documents import Event
from truthloop.events.kafka import ANSWER_SECONDS, UNNAMED, client_settings, kafka_errors, own_topics, unavailable
from truthloop.events.passed_on import RESCAN_MS, PassedOn, checked_cursor, id_time_ms
from truthloop.logs import get_logger
from truthloop.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Message

CLIENT = "truthloop-events"
# How often a reader looks for topics and partitions that are new.
LOOK_SECONDS = 2.0
POLL_SECONDS = 0.1
BATCH = 500
# Kafka's codes for a partition that has no leader, or another one than the client knows.
_NO_LEADER = {5, 6}

log = get_logger(__name__)


class KafkaEvents:
    """The events of all topics `truthloop.*`; iterate once.

    Each comes once, though Kafka may hold it several times. Within a subject they are in order. It joins no
    consumer group, so it takes nothing away from other readers and leaves nothing behind.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        follow: bool,
        after: str | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Connects to Kafka and finds the places to begin at.

        Args:
            settings: where Kafka is.
            follow: go on with each event as it comes, else end with the last that is there now.
            after: the id of an event; begins 120 s before the time when it was made. Default: at the first
                that Kafka holds, or with `follow` now.
            stop: ends the reading when another thread sets it, also while nothing comes.

        Raises:
            CursorRefused: `after` isn't an event's id.
            SettingRefused: Kafka's settings are missing or can't be used.
            KafkaUnavailable: no broker answers.
        """
        from confluent_kafka import Consumer

        if after is not None:
            checked_cursor(after)
        self.unreadable = 0  # messages in these topics that aren't events of Truthloop
        self._settings = settings
        self._follow = follow
        self._stop = stop or threading.Event()
        self._ends: dict[tuple[str, int], int] = {}
        self._known: set[tuple[str, int]] = set()
        self._missing: set[tuple[str, int]] = set()  # of the known, what the last look did not find
        with kafka_errors(settings):
            self._consumer: Consumer = Consumer(
                client_settings(settings, name=CLIENT)
                | {
                    "group.id": f"{CLIENT}-{uuid.uuid4().hex}",  # librdkafka wants one; nothing is stored in it
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "enable.partition.eof": not follow,
                }
            )
            self._begin(after)

    def __iter__(self) -> Iterator[Event]:
        passed = PassedOn()
        looked = time.monotonic()
        try:
            while (self._follow or self._ends) and not self._stop.is_set():
                for message in self._messages():
                    event = self._event(message)
                    if event is not None and passed.add(event.id, now_ms=time.time_ns() // 1_000_000):
                        yield event
                if self._follow and time.monotonic() - looked > LOOK_SECONDS:
                    self._take_up_new()
                    looked = time.monotonic()
        finally:
            self._consumer.close()

    @property
    def is_read(self) -> bool:
        """Whether it has come to the end that it found at first; never where it follows."""
        return not self._follow and not self._ends

    def _messages(self) -> "list[Message]":
        """The next that are here, waiting a moment for the first."""
        first = self._consumer.poll(POLL_SECONDS)
        # Alone it would wait until its number is full or the time is up.
        return [] if first is None else [first, *self._consumer.consume(BATCH, timeout=0)]

    def _begin(self, after: str | None) -> None:
        from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, TopicPartition

        places = self._partitions()
        if after is not None and places:  # asked about no place, the client says that this is no question
            # A message is never older than its event, so none that was made since is passed by.
            since = max(id_time_ms(after) - RESCAN_MS, 0)
            # Where there is none as young, what comes from now on: "the end" would be where that is when the first
            # message is fetched, and pass by what comes meanwhile.
            ends = {place: self._watermarks(place)[1] for place in places} if self._follow else {}
            begins = self._consumer.offsets_for_times(
                [TopicPartition(*place, since) for place in places], timeout=ANSWER_SECONDS
            )
            for begin in begins:
                if begin.offset == OFFSET_END and self._follow:
                    begin.offset = ends[begin.topic, begin.partition]
        elif self._follow:
            # The end as it is now and not when the first message is fetched: what comes meanwhile counts.
            begins = [TopicPartition(*place, self._watermarks(place)[1]) for place in places]
        else:
            begins = [TopicPartition(*place, OFFSET_BEGINNING) for place in places]
        if not self._follow:
            for begin in begins:
                place = (begin.topic, begin.partition)
                low, high = self._watermarks(place)
                if begin.offset != OFFSET_END and max(begin.offset, low) < high:
                    self._ends[place] = high
            begins = [begin for begin in begins if (begin.topic, begin.partition) in self._ends]
        self._known = set(places)
        self._consumer.assign(begins)

    def _watermarks(self, place: tuple[str, int]) -> tuple[int, int]:
        from confluent_kafka import KafkaException, TopicPartition

        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                found = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=ANSWER_SECONDS)
                return found if found is not None else (0, 0)
            except KafkaException as failed:
                # For a moment a partition that was just made, or whose broker went away, has no leader.
                if not failed.args[0].retriable() and failed.args[0].code() not in _NO_LEADER:
                    raise
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)

    def _partitions(self) -> list[tuple[str, int]]:
        topics = self._consumer.list_topics(timeout=ANSWER_SECONDS).topics
        return [
            (topic, partition) for topic in own_topics(topics) for partition in sorted(topics[topic].partitions)
        ]

    def _take_up_new(self) -> None:
        """Topics and partitions that were made since the last look: all in them is new."""
        from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

        try:
            now = self._partitions()
        except KafkaException as failed:  # the consumer itself goes on when the brokers come back
            log.warning("kafka_topics_unknown", error=str(failed.args[0])[:300])
            return
        new = [place for place in now if place not in self._known]
        # Brokers leave out a topic in one answer and have it in the next; dropped, it would be read again from its
        # beginning. So what is gone was missed twice.
        missing = self._known - set(now)
        gone = missing & self._missing
        with kafka_errors(self._settings):
            if gone:
                self._consumer.incremental_unassign([TopicPartition(*place) for place in gone])
            if new:
                self._consumer.incremental_assign([TopicPartition(*place, OFFSET_BEGINNING) for place in new])
        self._known = (self._known | set(now)) - gone
        self._missing = missing - gone

    def _event(self, message: "Message") -> Event | None:
        from confluent_kafka import KafkaError

        error = message.error()
        place = (message.topic() or UNNAMED, message.partition() or 0)
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._ends.pop(place, None)
            elif error.fatal() or error.code() in (
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
                KafkaError._AUTHENTICATION,
            ):
                raise unavailable(error, self._settings)
            else:
                log.warning("kafka_trouble", client=CLIENT, error=error.str()[:300])
            return None
        offset = message.offset() or 0
        if not self._follow and offset + 1 >= self._ends.get(place, 0):
            self._ends.pop(place, None)
        try:
            return from_cloudevent_json(message.value() or b"")
        except InputRefused as refused:
            self.unreadable += 1
            log.warning(
                "message_unreadable", topic=place[0], partition=place[1], offset=offset, reason=str(refused)
            )
            return None
