"""The relay: takes each event of the log to Kafka.

One process at a time, by lease. It follows the log as every reader does (stream.py) and produces each event as
CloudEvents JSON, to `truthloop.<entity>`, with the subject as key. How far it has come is stored after Kafka has
confirmed it, so who takes over begins at or before that place: an event may come twice, with one id, and none is
missing. Within a subject the order holds: the producer is idempotent and lets no message past one that failed, and
who begins anew begins before all that isn't confirmed.

Source: docs/decisions/0012-kafka-relay.md.
"""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from truthloop.errors import KafkaUnavailable, LeaseLost, TruthloopError, Unavailable
from truthloop.events.cloudevent import CONTENT_TYPE, to_cloudevent_json
from truthloop.events.documents import Event
from truthloop.events.kafka import Cluster, client_settings, kafka_errors, topic_of, unavailable
from truthloop.events.passed_on import PassedOn, first_id_at, id_time_ms
from truthloop.events.record import COLLECTION as EVENTS
from truthloop.events.stream import EventHub
from truthloop.logs import get_logger
from truthloop.store import lease as leases
from truthloop.store.connection import Store
from truthloop.store.lease import Lease

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

COLLECTION = "truthloop.relay_positions"
CLIENT = "truthloop-relay"
# Short: two that are active at once only repeat events, while each second without any delays them.
LEASE_SECONDS = 3.0
BEAT_SECONDS = 0.5
# How often a relay in waiting looks whether the place is free, and a failed one tries again.
LOOK_SECONDS = 1.0
# How many events may be on their way to Kafka; more wait in the log. Some 10 MB.
MAX_ON_THE_WAY = 10_000
# A restart repeats 120 s of events at the least, so a finer position would save nothing.
STORE_SECONDS = 1.0
POLL_SECONDS = 0.1
# A topic that was deleted, or a cluster that was made anew, is taken as gone when it isn't there for so long.
GONE_SECONDS = 5.0
# How long a turn that ends waits for what is on its way; container engines wait 10 s before they kill.
FLUSH_SECONDS = 6.0
# How far apart in a rescan two events of a subject may stand in the wrong order, by clocks that disagree.
IN_SEQUENCE_WITHIN = 20_000
# Kafka's codes for what it won't take however often it comes: MSG_SIZE_TOO_LARGE, RECORD_LIST_TOO_LARGE and
# INVALID_RECORD.
REFUSED_FOR_GOOD = {10, 18, 87}

State = Literal["connecting", "standby", "active", "stopped"]

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a relay does now."""

    state: State
    delivered: int  # events that Kafka has confirmed to this process
    unsendable: int = 0  # no message could be made of them or Kafka refuses it; they are in the log alone


def run_relay(
    store: Store,
    stop: threading.Event,
    *,
    tell: Callable[[Standing], None],
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Takes events to Kafka until `stop` is set, whatever goes away and comes back meanwhile.

    Args:
        store: the log.
        stop: ends it, after what is on its way has been confirmed or a few seconds have passed.
        tell: called when it begins to connect, to wait for another relay, to be the active one, and at the end.
        alive: called every second or so, for as long as it reaches MongoDB and Kafka takes what it sends.

    Raises:
        SettingRefused: Kafka's settings are missing or can't be used.
    """
    _Relay(store, stop, tell, alive).run()


def waiting(store: Store, *, limit: int) -> tuple[int, float]:
    """The events that are not known to be in Kafka, by the position that was stored last.

    Args:
        store: where the log and the positions are.
        limit: more are not counted.

    Returns:
        How many there are, and how many seconds ago the first of them was made; (0, 0.0) if there is none.
    """
    with store.errors():
        stored = store[COLLECTION].find_one({}, sort=[("time", -1)])
        after = first_id_at(0) if stored is None else stored["position"]
        ids = [
            found["_id"]
            for found in store[EVENTS].find({"_id": {"$gt": after}}, {"_id": 1}).sort("_id", 1).limit(limit)
        ]
    return (len(ids), time.time() - id_time_ms(ids[0]) / 1000) if ids else (0, 0.0)


