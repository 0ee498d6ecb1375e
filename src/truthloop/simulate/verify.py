"""Whether a job was lost, doubled or brought out of order: what was acknowledged against what is told. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from typing import NamedTuple

from truthloop.predict.documents import JobState


class Said(Flag):
    """What a client asked for about a job, and what the service has acknowledged of it."""

    CREATED = auto()
    EXECUTED = auto()
    CANCELLED = auto()
    DELETED = auto()
    # Sent; whether or not an answer came.
    ASKED_TO_CANCEL = auto()
    ASKED_TO_DELETE = auto()


class Fault(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    DOUBLED = "doubled"
    OUT_OF_ORDER = "out_of_order"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong."""

    fault: Fault
    text: str


class Told(NamedTuple):
    """What an event tells of its job."""

    sequence: int
    verb: str
    state: str
    id: str


# From which states an event may come, and to which it leads; `deleted` tells the state before.
_VERBS: Mapping[str, tuple[tuple[str | None, ...], str | None]] = {
    "created": ((None,), JobState.CREATED),
    "updated": ((JobState.CREATED,), JobState.CREATED),
    "queued": ((JobState.CREATED,), JobState.QUEUED),
    "started": ((JobState.QUEUED,), JobState.RUNNING),
    "requeued": ((JobState.RUNNING,), JobState.QUEUED),
    "succeeded": ((JobState.RUNNING,), JobState.SUCCEEDED),
    "failed": ((JobState.QUEUED, JobState.RUNNING), JobState.FAILED),
    "cancelled": ((JobState.CREATED, JobState.QUEUED, JobState.RUNNING), JobState.CANCELLED),
    "deleted": ((JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED), None),
}
ENDS = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def judge(
    job: str,
    said: Said,
    told: Iterable[Told],
    *,
    state: str | None,
    revision: int | None,
    error: str | None = None,
) -> list[Finding]:
    """What is wrong with one job.

    Args:
        job: its id.
        said: what was asked and acknowledged.
        told: its events, in any order.
        state: in which it was read back; None if it isn't there.
        revision: the one that it was read back with.
        error: why it failed, as it says itself.

    Returns:
        Nothing for a job about which all that was acknowledged holds.
    """
    by_sequence: defaultdict[int, dict[str, Told]] = defaultdict(dict)
    for event in told:
        by_sequence[event.sequence][event.id] = event
    events = [event for sequence in sorted(by_sequence) for event in by_sequence[sequence].values()]
    story = ", ".join(f"{event.sequence} {event.verb}" for event in events) or "no events"
    found = _Findings(f"Job {job} ({story})")
    for sequence, same in by_sequence.items():
        if len(same) > 1:
            found.add(Fault.DOUBLED, f"has {len(same)} events of sequence {sequence}")
    last = max(by_sequence, default=0)
    missing = [sequence for sequence in range(1, last + 1) if sequence not in by_sequence]
    if missing:
        found.add(Fault.LOST, f"lacks the events {', '.join(map(str, missing))}")
    ends = [event for event in events if event.verb in ENDS]
    if len(ends) > 1:
        found.add(Fault.DOUBLED, f"has ended {len(ends)} times")
    if not missing and len(by_sequence) == len(events):
        _judge_order(found, events)
    verbs = {event.verb for event in events}
    _judge_acknowledged(found, said, verbs)
    # By whatever: what the clients ask for can be done, so a run in which jobs fail isn't well.
    if "failed" in verbs or state == JobState.FAILED:
        found.add(Fault.UNEXPECTED, "has failed", error)
    # One that only waits, or is being worked, is not lost: its client tells that patience didn't suffice.
    waits = state in (JobState.QUEUED, JobState.RUNNING) and not said & (Said.CANCELLED | Said.DELETED)
    if said & (Said.EXECUTED | Said.CANCELLED | Said.DELETED) and not ends and not waits:
        found.add(Fault.LOST, f"has not ended: it is {state or 'not there'}")
    _judge_read_back(found, said, events, state=state, revision=revision)
    return found.all


