"""Reading back, after a run, all that was acknowledged: jobs and results over HTTP, the event log, Kafka."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from truthloop.events.documents import TYPE_PREFIX
from truthloop.events.passed_on import RESCAN_MS, first_id_at
from truthloop.predict.documents import JobState
from truthloop.settings import Settings
from truthloop.simulate.book import Book, Entry
from truthloop.simulate.client import Client
from truthloop.simulate.kafka import read_kafka
from truthloop.simulate.results import Results, mixed_up
from truthloop.simulate.traffic import GONE
from truthloop.simulate.verify import Arrivals, Fault, Finding, Told, judge

Progress = Callable[[str, int, int | None], None]  # what is being done, how much of it is done, how much there is


@dataclass(slots=True)
class Checked:
    """What reading back has shown."""

    states: Counter[str] = field(default_factory=Counter)  # of the acknowledged jobs
    events: int = 0  # of these jobs, in the log
    kafka: int | None = None  # of these, in Kafka; None where it isn't looked at, or wasn't read to its end
    findings: list[Finding] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Read:
    """A job as it was read back; all None where there is none."""

    state: str | None = None
    revision: int | None = None
    error: str | None = None  # why it failed

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> "_Read":
        error = job["error"] if job["state"] == JobState.FAILED else None
        return cls(sys.intern(job["state"]), job["revision"], error)


def check(
    clients: Sequence[Client],
    book: Book,
    *,
    began_seconds: float,
    kafka: Settings | None,
    patience_seconds: float,
    hurry: threading.Event,
    progress: Progress,
) -> Checked:
    """Reads everything back and compares it with what the clients were told.

    Args:
        clients: one for each thread that may read at a time.
        book: what was acknowledged.
        began_seconds: when the run began, by the service's clock.
        kafka: where Kafka is; None for no look at it.
        patience_seconds: for how long nothing may come from Kafka while events are missing there.
        hurry: ends the waiting for Kafka when it is set.
        progress: is told how far this has come.

    Raises:
        GaveUp, OddAnswer: the service didn't answer, or not so that it can be understood.
    """
    checked = Checked()
    # Clocks disagree; what is somebody else's or another run's is passed over anyway.
    since_ms = round(began_seconds * 1000) - RESCAN_MS
    jobs = _read_jobs(clients, book, since_ms / 1000, checked, hurry, progress)
    told = _read_log(clients[0], book, first_id_at(since_ms), progress)
    checked.events = sum(len({event.id for event in events}) for events in told.values())
    for job, entry in book.entries.items():
        read = jobs[job]
        checked.states[GONE if read.state is None else read.state] += 1
        checked.findings += judge(
            job, entry.said, told[job], state=read.state, revision=read.revision, error=read.error
        )
    if kafka is not None:
        arrivals = Arrivals(told)
        unread = read_kafka(
            kafka,
            arrivals,
            after=first_id_at(since_ms),
            patience_seconds=patience_seconds,
            hurry=hurry,
            progress=lambda done, total: progress("Kafka", done, total),
        )
        if unread is None:
            checked.kafka = arrivals.come
            if checked.events and not arrivals.come:
                checked.unanswered.append(
                    f"None of the {checked.events} events came to Kafka in {patience_seconds:g} s. "
                    "Does a relay run? `truthloop relay` is one."
                )
            else:
                checked.findings += arrivals.end()
        else:  # what is missing may be there
            checked.findings += arrivals.findings
            checked.unanswered.append(unread)
    return checked


def _read_jobs(
    clients: Sequence[Client],
    book: Book,
    since_seconds: float,
    checked: Checked,
    hurry: threading.Event,
    progress: Progress,
) -> dict[str, _Read]:
    """Each acknowledged job as it stands, with its result; finds those that nobody was told of."""
    read = dict.fromkeys(book.entries, _Read())
    of_number = {entry.number: job for job, entry in book.entries.items()}
    for job in clients[0].jobs_since(since_seconds):
        entry = book.entries.get(job["id"])
        if entry is not None:
            read[job["id"]] = _Read.of(job)
            checked.findings += mixed_up(job["id"], entry, job, what="it")
        number = book.number(job["deadline_seconds"])
        # Also two of which nobody was told.
        if number is not None and (other := of_number.setdefault(number, job["id"])) != job["id"]:
            text = f"Job {job['id']} was made by the same request as job {other} of this run (number {number})."
            checked.findings.append(Finding(fault=Fault.DOUBLED, text=text))
    total = len(book.entries)
    results = Results()
    lock = threading.Lock()
    done = 0

    def look(client: Client, jobs: Iterable[tuple[str, Entry]]) -> list[Finding]:
        nonlocal done
        found: list[Finding] = []
        for job, entry in jobs:
            if hurry.is_set():
                break
            found += _result_findings(client, job, entry, read, results)
            with lock:
                done += 1
                progress("jobs and results", done, total)
        return found

    entries = list(book.entries.items())
    with ThreadPoolExecutor(len(clients)) as threads:
        parts = [entries[place :: len(clients)] for place in range(len(clients))]
        for findings in threads.map(look, clients, parts):
            checked.findings += findings
    checked.findings += results.end()
    return read


def _result_findings(
    client: Client, job: str, entry: Entry, read: dict[str, _Read], results: Results
) -> Iterator[Finding]:
    if read[job].state is None:
        # Not in the list: asked for by its id, too, before it counts as gone.
        now = client.read(job, operation=None)
        if now is None:
            return
        read[job] = _Read.of(now)
        yield Finding(fault=Fault.LOST, text=f"Job {job} is there, {now['state']}, and the list of jobs lacks it.")
    if read[job].state != JobState.SUCCEEDED:
        if entry.result is not None:
            text = f"Job {job} had a result, which was read, and is {read[job].state} now."
            yield Finding(fault=Fault.LOST, text=text)
        return
    _, result = client.result(job, operation=None)
    if result is None:
        yield Finding(fault=Fault.LOST, text=f"Job {job} has succeeded and has no result.")
    else:
        yield from results.add(job, entry, result)


def _read_log(client: Client, book: Book, after: str, progress: Progress) -> dict[str, list[Told]]:
    """The events of each acknowledged job."""
    told: dict[str, list[Told]] = {job: [] for job in book.entries}
    count = 0
    for event in client.events_after(after):
        if event["subject"] in told and event["type"].startswith(f"{TYPE_PREFIX}job."):
            told[event["subject"]].append(_told(event))
            count += 1
            if count % 100 == 0:
                progress("the event log", count, None)
    progress("the event log", count, None)
    return told


def _told(event: Mapping[str, Any]) -> Told:
    return Told(
        sequence=int(event["sequence"]),
        verb=sys.intern(event["type"].rpartition(".")[2]),
        state=sys.intern(str(event["data"].get("state"))),
        id=event["id"],
    )