class _Relay:
    """What lasts from one time of being active to the next."""

    def __init__(
        self,
        store: Store,
        stop: threading.Event,
        tell: Callable[[Standing], None],
        alive: Callable[[], None],
    ) -> None:
        self._store = store
        self._stop = stop
        self._tell = tell
        self._alive = alive
        self._told: State | None = None
        self._holder = uuid.uuid4().hex
        self._delivered = _Delivered()
        self._cluster = ""

    def run(self) -> None:
        cluster = Cluster(self._store.settings, name=CLIENT)
        while not self._stop.is_set():
            try:
                if self._told != "standby":
                    self._say("connecting")
                # Asked each time: a cluster that was made anew under the same address gets the log from its start.
                id_ = cluster.id()
                lease = leases.acquire(self._store, f"relay {id_}", holder=self._holder, seconds=LEASE_SECONDS)
                self._alive()
                if lease is None:
                    self._say("standby")
                    self._stop.wait(LOOK_SECONDS)
                    continue
                with leases.held(self._store, lease, every_seconds=BEAT_SECONDS):
                    self._lead(cluster, id_, lease)
            except (Unavailable, LeaseLost) as error:
                log.warning("relay_interrupted", error=str(error))
                self._stop.wait(LOOK_SECONDS)
        self._say("stopped")

    def _lead(self, cluster: Cluster, id_: str, lease: Lease) -> None:
        if id_ != self._cluster:
            # What another cluster has confirmed is not in this one, and this one may take what that refused.
            self._cluster = id_
            self._delivered.begin_anew()
        position = _Position.claim(self._store, id_, lease)
        log.info("relay_active", cluster=id_, after=position.id)
        with _Turn(self._store, cluster, position, self._delivered) as turn:
            self._say("active")
            turn.run(
                lambda: self._stop.is_set() or lease.lost.is_set(),
                alive=lambda: self._alive() if lease.is_fresh else None,
            )
            turn.finish(0.0 if lease.lost.is_set() else FLUSH_SECONDS)
        if lease.lost.is_set():
            raise LeaseLost("Another relay has taken over, since this one couldn't renew its lease in time.")
        if turn.failure is not None and not self._stop.is_set():
            raise turn.failure

    def _say(self, state: State) -> None:
        if state != self._told:
            self._told = state
            self._tell(
                Standing(state=state, delivered=self._delivered.count, unsendable=len(self._delivered.unsendable))
            )


class _Delivered:
    """What Kafka has confirmed to this process; a rescan in the same process doesn't send it again."""

    def __init__(self) -> None:
        self.count = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        self.ids = PassedOn()
        self.refused: set[str] = set()  # came back in a batch that Kafka refused; not all of it need be at fault
        self.unsendable: set[str] = set()