def _judge_order(found: "_Findings", events: Sequence[Told]) -> None:
    """Whether each event may follow the one before; they are complete and in the order of their sequence."""
    now: str | None = None
    gone = False
    for event in events:
        before, after = _VERBS.get(event.verb, ((), None))
        if gone or now not in before:
            found.add(Fault.OUT_OF_ORDER, f"was {event.verb} while it was {'gone' if gone else now or 'not made'}")
            return
        gone = event.verb == "deleted"
        now = now if gone else after
        if event.state != now:
            found.add(Fault.OUT_OF_ORDER, f"is told to be {event.state} after it was {event.verb}")
            return


def _judge_acknowledged(found: "_Findings", said: Said, verbs: set[str]) -> None:
    for acknowledged, verb in (
        (Said.CREATED, "created"),
        (Said.EXECUTED, "queued"),
        (Said.CANCELLED, "cancelled"),
        (Said.DELETED, "deleted"),
    ):
        if acknowledged in said and verb not in verbs:
            found.add(Fault.LOST, f"was acknowledged to be {verb}, which no event tells")
    if "cancelled" in verbs and not said & (Said.ASKED_TO_CANCEL | Said.ASKED_TO_DELETE):
        found.add(Fault.UNEXPECTED, "was cancelled, which nobody asked for")
    if "deleted" in verbs and Said.ASKED_TO_DELETE not in said:
        found.add(Fault.UNEXPECTED, "was deleted, which nobody asked for")


def _judge_read_back(
    found: "_Findings", said: Said, events: Sequence[Told], *, state: str | None, revision: int | None
) -> None:
    if state is None:
        if Said.ASKED_TO_DELETE not in said or all(event.verb != "deleted" for event in events):
            found.add(Fault.LOST, "is not there")
        return
    if Said.DELETED in said:
        found.add(Fault.LOST, f"was acknowledged to be deleted and is there, {state}")
    elif events and (events[-1].state, events[-1].sequence) != (state, revision):
        last = events[-1]
        found.add(
            Fault.LOST,
            f"is {state} at revision {revision}, and its last event says {last.state} at {last.sequence}",
        )


class _Findings:
    """Collects what is wrong with one job."""

    def __init__(self, about: str) -> None:
        self._about = about
        self.all: list[Finding] = []

    def add(self, fault: Fault, what: str, why: str | None = None) -> None:
        text = f"{self._about} {what}"
        self.all.append(Finding(fault=fault, text=f"{text}: {why}" if why else f"{text}."))


class Arrivals:
    """Whether each event of the log arrives somewhere else, in order within its job; repeats are allowed.

    Args:
        logged: the events of each job as the log has them, by the job's id.
    """

    def __init__(self, logged: Mapping[str, Iterable[Told]]) -> None:
        self._logged = {job: {event.sequence: event for event in events} for job, events in logged.items()}
        self._come = dict.fromkeys(logged, 0)  # a bit for each sequence
        self.missing = sum(len(events) for events in self._logged.values())
        self.come = 0
        self._strange: set[tuple[str, Told]] = set()  # told of once, however often they come
        self.findings: list[Finding] = []

    def add(self, job: str, event: Told) -> None:
        """An event came."""
        logged, sequence = self._logged.get(job), event.sequence
        if logged is None:  # somebody else's
            return
        if logged.get(sequence) != event:
            if (job, event) not in self._strange:
                self._strange.add((job, event))
                what = f"Kafka has an event {event.id} of sequence {sequence}, {event.verb} and {event.state}"
                self._find(Fault.DOUBLED, job, f"{what}, which the log lacks")
        elif not self._come[job] >> sequence & 1:
            late = [str(each) for each in sorted(logged) if each < sequence and not self._come[job] >> each & 1]
            if late:
                self._find(Fault.OUT_OF_ORDER, job, f"event {sequence} came to Kafka before {', '.join(late)}")
            self._come[job] |= 1 << sequence
            self.missing -= 1
            self.come += 1

    def end(self) -> list[Finding]:
        """What is wrong, when no more will come: what came wrongly, and what didn't come."""
        for job, logged in self._logged.items():
            gone = [str(each) for each in sorted(logged) if not self._come[job] >> each & 1]
            if gone:
                self._find(Fault.LOST, job, f"Kafka lacks the events {', '.join(gone)}")
        return self.findings

    def _find(self, fault: Fault, job: str, what: str) -> None:
        self.findings.append(Finding(fault=fault, text=f"Job {job}: {what}."))
