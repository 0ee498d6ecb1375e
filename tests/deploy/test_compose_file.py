"""What the compose file says, as Compose's own library reads it."""

import re
import subprocess
from pathlib import Path

import pytest

from deploy import compose
from deploy.compose import Document
from truthloop.store.mongod_binary import find_mongod

OURS = ("api", "relay", "worker")
KAFKA_POM = compose.ROOT / ".ci" / "kafka.xml"


def test_compose_reads_the_file_and_finds_nothing_wrong_with_it(project: Document) -> None:
    assert sorted(project["services"]) == ["api", "kafka", "mongodb", "relay", "worker"]


def test_compose_refuses_a_name_that_its_schema_lacks(tmp_path: Path) -> None:
    # The check checks: else the test above would pass with any file.
    wrong = tmp_path / "docker-compose.yaml"
    wrong.write_text(compose.FILE.read_text().replace("    healthcheck:", "    helthcheck:", 1))

    done = compose.read(wrong, TRUTHLOOP_TOKEN=compose.TOKEN)

    assert done.returncode == 1
    assert "helthcheck" in done.stderr


def test_it_does_not_start_without_a_token() -> None:
    done = compose.read()

    assert done.returncode == 1
    assert "TRUTHLOOP_TOKEN is missing" in done.stderr
    assert "docs/deploy.md" in done.stderr


def test_the_ports_of_the_briefs_are_open_to_this_machine_alone(project: Document) -> None:
    published = {
        (name, port["host_ip"], port["published"], port["target"])
        for name, service in project["services"].items()
        for port in service.get("ports", [])
    }

    assert published == {
        ("api", "127.0.0.1", "8080", 8080),
        ("api", "127.0.0.1", "8011", 8080),
        ("kafka", "127.0.0.1", "9093", 9093),
    }


def test_each_service_waits_until_what_it_needs_is_well(project: Document) -> None:
    needs = {name: set(service.get("depends_on", {})) for name, service in project["services"].items()}
    conditions = {
        how["condition"]
        for service in project["services"].values()
        for how in service.get("depends_on", {}).values()
    }

    assert needs == {
        "mongodb": set(),
        "kafka": set(),
        "api": {"mongodb"},
        "worker": {"mongodb", "kafka", "api"},
        "relay": {"mongodb", "kafka", "api"},
    }
    assert conditions == {"service_healthy"}
    assert all("healthcheck" in service for service in project["services"].values())


def test_no_container_may_more_than_it_needs(project: Document) -> None:
    for name, service in project["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        # Kafka's image writes its settings beside its programs at each start.
        assert service.get("read_only", False) == (name != "kafka"), name


def test_what_must_last_stands_on_volumes(project: Document) -> None:
    mounted = {
        name: {volume["target"] for volume in service.get("volumes", [])}
        for name, service in project["services"].items()
    }

    assert mounted["mongodb"] == {"/data/db"}
    assert mounted["kafka"] == {project["services"]["kafka"]["environment"]["KAFKA_LOG_DIRS"]}
    # A worker reads the images that the API has stored.
    assert mounted["api"] == mounted["worker"] == {"/var/lib/truthloop", "/home/truthloop/.cache"}
    assert set(project["volumes"]) == {"mongodb", "kafka", "workspace", "models"}


def test_workers_can_be_scaled(project: Document) -> None:
    worker = project["services"]["worker"]

    assert "container_name" not in worker
    assert "ports" not in worker


@pytest.mark.parametrize("name", OURS)
def test_ours_run_the_one_image_and_no_registry_is_asked_for_it(project: Document, name: str) -> None:
    service = project["services"][name]

    assert service["image"] == "truthloop"
    assert service["pull_policy"] == "never"


def test_one_service_builds_the_image_and_the_others_wait_for_it(project: Document) -> None:
    # Two that build one image at the same time get in each other's way.
    build = {name: service["build"] for name, service in project["services"].items() if "build" in service}

    assert list(build) == ["api"]
    assert Path(build["api"]["context"]) == compose.ROOT
    assert (compose.ROOT / build["api"]["dockerfile"]).is_file()
    # So that `docker compose up worker` builds it, too.
    assert all("api" in project["services"][name]["depends_on"] for name in OURS if name != "api")


def test_it_runs_the_versions_that_the_tests_run(project: Document) -> None:
    said = subprocess.run([find_mongod(), "--version"], capture_output=True, text=True, check=True).stdout
    mongodb = re.search(r"db version v(\d+\.\d+)", said)
    kafka = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([\d.]+)<", KAFKA_POM.read_text())

    assert mongodb is not None
    assert kafka is not None
    assert project["services"]["mongodb"]["image"] == f"mongo:{mongodb[1]}"
    assert project["services"]["kafka"]["image"] == f"apache/kafka:{kafka[1]}"