class _Position:
    """How far the log has come into one cluster, and the place where it is stored."""

    def __init__(self, store: Store, cluster: str, term: int, id: str) -> None:  # noqa: A002
        self._store = store
        self._cluster = cluster
        self._term = term
        self._stored = id
        self.id = id

    @classmethod
    def claim(cls, store: Store, cluster: str, lease: Lease) -> "_Position":
        """Reads it and makes it this lease's, so that nothing which an earlier holder has in hand comes after.

        Raises:
            LeaseLost: a later holder has it.
        """
        with store.errors():
            try:
                found = store[COLLECTION].find_one_and_update(
                    {"_id": cluster, "term": {"$lte": lease.term}},
                    {"$set": {"term": lease.term}, "$setOnInsert": {"position": first_id_at(0)}},
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            except DuplicateKeyError:
                raise LeaseLost("Another relay has taken over.") from None
        assert found is not None  # there, or just made
        return cls(store, cluster, lease.term, str(found["position"]))

    def passed(self, id: str) -> None:  # noqa: A002 - CloudEvents' own name
        """All events up to this one, in the order of the stream, are confirmed.

        It never goes back: whatever isn't confirmed comes later in the stream than the newest that is. An id
        from a clock that runs ahead counts as made now, or events of others would be passed by.
        """
        self.id = max(self.id, min(id, first_id_at(time.time_ns() // 1_000_000)))

    def store(self) -> None:
        """Stores it, where it has changed.

        Raises:
            LeaseLost: a later holder has it.
        """
        now = self.id
        if now == self._stored:
            return
        with self._store.errors():
            done = self._store[COLLECTION].update_one(
                {"_id": self._cluster, "term": self._term},
                [{"$set": {"position": now, "time": "$$NOW"}}],
            )
        if done.matched_count == 0:
            raise LeaseLost("Another relay has taken over.")
        self._stored = now


@dataclass(slots=True)
class _OnTheWay:
    """An event that was given to the producer."""

    id: str
    type: str
    alone: bool = False  # it is a batch of its own
    confirmed: bool = False  # or passed over


class _Turn:
    """One time of being active, with a producer and a place in the log of its own.

    A thread reads the log and gives events to the producer; the thread that runs the turn stores the position.
    Both hear what Kafka confirms.
    """

    def __init__(self, store: Store, cluster: Cluster, position: _Position, delivered: _Delivered) -> None:
        self._store = store
        self._cluster = cluster
        self._position = position
        self._delivered = delivered
        self._on_the_way: deque[_OnTheWay] = deque()
        self._first: _OnTheWay | None = None  # what was the first on its way a second ago
        self._topics: set[str] = set()
        self._hearing = threading.Lock()
        self._over = threading.Event()
        self._reader_done = threading.Event()
        self._stored_at = 0.0
        self._kafka_failed = False
        self.failure: TruthloopError | None = None
        self._producer = _producer(store)
        self._hub = EventHub(store, in_sequence_within=IN_SEQUENCE_WITHIN)

    def __enter__(self) -> Self:
        try:
            events = self._hub.follow(after=self._position.id)
        except BaseException:
            self._hub.close()
            raise
        self._reader = threading.Thread(target=self._read, args=(events,), name="truthloop-relay", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_reading()
        # What still waits in the producer is sent anew by who comes next; sent later it would only repeat.
        self._producer.purge()
        # Not by `flush`: where the client has an error to raise, that goes on calling back and fails in the midst.
        deadline = time.monotonic() + LOOK_SECONDS
        while len(self._producer) and time.monotonic() < deadline:
            self._hear(POLL_SECONDS)

    def run(self, is_over: Callable[[], bool], *, alive: Callable[[], None]) -> None:
        """Goes on until told otherwise or until something fails, which then stands in `failure`.

        Args:
            is_over: whether to end.
            alive: called every second, unless what was sent first still isn't confirmed since the last time.
        """
        while not is_over() and self.failure is None and not self._reader_done.is_set():
            self._hear(POLL_SECONDS)
            self._settle(alive)

    def finish(self, seconds: float) -> None:
        """Takes up no more, waits so long for what is on its way, and stores the position."""
        self._end_reading()
        deadline = time.monotonic() + seconds
        while self._on_the_way and not self._kafka_failed and time.monotonic() < deadline:
            self._hear(POLL_SECONDS)
            self._advance()
        if seconds:
            self._advance()
            with suppress(Unavailable, LeaseLost):  # else the next begins earlier
                self._position.store()

    def _end_reading(self) -> None:
        self._over.set()
        self._hub.close()
        # It may be waiting for a MongoDB that is away; it sends nothing more and ends by itself.
        self._reader.join(LOOK_SECONDS)

    # The thread that runs the turn

    def _settle(self, alive: Callable[[], None]) -> None:
        self._advance()
        if time.monotonic() - self._stored_at < STORE_SECONDS:
            return
        self._stored_at = time.monotonic()
        first = self._on_the_way[0] if self._on_the_way else None
        if first is None or first is not self._first:
            alive()
        self._first = first
        try:
            self._position.store()
        except LeaseLost as error:
            self.failure = error
        except Unavailable as error:  # events go on as soon as the stream does; the position can wait
            log.warning("relay_position_not_stored", error=str(error))

    def _advance(self) -> None:
        while self._on_the_way and self._on_the_way[0].confirmed:
            self._position.passed(self._on_the_way.popleft().id)

    # Both threads

    def _hear(self, seconds: float) -> None:
        """Takes up what Kafka has answered, waiting so long for the first answer."""
        try:
            with kafka_errors(self._store.settings):
                self._producer.poll(seconds)
        except TruthloopError as error:  # what the producer can't go on after; the answers are still to come
            self._fail(error)

    def _heard(self, sent: _OnTheWay, error: "KafkaError | None", message: "Message") -> None:
        """Kafka's answer to one message, called from `poll`."""
        from confluent_kafka import KafkaError

        offset = message.offset()
        if error is None and (offset is None or offset < 0):
            # The client infers it from the confirmation of a later message; Kafka itself has not said so.
            error = KafkaError(KafkaError._FAIL, "a message was confirmed without its place in the partition")
        with self._hearing:
            if error is None:
                sent.confirmed = True
                self._delivered.count += 1
                self._delivered.ids.add(sent.id, now_ms=time.time_ns() // 1_000_000)
                self._delivered.refused.discard(sent.id)
                return
            if error.code() in REFUSED_FOR_GOOD:
                if sent.alone:
                    self._pass_over(sent, reason=f"Kafka refuses it: {error.str()}")
                    sent.confirmed = True
                else:
                    self._delivered.refused.add(sent.id)
        # Passing over it would be a gap, so the turn ends, and the next begins with it.
        self._fail(unavailable(error, self._store.settings))

    def _fail(self, error: TruthloopError) -> None:
        self._kafka_failed = True
        self.failure = self.failure or error
        self._over.set()  # nothing more is sent behind it

    # The thread that reads the log

    def _read(self, events: Iterator[Event]) -> None:
        try:
            was_alone = False
            for event in events:
                alone = event.id in self._delivered.refused
                room = 1 if alone or was_alone else MAX_ON_THE_WAY
                while len(self._on_the_way) >= room and not self._over.wait(0.01):
                    pass
                self._hear(0)  # a failure, also while the other thread stores the position
                if self._over.is_set():
                    return
                if event.id in self._delivered.unsendable:
                    self._on_the_way.append(_OnTheWay(event.id, event.type, confirmed=True))
                elif event.id not in self._delivered.ids:
                    self._send(event, alone=alone)
                    was_alone = alone
        except TruthloopError as error:
            self.failure = self.failure or error
        except Exception as error:
            log.exception("relay_reader_failed")
            self.failure = self.failure or KafkaUnavailable(
                f"The relay stumbled ({type(error).__name__}: {error}) and begins again where it was confirmed."
            )
        finally:
            self._reader_done.set()

    def _send(self, event: Event, *, alone: bool) -> None:
        from confluent_kafka import KafkaError, KafkaException

        try:
            message = to_cloudevent_json(event)
        except Exception as error:
            # Written past Truthloop, or a fault of ours; one such event must not keep back all that come after it.
            self._pass_over(event, reason=f"{type(error).__name__}: {error}")
            return
        topic = topic_of(event.entity)
        if topic not in self._topics:
            self._cluster.make_topic(topic)
            self._topics.add(topic)
        sent = _OnTheWay(event.id, event.type, alone)
        self._on_the_way.append(sent)  # before Kafka can confirm it
        with kafka_errors(self._store.settings):
            while not self._over.is_set():
                try:
                    self._producer.produce(
                        topic,
                        key=event.subject.encode(),
                        value=message,
                        headers={"content-type": CONTENT_TYPE},
                        on_delivery=partial(self._heard, sent),
                    )
                    return
                except BufferError:  # by its bytes; the other thread makes room
                    self._over.wait(0.01)
                except KafkaException as failed:
                    if failed.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                        raise
                    self._pass_over(event, reason=f"{len(message):,} bytes are too many for a message")
                    sent.confirmed = True
                    return

    def _pass_over(self, event: Event | _OnTheWay, *, reason: str) -> None:
        log.error("event_unsendable", id=event.id, type=event.type, reason=reason[:300])
        self._delivered.unsendable.add(event.id)


def _producer(store: Store) -> "Producer":
    from confluent_kafka import Producer

    with kafka_errors(store.settings):
        return Producer(
            client_settings(store.settings, name=CLIENT)
            | {
                "enable.idempotence": True,
                "acks": "all",
                # With more, a producer's first request to a partition can be refused, as by a topic that was just
                # made or a new leader, while Kafka takes the second, though its sequence doesn't begin at 0
                # (KAFKA-15591). librdkafka reads that as a confirmation of both: the first would be lost.
                "max.in.flight.requests.per.connection": 1,
                # After a message that failed none is sent: the order within a subject.
                "enable.gapless.guarantee": True,
                # Waits for a broker however long it is away.
                "message.timeout.ms": 0,
                "topic.metadata.propagation.max.ms": round(1000 * GONE_SECONDS),
                "linger.ms": 2,
                "compression.type": "lz4",
                # Java's way of choosing a partition by key, so that its programs find the same.
                "partitioner": "murmur2_random",
            }
        )
