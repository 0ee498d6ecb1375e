"""What several tests of Kafka are given."""

import signal
from collections.abc import Iterator

import pytest

from events.relays import Relay
from kafka import Kafka
from truthloop.settings import Settings, load_settings
from truthloop.store.connection import Store


@pytest.fixture
def with_kafka(kafka: Kafka) -> Settings:
    """This workspace's settings, with Kafka's."""
    return load_settings()


@pytest.fixture
def relays(store: Store, kafka: Kafka) -> Iterator:
    """Starts relays of this workspace as processes; all are ended afterwards."""
    started: list[Relay] = []

    def start() -> Relay:
        started.append(Relay(store, kafka))
        return started[-1]

    yield start
    for one in started:
        one.end(signal.SIGKILL)
