"""The way to Kafka: what every client of ours is told, the topics, and its errors as ours.

Topics are `truthloop.<entity>`, keys are subjects, values are CloudEvents JSON: docs/kafka.md.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from truthloop.errors import KafkaUnavailable, SettingRefused
from truthloop.logs import get_logger
from truthloop.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError
    from confluent_kafka.admin._metadata import ClusterMetadata

TOPIC_PREFIX = "truthloop."
# How long a question to the brokers may take.
ANSWER_SECONDS = 5.0
# The client repeats what is wrong at each attempt to connect; it is logged this often.
REPEAT_SECONDS = 30.0
# Where a cluster doesn't say its id, as some services that speak Kafka's protocol.
UNNAMED = "kafka"

log = get_logger(__name__)


def topic_of(entity: str) -> str:
    """The topic of an entity's events.

    >>> topic_of("job")
    'truthloop.job'
    """
    return TOPIC_PREFIX + entity


def client_settings(settings: Settings, *, name: str) -> dict[str, Any]:
    """What librdkafka needs to reach the brokers; each client adds its own.

    Args:
        settings: this process's.
        name: what the brokers' logs call this client, such as `truthloop-relay`.

    Raises:
        SettingRefused: TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS isn't set, or a user or password is missing.
    """
    if settings.kafka_bootstrap_servers is None:
        raise SettingRefused(
            "TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS isn't set. Set it to the Kafka brokers, such as localhost:9093."
        )
    signs_in = settings.kafka_security_protocol.startswith("sasl")
    if signs_in and None in (
        settings.kafka_sasl_mechanism,
        settings.kafka_sasl_username,
        settings.kafka_sasl_password,
    ):
        raise SettingRefused(
            f"TRUTHLOOP_KAFKA_SECURITY_PROTOCOL is {settings.kafka_security_protocol!r}: set "
            "TRUTHLOOP_KAFKA_SASL_MECHANISM, TRUTHLOOP_KAFKA_SASL_USERNAME and TRUTHLOOP_KAFKA_SASL_PASSWORD too."
        )
    told = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": name,
        "security.protocol": settings.kafka_security_protocol,
        "sasl.mechanism": settings.kafka_sasl_mechanism if signs_in else None,
        "sasl.username": settings.kafka_sasl_username if signs_in else None,
        "sasl.password": _revealed(settings.kafka_sasl_password) if signs_in else None,
        "ssl.ca.location": _text(settings.kafka_ssl_ca_location),
        "ssl.certificate.location": _text(settings.kafka_ssl_certificate_location),
        "ssl.key.location": _text(settings.kafka_ssl_key_location),
        "ssl.key.password": _revealed(settings.kafka_ssl_key_password),
        # A broker that is away is asked again soon, since events wait for it.
        "reconnect.backoff.max.ms": 2_000,
        # What it would print by itself comes to `error_cb` as well, in our own form.
        "log_level": 0,
        "error_cb": _logged(name),
    }
    return {key: value for key, value in told.items() if value is not None}


def _text(path: object) -> str | None:
    return None if path is None else str(path)


def _revealed(secret: Any) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _logged(name: str) -> "Callable[[KafkaError], None]":
    logged: dict[int, float] = {}

    def note(error: "KafkaError") -> None:
        now = time.monotonic()
        if now - logged.get(error.code(), float("-inf")) >= REPEAT_SECONDS:
            logged[error.code()] = now
            log.warning("kafka_trouble", client=name, error=error.str()[:300])

    return note


@contextmanager
def kafka_errors(settings: Settings) -> Iterator[None]:
    """Turns the client's errors into ours; stands around each place that asks Kafka.

    Raises:
        SettingRefused: a setting's value isn't one that the client understands.
        KafkaUnavailable: no broker answers, or it refuses.
    """
    from confluent_kafka import KafkaError, KafkaException

    try:
        yield
    except KafkaException as failed:
        error = failed.args[0]
        if error.code() == KafkaError._INVALID_ARG:
            raise SettingRefused(
                f"A setting of TRUTHLOOP_KAFKA_... can't be used: {error.str()}. Correct it."
            ) from failed
        raise unavailable(error, settings) from failed


def unavailable(error: "KafkaError", settings: Settings, *, reason: str = "") -> KafkaUnavailable:
    """Our error for one of Kafka's, with what the user can do."""
    from confluent_kafka import KafkaError

    silent = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE)
    what = "doesn't answer" if error.code() in silent else "doesn't do what is asked"
    return KafkaUnavailable(
        f"Kafka at {settings.kafka_bootstrap_servers} {what} ({(reason or error.str())[:300]}). "
        "Check that it runs and that the settings TRUTHLOOP_KAFKA_... fit it, then try again."
    )


class Cluster:
    """Asks a Kafka cluster about itself and makes its topics."""

    def __init__(self, settings: Settings, *, name: str) -> None:
        from confluent_kafka.admin import AdminClient

        self._settings = settings
        self._reason = ""  # why the last attempt to connect failed, which an answer that doesn't come can't say
        told = client_settings(settings, name=name) | {"error_cb": self._note}
        with kafka_errors(settings):
            self._admin: AdminClient = AdminClient(told)

    def _note(self, error: "KafkaError") -> None:
        if not self._reason or error.code() != error._ALL_BROKERS_DOWN:
            self._reason = error.str()

    def describe(self) -> "ClusterMetadata":
        """The cluster's id, brokers and topics as they are now.

        Raises:
            KafkaUnavailable: no broker answers.
        """
        from confluent_kafka import KafkaException

        self._reason = ""
        try:
            return self._admin.list_topics(timeout=ANSWER_SECONDS)
        except KafkaException as failed:
            self._admin.poll(0)  # calls `_note`
            raise unavailable(failed.args[0], self._settings, reason=self._reason) from failed

    def id(self) -> str:
        """The cluster's id: another one is another cluster, though it has the same address.

        Raises:
            KafkaUnavailable: no broker answers.
        """
        return self.describe().cluster_id or UNNAMED

    def make_topic(self, topic: str) -> None:
        """Makes a topic unless it is there.

        Where that isn't allowed the brokers may make it themselves when it is first written to.

        Raises:
            KafkaUnavailable: no broker answers.
        """
        from confluent_kafka import KafkaError, KafkaException
        from confluent_kafka.cimpl import NewTopic

        if topic in self.describe().topics:
            return
        new = NewTopic(
            topic, num_partitions=self._settings.kafka_topic_partitions
        )  # copies as the brokers' default
        try:
            self._admin.create_topics([new], operation_timeout=ANSWER_SECONDS)[topic].result()
        except KafkaException as failed:
            error = failed.args[0]
            if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return
            if error.code() in (
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
                KafkaError.CLUSTER_AUTHORIZATION_FAILED,
                KafkaError.POLICY_VIOLATION,
            ):
                log.warning("topic_not_made", topic=topic, error=error.str()[:300])
                return
            raise unavailable(error, self._settings) from failed
        log.info("topic_made", topic=topic, partitions=self._settings.kafka_topic_partitions)


def own_topics(topics: Mapping[str, Any]) -> list[str]:
    """Those of a cluster's topics that hold our events, sorted."""
    return sorted(name for name in topics if name.startswith(TOPIC_PREFIX))
