"""Whether anything was lost, doubled or out of order: from MongoDB's own documents and Kafka's own consumer.

Nothing of Truthloop reads here, so that it isn't its own judge.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from kafka import Kafka

ENDS = ("job.succeeded", "job.failed", "job.cancelled")
FINAL = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Stored:
    """What MongoDB holds, as a majority of the set has it."""

    jobs: dict[str, dict[str, Any]]
    results: set[str]  # the jobs of those that aren't in their job
    events: list[dict[str, Any]]


@dataclass(frozen=True)
class Message:
    """A message of Kafka: its event, and where it is."""

    topic_partition: tuple[str, int]
    offset: int
    key: str
    event: dict[str, Any]


def stored(uri: str, database: str) -> Stored:
    """All jobs, results and events."""
    with MongoClient(uri, serverSelectionTimeoutMS=30_000) as client:
        there = client.get_database(database, read_concern=ReadConcern("majority"))
        return Stored(
            jobs={job["_id"]: job for job in there["truthloop.jobs"].find()},
            results={result["_id"] for result in there["truthloop.results"].find({}, {"_id": 1})},
            events=[*there["truthloop.events"].find()],
        )


def consumed(kafka: Kafka) -> list[Message]:
    """All that Kafka holds of ours, in the order of each partition; read by Kafka's own console consumer."""
    found = []
    for topic in sorted(kafka.admin().list_topics(timeout=10).topics):
        if not topic.startswith("truthloop."):
            continue
        printed = kafka.run(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            *("--bootstrap-server", kafka.servers, "--topic", topic, "--from-beginning", "--timeout-ms", "4000"),
            *("--property", "print.key=true", "--property", "print.partition=true"),
            *("--property", "print.offset=true"),
        )
        for line in printed.splitlines():
            partition, offset, key, value = line.split("\t", 3)
            found.append(
                Message(
                    topic_partition=(topic, int(partition.removeprefix("Partition:"))),
                    offset=int(offset.removeprefix("Offset:")),
                    key=key,
                    event=json.loads(value),
                )
            )
    return found


def faults_of_jobs(there: Stored) -> list[str]:
    """What is wrong with the jobs: of each that any event tells of, and of each that is there."""
    faults = []
    events: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in there.events:
        events[event["subject"]].append(event)
    faults += [f"{job} is there and no event tells of it" for job in there.jobs.keys() - events.keys()]
    for subject, found in events.items():
        if not found[0]["type"].startswith("dev.truthloop.job."):
            continue
        told = sorted(found, key=lambda event: event["sequence"])
        verbs = [event["type"].removeprefix("dev.truthloop.") for event in told]
        said = f"{subject}: {', '.join(verbs)}"
        if [event["sequence"] for event in told] != [*range(1, len(told) + 1)]:
            faults.append(f"{said}: sequences {[event['sequence'] for event in told]}")
        ends = [verb for verb in verbs if verb in ENDS]
        if len(ends) != 1:
            faults.append(f"{said}: {len(ends)} ends")
        document = there.jobs.get(subject)
        if verbs[-1] == "job.deleted":
            if document is not None or subject in there.results:
                faults.append(f"{said}: but its document or its result is there")
            continue
        if document is None:
            faults.append(f"{said}: but its document isn't there")
            continue
        if document["state"] not in FINAL or document["revision"] != len(told):
            faults.append(f"{said}: it is {document['state']} at revision {document['revision']}")
        if verbs[-1] != f"job.{document['state']}":
            faults.append(f"{said}: it is {document['state']}")
        results = ("result" in document) + (subject in there.results)  # a small one is in the job itself
        if results != (document["state"] == "succeeded"):
            faults.append(f"{said}: {results} results are there")
    for result in there.results - there.jobs.keys():
        faults.append(f"a result of {result}, which isn't there")
    return faults


def faults_of_events(there: Stored, messages: Sequence[Message]) -> list[str]:
    """What is wrong with what Kafka holds."""
    faults = []
    logged = {event["_id"]: event for event in there.events}
    seen: dict[str, Message] = {}
    last: defaultdict[str, int] = defaultdict(int)
    for message in messages:
        event = message.event
        source = logged.get(event["id"])
        if source is None:
            faults.append(f"Kafka has {event['id']}, which the log lacks: {event}")
            continue
        if event["id"] in seen:
            first = seen[event["id"]]
            if (first.event, first.topic_partition, first.key) != (event, message.topic_partition, message.key):
                faults.append(f"{event['id']} came with two contents or to two places: {first}, {message}")
            continue
        seen[event["id"]] = message
        told = (event["subject"], event["type"], int(event["sequence"]), event["data"])
        if told != (source["subject"], source["type"], source["sequence"], source["data"]):
            faults.append(f"{event['id']} is another in Kafka: {told}, not {source}")
        if message.key != event["subject"]:
            faults.append(f"{event['id']} has the key {message.key}")
        if int(event["sequence"]) <= last[event["subject"]]:
            faults.append(f"{event['subject']}: {event['sequence']} came after {last[event['subject']]}")
        last[event["subject"]] = int(event["sequence"])
    places = defaultdict(set)
    for message in seen.values():
        places[message.event["subject"]].add(message.topic_partition)
    faults += [f"{subject} is in {found}" for subject, found in places.items() if len(found) > 1]
    faults += [f"Kafka lacks {logged[missing]}" for missing in logged.keys() - seen.keys()]
    return faults
