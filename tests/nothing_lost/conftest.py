"""The whole system, started once for all tests of this folder."""

from collections.abc import Iterator

import pytest

from kafka import Kafka
from nothing_lost.cluster import Cluster


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """All processes running; Kafka is its own, since it is killed."""
    kafka = Kafka()
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), kafka)
    try:
        kafka.start()
        cluster.start()
        yield cluster
    finally:
        cluster.end()
        kafka.remove()
