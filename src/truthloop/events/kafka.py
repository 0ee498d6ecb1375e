"""The way to Kafka: what every client of ours is told, the topics, and its errors as ours.

Topics are `truthloop.<entity>`, keys are subjects, values are CloudEvents JSON: docs/kafka.md.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
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
# How long it may take to find out why nobody answers, and how long a single try.
REASON_SECONDS = 3.0
TRY_SECONDS = 0.2
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
        SettingRefused: TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS isn't set, a user or password is missing, or a file that
            TLS needs isn't there.
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
    if settings.kafka_security_protocol.endswith("ssl"):
        _check_files(settings)
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


def _check_files(settings: Settings) -> None:
    """Refuses what the client refuses without saying why, and half a certificate, which it takes as none."""
    files = {
        "CA": (settings.kafka_ssl_ca_location, "the certificates of those who vouch for the brokers"),
        "CERTIFICATE": (settings.kafka_ssl_certificate_location, "our certificate"),
        "KEY": (settings.kafka_ssl_key_location, "the key of our certificate"),
    }
    for name, (path, what) in files.items():
        try:
            # Where a folder will do the client takes it; by "probe" it is told to look where systems have theirs.
            if path is not None and not path.is_dir() and str(path) != "probe":
                path.open("rb").close()
        except OSError as error:
            raise SettingRefused(
                f"TRUTHLOOP_KAFKA_SSL_{name}_LOCATION is {path}, which can't be read: {error.strerror}. "
                f"Put {what} there as a PEM file that we may read, or correct the path."
            ) from error
    if (settings.kafka_ssl_certificate_location is None) != (settings.kafka_ssl_key_location is None):
        raise SettingRefused(
            "Of TRUTHLOOP_KAFKA_SSL_CERTIFICATE_LOCATION and TRUTHLOOP_KAFKA_SSL_KEY_LOCATION only one is set. "
            "Set both, or neither where the brokers ask for no certificate."
        )


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
            raise SettingRefused(_unusable(error.str(), settings)) from failed
        reason = _why_silent(settings) if error.code() in _silent() else ""
        raise unavailable(error, settings, reason=reason) from failed


def _unusable(said: str, settings: Settings) -> str:
    """What to do about settings that the client refuses; it has its own names for them, and few words."""
    if "ssl.ca.location" in said:
        return (
            f"TRUTHLOOP_KAFKA_SSL_CA_LOCATION is {settings.kafka_ssl_ca_location}, in which there is no "
            f"certificate ({said}). Put those of who vouches for the brokers there, in PEM form."
        )
    certificate = f"TRUTHLOOP_KAFKA_SSL_CERTIFICATE_LOCATION is {settings.kafka_ssl_certificate_location}"
    if "ssl.certificate.location" in said:
        return f"{certificate}, in which there is no certificate ({said}). Put ours there, in PEM form."
    if "ssl.key.location" in said:
        key = f"TRUTHLOOP_KAFKA_SSL_KEY_LOCATION is {settings.kafka_ssl_key_location}"
        if "mismatch" in said:
            return (
                f"{certificate} and {key}, which isn't its key ({said}). Set both to files that belong together."
            )
        if not _is_encrypted(settings.kafka_ssl_key_location):
            return f"{key}, in which there is no key ({said}). Put that of our certificate there, in PEM form."
        if settings.kafka_ssl_key_password is None:
            return f"{key}, which is encrypted ({said}). Set TRUTHLOOP_KAFKA_SSL_KEY_PASSWORD to its password."
        return (
            f"{key}, which TRUTHLOOP_KAFKA_SSL_KEY_PASSWORD doesn't decrypt ({said}). Correct the password; "
            "`openssl pkey -in FILE -noout` asks for it and tells whether it is right."
        )
    return f"A setting of TRUTHLOOP_KAFKA_... can't be used: {said}. Correct it."


def _is_encrypted(key: Path | None) -> bool:
    with suppress(OSError):
        return key is not None and b"ENCRYPTED" in key.read_bytes()
    return False


def _silent() -> tuple[int, ...]:
    """The client's codes for brokers that don't answer."""
    from confluent_kafka import KafkaError

    return KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE


def _why_silent(settings: Settings) -> str:
    """Asks the brokers anew, because a consumer keeps to itself why it can't connect; empty if nothing is said."""
    return Cluster(settings, name="truthloop-reason").reason(seconds=REASON_SECONDS)


