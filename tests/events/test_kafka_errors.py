"""What is said of a Kafka that can't be used."""

import pytest
from confluent_kafka import KafkaError

from truthloop.errors import KafkaUnavailable
from truthloop.events.kafka import Cluster, unavailable
from truthloop.settings import load_settings


def test_a_kafka_that_nobody_reaches_doesn_t_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")

    with pytest.raises(KafkaUnavailable, match=r"^Kafka at 127\.0\.0\.1:9 doesn't answer \(.*Connection refused"):
        Cluster(load_settings(), name="test").describe()


def test_a_kafka_that_refuses_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9")

    refused = unavailable(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), load_settings())

    assert "doesn't do what is asked" in str(refused)
