"""What the benchmarks through Kafka share: a workspace and a broker for a while, and a relay between the two."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def has_kafka() -> bool:
    """Whether a broker can be started; says so where it can't."""
    if os.environ.get("TRUTHLOOP_TEST_KAFKA_CLASSPATH"):
        return True
    print("Not measured: TRUTHLOOP_TEST_KAFKA_CLASSPATH isn't set (`.ci/kafka FOLDER` fetches Kafka).")
    return False


@contextmanager
def home_of_a_workspace() -> Iterator[Path]:
    """The folder of a workspace that isn't made yet; afterwards its MongoDB is ended and all of it removed."""
    from truthloop import logs
    from truthloop.store import embedded

    logs.configure("error")
    with tempfile.TemporaryDirectory(prefix="truthloop-bench-") as folder:
        home = Path(folder) / ".truthloop"
        try:
            yield home
        finally:
            embedded.stop(home)


@contextmanager
def broker() -> Iterator:
    """A real Kafka of one broker, which settings loaded from now on name; removed afterwards."""
    from kafka import Kafka

    kafka = Kafka()
    try:
        kafka.start()
        os.environ["TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS"] = kafka.servers
        yield kafka
    finally:
        kafka.remove()


@contextmanager
def active_relay(store) -> Iterator[None]:
    """A relay of this workspace that has begun, ended afterwards."""
    from cli.processes import Terminal

    terminal = Terminal(
        store.settings.home,
        TRUTHLOOP_DATABASE=store.settings.database,
        TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS=store.settings.kafka_bootstrap_servers,
    )
    relay = terminal.start("relay", "--json")
    try:
        for line in relay.stdout:
            if json.loads(line)["state"] == "active":
                break
        yield
    finally:
        relay.terminate()
        relay.communicate()