def unavailable(error: "KafkaError", settings: Settings, *, reason: str = "") -> KafkaUnavailable:
    """Our error for one of Kafka's, with what the user can do.

    Args:
        error: what the client says of the question.
        settings: this process's.
        reason: what it says of the last connection that failed, where that is known.
    """
    said = reason or error.str()
    what, remedy = _remedy(said, settings) or (
        "doesn't answer" if error.code() in _silent() else "doesn't do what is asked",
        f"Check that it runs and that TRUTHLOOP_KAFKA_SECURITY_PROTOCOL, now {settings.kafka_security_protocol}, "
        "and the other settings TRUTHLOOP_KAFKA_... fit it",
    )
    return KafkaUnavailable(
        f"Kafka at {settings.kafka_bootstrap_servers} {what} ({said[:500]}). {remedy}, then try again."
    )


def _remedy(said: str, settings: Settings) -> tuple[str, str] | None:
    """What is wrong and what to set, where the client's words tell; the brokers' are Java's and OpenSSL's."""
    if "certificate verify failed" in said:
        return (
            "shows a certificate that nobody whom we trust vouches for, or that is for another name",
            "Set TRUTHLOOP_KAFKA_SSL_CA_LOCATION, now "
            f"{settings.kafka_ssl_ca_location or 'those of the system'}, to a file with the certificates of those "
            "who signed it, and TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS to a name that stands in it",
        )
    if re.search("alert (.*certificate|unknown ca)", said):
        ours = settings.kafka_ssl_certificate_location
        if ours is None:
            return (
                "asks for a certificate of ours",
                "Set TRUTHLOOP_KAFKA_SSL_CERTIFICATE_LOCATION and TRUTHLOOP_KAFKA_SSL_KEY_LOCATION to one that it "
                "trusts and to its key",
            )
        return (
            "doesn't trust our certificate",
            f"Set TRUTHLOOP_KAFKA_SSL_CERTIFICATE_LOCATION, now {ours}, to one that was signed by those whom it "
            "trusts and is still valid, and TRUTHLOOP_KAFKA_SSL_KEY_LOCATION to its key",
        )
    if "PLAINTEXT broker listener" in said or "in current SASL state" in said:
        return (
            "doesn't speak as we do",
            f"Set TRUTHLOOP_KAFKA_SECURITY_PROTOCOL, now {settings.kafka_security_protocol}, to what it speaks at "
            "that port",
        )
    if "Unsupported SASL mechanism" in said:
        return (
            "lets nobody sign in that way",
            f"Set TRUTHLOOP_KAFKA_SASL_MECHANISM, now {settings.kafka_sasl_mechanism}, to one that it names",
        )
    if "authentication failed" in said.lower():
        return (
            f"doesn't let the user {settings.kafka_sasl_username} in",
            "Correct TRUTHLOOP_KAFKA_SASL_USERNAME or TRUTHLOOP_KAFKA_SASL_PASSWORD",
        )
    return None


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
        # The same fault is not always told with its cause: a refusal may be lost as the connection breaks.
        if error.code() != error._ALL_BROKERS_DOWN and not _remedy(self._reason, self._settings):
            self._reason = error.str()

    def reason(self, *, seconds: float) -> str:
        """Why it can't connect.

        Args:
            seconds: how long it may take to find out.

        Returns:
            What the client says; empty if it connects after all, or if it says nothing in this time.
        """
        from confluent_kafka import KafkaException

        self._reason = ""
        deadline = time.monotonic() + seconds
        while not self._reason and time.monotonic() < deadline:
            try:
                self._admin.list_topics(timeout=TRY_SECONDS)
                return ""
            except KafkaException:
                self._admin.poll(0)  # calls `_note`
        return self._reason

    def describe(self) -> "ClusterMetadata":
        """The cluster's id, brokers and topics as they are now.

        Raises:
            KafkaUnavailable: no broker answers.
        """
        from confluent_kafka import KafkaException

        while self._admin.poll(0):
            pass  # what it had to say of the time before
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
