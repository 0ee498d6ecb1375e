"""The services of the compose file at work, as processes of this machine."""

import json
import signal
import time
from pathlib import Path

import httpx
import pytest
from pymongo import MongoClient

from deploy import compose
from deploy.compose import Document
from deploy.stack import Installed, Service, Stack, running, simulate, wait_for


def look_into_kafka(stack: Stack) -> None:
    """The brief's own commands, in Kafka's container and from this machine."""
    inside = ("--bootstrap-server", "kafka:9092")

    assert "truthloop.job" in stack.exec("kafka", "bin/kafka-topics.sh", *inside, "--list").split()
    described = stack.exec("kafka", "bin/kafka-topics.sh", *inside, "--describe", "--topic", "truthloop.job")
    assert "PartitionCount: 6" in described
    for servers in ("kafka:9092", "localhost:9093"):
        printed = stack.exec(
            *("kafka", "bin/kafka-console-consumer.sh", "--bootstrap-server", servers),
            *("--from-beginning", "--topic", "truthloop.job", "--max-messages", "3"),
        )
        events = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        assert [event["specversion"] for event in events] == ["1.0"] * 3


def run_job(stack: Stack, picture: bytes) -> None:
    """One job, made and executed in one request, succeeds."""
    headers = {"Authorization": f"Bearer {compose.TOKEN}"}
    with httpx.Client(base_url=f"http://{stack.address('8080')}", headers=headers, timeout=90) as client:
        made = client.post(
            "/api/v1/inference/jobs", data={"model": "opencv_faces"}, files={"image": ("a.jpg", picture)}
        )
        assert made.status_code == 202, made.text
        result = client.get(made.headers["Location"], params={"wait": 60})
        assert result.status_code == 200, result.text


@pytest.fixture
def picture() -> bytes:
    import matplotlib.cbook

    return Path(str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).read_bytes()


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_the_services_work_together_as_the_file_says(project: Document) -> None:
    with running(project, Installed()) as stack:
        stack.up(scale={"worker": 2})

        simulate(stack)
        look_into_kafka(stack)
        with MongoClient(f"mongodb://{stack.address('27017')}/?directConnection=true") as client:
            # The API runs none of its own.
            assert client["truthloop"]["truthloop.workers"].count_documents({}) == 2

        codes = stack.down()
        assert {codes[name] for name in codes if name.split("-")[0] in ("api", "worker", "relay")} == {0}


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_services_that_are_there_before_mongodb_and_kafka_wait_and_outlive_their_loss(
    project: Document, picture: bytes
) -> None:
    with running(project, Installed()) as stack:
        ours = [stack.start(name) for name in ("worker-1", "relay-1", "api-1")]
        for service in ours:
            wait_for(lambda service=service: "Waiting for MongoDB" in service.said(), "MongoDB to be missed")
            assert stack.check(service).returncode != 0

        for name in ("mongodb-1", "kafka-1"):
            stack.start(name)
            stack.wait_until_well(name)
        for service in ours:
            stack.wait_until_well(service.name)
        run_job(stack, picture)

        stack.stop("mongodb-1", signal.SIGKILL)
        stack.stop("kafka-1", signal.SIGKILL)
        wait_for(lambda: stack.check(stack.services["api-1"]).returncode != 0, "the API to miss MongoDB")
        for name in ("worker-1", "relay-1"):
            silent = stack.services[name]
            wait_for(lambda silent=silent: seconds_since_beat(silent) > 10, f"{name} to fall silent")

        for name in ("mongodb-1", "kafka-1"):
            stack.start(name)
            stack.wait_until_well(name)
        for service in ours:
            wait_for(lambda service=service: stack.check(service).returncode == 0, f"{service.name} to be well")
        run_job(stack, picture)
        assert [service.process.poll() for service in ours] == [None] * 3


@pytest.mark.parametrize("name", ["api-1", "worker-1", "relay-1"])
def test_a_service_that_waits_ends_at_once_when_it_is_told_to(project: Document, name: str) -> None:
    with running(project, Installed()) as stack:
        service = stack.start(name)
        wait_for(lambda: "Waiting for MongoDB" in service.said(), "MongoDB to be missed")

        assert stack.stop(name) == 0


def seconds_since_beat(service: Service) -> float:
    return time.time() - (service.volumes["/tmp"] / "heartbeat").stat().st_mtime
