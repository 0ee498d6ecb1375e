"""A real Kafka for the tests: one broker in KRaft mode, from the jars in TRUTHLOOP_TEST_KAFKA_CLASSPATH.

At a desk without it, librdkafka's mock cluster, and what that can't do is skipped with the reason.

`.ci/kafka FOLDER` fetches them. The broker's data live as long as the object, so that it can be stopped, killed
and started again.
"""

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cli.processes import free_port

CLASSPATH = "TRUTHLOOP_TEST_KAFKA_CLASSPATH"
HOW = "set it to a folder of Kafka's jars (`.ci/kafka FOLDER`), with java on PATH"
DEADLINE_SECONDS = 120.0  # on a machine that is busy with other tests, Kafka alone takes 15 s to start
USER, PASSWORD = "relay", "only-for-tests"
# Small and quick to start; what these tests send fits many times.
JAVA = (
    "java",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def needs_real_kafka() -> NoReturn:
    """Skips a test that the mock cluster is not enough for."""
    pytest.skip(f"needs a real Kafka, and {CLASSPATH} isn't set; {HOW}")


def needs_openssl() -> None:
    """Skips a test of certificates where nothing makes them, except in CI."""
    if shutil.which("openssl"):
        return
    if os.environ.get("CI"):
        pytest.fail("`openssl` isn't on PATH, which makes the certificates")
    pytest.skip("needs `openssl` on PATH, which makes the certificates")


def classpath() -> str:
    """The jars; the test is skipped where nobody names any, except in CI."""
    folder = os.environ.get(CLASSPATH, "")
    if folder and list(Path(folder).glob("kafka_*.jar")) and shutil.which("java"):
        return f"{folder}/*"
    if folder or os.environ.get("CI"):
        pytest.fail(f"{CLASSPATH} is {folder!r}; {HOW}")
    needs_real_kafka()


def a_cluster() -> "Kafka":
    """A real broker, else the mock cluster; in CI only the real one will do."""
    return Kafka() if os.environ.get(CLASSPATH) or os.environ.get("CI") else Mock()


class Kafka:
    """One broker, running after `start`."""

    def __init__(self) -> None:
        self._classpath = classpath()
        self._folder = Path(tempfile.mkdtemp(prefix="truthloop-kafka-"))
        port, secured, behind, control = free_port(), free_port(), free_port(), free_port()
        mutual = f"127.0.0.1:{free_port()}"
        with_mutual = shutil.which("openssl") is not None
        self.servers = f"127.0.0.1:{port}"
        self.secured = f"127.0.0.1:{secured}"  # by TLS, for a user with a password
        self.mutual = mutual  # by TLS, for clients with a certificate; made only where there is openssl
        self.behind = f"127.0.0.1:{behind}"  # for a proxy, which clients find at `proxied`
        self.proxied = f"127.0.0.1:{free_port()}"
        self.certificate = self._folder / "certificate.pem"
        self.certificates = self._folder / "certificates"  # what clients at `mutual` need: `make_certificates`
        self._settings = self._folder / "server.properties"
        self._settings.write_text(
            "process.roles=broker,controller\n"
            "node.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{control}\n"
            f"listeners=PLAINTEXT://127.0.0.1:{port},SECURED://127.0.0.1:{secured},"
            f"BEHIND://{self.behind},CONTROLLER://127.0.0.1:{control}{f',MUTUAL://{mutual}' * with_mutual}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURED://127.0.0.1:{secured},"
            f"BEHIND://{self.proxied}{f',MUTUAL://{mutual}' * with_mutual}\n"
            "controller.listener.names=CONTROLLER\n"
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURED:SASL_SSL,"
            "BEHIND:PLAINTEXT,MUTUAL:SSL\n"
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512\n"
            "listener.name.secured.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule"
            f' required user_{USER}="{PASSWORD}";\n'
            "listener.name.secured.scram-sha-512.sasl.jaas.config="
            "org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
            f"listener.name.secured.ssl.keystore.location={self._folder / 'keys'}\n"
            f"listener.name.secured.ssl.keystore.password={PASSWORD}\n"
            "listener.name.mutual.ssl.client.auth=required\n"
            "listener.name.mutual.ssl.keystore.type=PEM\n"
            f"listener.name.mutual.ssl.keystore.location={self.certificates / 'broker.pem'}\n"
            "listener.name.mutual.ssl.truststore.type=PEM\n"
            f"listener.name.mutual.ssl.truststore.location={self.certificates / 'ca.pem'}\n"
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
        self._reader: Consumer | None = None
        self._found: dict[str, list[Message]] = {}
        # Each starts programs of its own.
        makers = [self._format, self._make_certificate]
        if with_mutual:
            makers.append(partial(make_certificates, self.certificates))
        with ThreadPoolExecutor() as pool:
            for made in [pool.submit(make) for make in makers]:
                made.result()

    def _format(self) -> None:
        """Makes the folder of a cluster without anything in it, from which others are copied."""
        self.run("kafka.tools.StorageTool", "format", f"--cluster-id={_cluster_id()}", "-c", str(self._settings))
        shutil.copytree(self._folder / "data", self._folder / "empty")

    def needs_all(self) -> None:
        """For tests of what the mock cluster can't do: here they run."""

    def make_anew(self) -> None:
        """Another cluster under the same address, with nothing in it; stopped."""
        self._forget()
        self.stop(signal.SIGKILL)
        shutil.rmtree(self._folder / "data")
        shutil.copytree(self._folder / "empty", self._folder / "data")
        told = self._folder / "data" / "meta.properties"
        told.write_text(re.sub(r"(?m)^cluster\.id=.*$", f"cluster.id={_cluster_id()}", told.read_text()))

    def _make_certificate(self) -> None:
        """The broker's key, and its certificate as clients need it."""
        store = ("-keystore", str(self._folder / "keys"), "-storepass", PASSWORD, "-alias", "broker")
        name = ("-dname", "CN=localhost", "-ext", "SAN=IP:127.0.0.1", "-keyalg", "EC", "-validity", "2")
        for command in (
            ("-genkeypair", *store, *name),
            ("-exportcert", *store, "-rfc", "-file", str(self.certificate)),
        ):
            subprocess.run(["keytool", *command], check=True, capture_output=True, timeout=60)

    def run(self, program: str, *arguments: str) -> str:
        """One of Kafka's own programs, to its end: what it prints."""
        done = subprocess.run(
            [*JAVA, "-cp", self._classpath, program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
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
        self._forget()
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def make_topic(self, topic: str, **config: str) -> None:
        """Makes a topic as the relay does, and waits until it can be written to; it may be there already."""
        admin = self.admin()
        with suppress(KafkaException):
            admin.create_topics([NewTopic(topic, num_partitions=6, config=config)])[topic].result(DEADLINE_SECONDS)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while topic not in (known := admin.list_topics(timeout=10).topics) or any(
            partition.leader < 0 for partition in known[topic].partitions.values()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def clear(self) -> None:
        """Deletes all topics of ours, and waits until they are gone."""
        admin = self.admin()
        topics = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith("truthloop.")]
        if not topics:
            return
        self._forget()
        for done in admin.delete_topics(topics).values():
            done.result(DEADLINE_SECONDS)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any(topic in admin.list_topics(timeout=10).topics for topic in topics):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def messages(self, topic: str) -> list[Message]:
        """All that a topic holds now, each partition in its order."""
        if self._reader is None:
            self._reader = Consumer(
                {
                    "bootstrap.servers": self.servers,
                    "group.id": uuid.uuid4().hex,
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "fetch.wait.max.ms": 20,
                    "reconnect.backoff.max.ms": 200,
                    "log_level": 0,
                }
            )
        known = self._reader.list_topics(timeout=DEADLINE_SECONDS).topics
        if topic not in known:
            return []
        found = self._found.setdefault(topic, [])  # what it held before is not read again
        ends = {message.partition(): message.offset() + 1 for message in found}
        left = set(known[topic].partitions)
        self._reader.assign([TopicPartition(topic, partition, ends.get(partition, 0)) for partition in left])
        deadline = time.monotonic() + DEADLINE_SECONDS
        while left:
            assert time.monotonic() < deadline, "Kafka doesn't come to an end"
            message = self._reader.poll(0.5)
            if message is not None and message.error() is None:
                found.append(message)
            elif message is not None and message.error().code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
        self._reader.unassign()
        return list(found)

    def _forget(self) -> None:
        """What is there now has nothing to do with what was read before."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._found = None, {}


class Mock(Kafka):
    """The cluster that librdkafka has for tests, in a process of its own: it speaks Kafka's protocol over TCP.

    It can't make or delete topics when asked to, be killed and come back, or ask for TLS and a password; nor do
    Kafka's own programs work with it. Tests of these are skipped.
    """

    PROGRAM = """
import sys
from confluent_kafka import Producer
cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
[broker] = cluster.list_topics(timeout=30).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""

    def __init__(self) -> None:
        self._reader, self._found = None, {}

    def start(self) -> None:
        """Starts it, with the topics that the relay would make."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.servers = self._process.stdout.readline().strip()
        for entity in ("batch", "dataset", "documents", "image", "job"):
            self.make_topic(f"truthloop.{entity}")

    def make_topic(self, topic: str, **config: str) -> None:
        """Makes a topic by asking for it."""
        Producer({"bootstrap.servers": self.servers, "log_level": 0}).list_topics(topic, timeout=DEADLINE_SECONDS)

    def remove(self) -> None:
        """Ends it."""
        self._forget()
        self._process.communicate()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        needs_real_kafka()

    def needs_all(self) -> None:
        """Skips the test."""
        needs_real_kafka()

    def stop(self, number: int = signal.SIGTERM) -> None:
        needs_real_kafka()

    def make_anew(self) -> None:
        needs_real_kafka()

    def clear(self) -> None:
        needs_real_kafka()

    def run(self, program: str, *arguments: str) -> str:
        needs_real_kafka()


def make_certificates(folder: Path) -> None:
    """Certificates and keys for a broker, a client whom it trusts and one of another CA, by OpenSSL 3 or later.

    `client.pem` and `stranger.pem` are certificates, their keys `client.key` and `stranger.key` encrypted with
    PASSWORD. `ca.pem` vouches for broker and client, `other-ca.pem` for the stranger. `broker.pem` holds its key.
    """
    folder.mkdir()

    def make(name: str, options: str) -> None:
        done = subprocess.run(
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj /CN={name} "
            f"-keyout {name}.key -out {name}.pem {options}".split(),
            cwd=folder,
            env=os.environ | {"OPENSSL_CONF": os.devnull},  # the machine's own may add to a certificate
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr

    for ca in ("ca", "other-ca"):
        make(ca, "-nodes -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign")
    encrypted = f"-passout pass:{PASSWORD}"
    for name, ca, key in (
        ("broker", "ca", "-nodes"),
        ("client", "ca", encrypted),
        ("stranger", "other-ca", encrypted),
    ):
        extensions = "-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1"
        make(name, f"{key} -CA {ca}.pem -CAkey {ca}.key {extensions}")
    with (folder / "broker.pem").open("a") as both:
        both.write((folder / "broker.key").read_text())


def _cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
