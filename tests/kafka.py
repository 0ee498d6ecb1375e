"""A real Kafka for the tests: one broker in KRaft mode, from the jars in TRUTHLOOP_TEST_KAFKA_CLASSPATH.

`.ci/kafka FOLDER` fetches them. The broker's data live as long as the object, so that it can be stopped, killed
and started again.
"""

import base64
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from cli.processes import free_port

CLASSPATH = "TRUTHLOOP_TEST_KAFKA_CLASSPATH"
DEADLINE_SECONDS = 60.0
USER, PASSWORD = "relay", "only-for-tests"
# Small and quick to start; what these tests send fits many times.
JAVA = (
    "java",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def classpath() -> str:
    """The jars; the test is skipped where there are none, except in CI."""
    folder = os.environ.get(CLASSPATH, "")
    if folder and list(Path(folder).glob("kafka_*.jar")) and shutil.which("java"):
        return f"{folder}/*"
    reason = (
        f"{CLASSPATH} is {folder!r}; set it to a folder of Kafka's jars (`.ci/kafka FOLDER`), with java on PATH"
    )
    if folder or os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(f"needs Kafka: {reason}")


class Kafka:
    """One broker, running after `start`."""

    def __init__(self) -> None:
        self._classpath = classpath()
        self._folder = Path(tempfile.mkdtemp(prefix="truthloop-kafka-"))
        port, secured, control = free_port(), free_port(), free_port()
        self.servers = f"127.0.0.1:{port}"
        self.secured = f"127.0.0.1:{secured}"  # by TLS, for a user with a password
        self.certificate = self._make_certificate()
        self._settings = self._folder / "server.properties"
        self._settings.write_text(
            "process.roles=broker,controller\n"
            "node.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{control}\n"
            f"listeners=PLAINTEXT://127.0.0.1:{port},SECURED://127.0.0.1:{secured},"
            f"CONTROLLER://127.0.0.1:{control}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURED://127.0.0.1:{secured}\n"
            "controller.listener.names=CONTROLLER\n"
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL\n"
            "sasl.enabled.mechanisms=PLAIN\n"
            "listener.name.secured.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule"
            f' required user_{USER}="{PASSWORD}";\n'
            f"ssl.keystore.location={self._folder / 'keys'}\n"
            f"ssl.keystore.password={PASSWORD}\n"
            f"log.dirs={self._folder / 'data'}\n"
            "offsets.topic.replication.factor=1\n"
            "offsets.topic.num.partitions=1\n"
            "transaction.state.log.replication.factor=1\n"
            "transaction.state.log.min.isr=1\n"
            "group.initial.rebalance.delay.ms=0\n"
            "auto.create.topics.enable=false\n"
            # A broker that was killed may come back after this time, not after nine seconds.
            "broker.session.timeout.ms=2000\n"
            "broker.heartbeat.interval.ms=500\n"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self._format()

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self.run("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(self._settings))

    def make_anew(self) -> None:
        """Another cluster under the same address, with nothing in it; stopped."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self._folder / "data")
        self._format()

    def _make_certificate(self) -> Path:
        """The broker's key, and its certificate as clients need it."""
        made = self._folder / "certificate.pem"
        store = ("-keystore", str(self._folder / "keys"), "-storepass", PASSWORD, "-alias", "broker")
        name = ("-dname", "CN=localhost", "-ext", "SAN=IP:127.0.0.1", "-keyalg", "EC", "-validity", "2")
        for command in (("-genkeypair", *store, *name), ("-exportcert", *store, "-rfc", "-file", str(made))):
            subprocess.run(["keytool", *command], check=True, capture_output=True, timeout=60)
        return made

    def run(self, program: str, *arguments: str) -> str:
        """One of Kafka's own programs, to its end: what it prints."""
        done = subprocess.run(
            [*JAVA, "-cp", self._classpath, program, *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        """Starts the broker and waits until it answers."""
        with (self._folder / "out").open("ab") as out:
            self.process = subprocess.Popen(
                [*JAVA, "-cp", self._classpath, "kafka.Kafka", str(self._settings)],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )
        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                admin.list_topics(timeout=1)
                return
            except KafkaException:
                said = (self._folder / "out").read_text()[-2000:]
                assert self.process.poll() is None, f"Kafka ended: {said}"
                assert time.monotonic() < deadline, f"Kafka doesn't answer: {said}"

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends the broker; its data stay."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(DEADLINE_SECONDS)

    def remove(self) -> None:
        """Ends it and removes its data."""
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def clear(self) -> None:
        """Deletes all topics of ours, and waits until they are gone."""
        admin = self.admin()
        topics = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith("truthloop.")]
        if not topics:
            return
        for done in admin.delete_topics(topics).values():
            done.result(DEADLINE_SECONDS)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any(topic in admin.list_topics(timeout=10).topics for topic in topics):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def messages(self, topic: str) -> list[Message]:
        """All that a topic holds now, each partition in its order."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": uuid.uuid4().hex,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        found: list[Message] = []
        try:
            known = consumer.list_topics(timeout=10).topics
            if topic not in known:
                return []
            left = set(known[topic].partitions)
            consumer.assign([TopicPartition(topic, partition, 0) for partition in left])
            deadline = time.monotonic() + DEADLINE_SECONDS
            while left:
                assert time.monotonic() < deadline, "Kafka doesn't come to an end"
                for message in consumer.consume(10_000, timeout=0.2):
                    if message.error() is None:
                        found.append(message)
                    elif message.error().code() == KafkaError._PARTITION_EOF:
                        left.discard(message.partition())
        finally:
            consumer.close()
        return found
