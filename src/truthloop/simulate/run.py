"""A run: many clients at a time, each bringing one job after the other to its end; then the check."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pydantic import Field, computed_field

from truthloop.answers import Answer
from truthloop.errors import FileRefused
from truthloop.settings import Settings
from truthloop.simulate.book import Book
from truthloop.simulate.check import Checked, check
from truthloop.simulate.client import Client, GaveUp, OddAnswer
from truthloop.simulate.limits import CONCURRENCY, JOBS, MODELS, PATIENCE_SECONDS
from truthloop.simulate.pictures import DrawnPictures, Pictures
from truthloop.simulate.plan import plan
from truthloop.simulate.tally import WHOLE, Percentiles, Tally
from truthloop.simulate.traffic import Patience, live
from truthloop.simulate.verify import Fault, Finding

# Between two looks whether the clients have ended; and how long they get for it when everything is left.
LOOK_SECONDS, LEAVE_SECONDS = 0.2, 3.0


class OperationFigures(Answer):
    """How long the answers to an operation took, with its repetitions."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Percentiles) -> "OperationFigures":
        """The figures in milliseconds."""
        p50, p95, p99, longest = (
            round(1000 * each, 2) for each in (seconds.p50, seconds.p95, seconds.p99, seconds.max)
        )
        return cls(count=seconds.count, p50_ms=p50, p95_ms=p95, p99_ms=p99, max_ms=longest)


class Report(Answer):
    """What became of a run."""

    jobs: int = Field(description="Jobs that were begun.")
    acknowledged: int = Field(description="Of these, those that the service has acknowledged.")
    seconds: float = Field(description="From the first request until the last job's end, without the check.")
    throughput: float = Field(description="Jobs that came to their end, a second.")
    states: dict[str, int] = Field(description="The acknowledged jobs as they were read back; `deleted` are gone.")
    operations: dict[str, OperationFigures] = Field(description="By operation; `job` is one from end to end.")
    retries: dict[str, int] = Field(description="Repeated requests by reason: `connection`, `429`, `503`, ...")
    late_seconds: float = Field(description="How far the clients were behind the rate at most; 0 without one.")
    ended_each_second: list[int] = Field(description="How many jobs came to their end in each second.")
    checked: bool = Field(description="Whether everything was read back; not after a second Ctrl-C.")
    events: int = Field(description="Events of these jobs in the log.")
    events_in_kafka: int | None = Field(
        description="Of these, those found in Kafka; null where it wasn't asked or didn't answer."
    )
    lost: list[str] = Field(description="What was acknowledged and isn't there.")
    doubled: list[str] = Field(description="What is there or has happened twice.")
    out_of_order: list[str] = Field(description="What came before something that it had to follow.")
    unexpected: list[str] = Field(description="Failed jobs, other answers, and changes that nobody asked for.")
    unanswered: list[str] = Field(
        description="Requests and jobs that patience didn't suffice for, and Kafka that couldn't be read."
    )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether all was checked, and nothing is wrong."""
        return self.checked and not (
            self.lost or self.doubled or self.out_of_order or self.unexpected or self.unanswered
        )


@dataclass(slots=True)
class Stage:
    """What a run is doing."""

    name: str = "jobs"  # or what is being read back
    done: int = 0
    total: int | None = None


class Simulation:
    """One run against a service; call `run` once.

    Args:
        url: where the service is.
        token: what it asks for.
        jobs: how many jobs.
        rate: jobs that become due each second, whether or not the ones before have ended; None for as fast as the
            clients can.
        models: the models, drawn anew for each job.
        concurrency: how many clients work at a time, each on one job.
        pictures: what is sent; by default drawings.
        patience_seconds: how long a request is repeated in vain, a job waited for while no other ends, and Kafka
            while nothing comes.
        kafka: where Kafka is, if the events shall be looked for there as well.
        seed: what is drawn, and what is done with each job.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        jobs: int = JOBS,
        rate: float | None = None,
        models: Sequence[str] = MODELS,
        concurrency: int = CONCURRENCY,
        pictures: Pictures | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        kafka: Settings | None = None,
        seed: int = 0,
    ) -> None:
        self.jobs, self.rate, self.models = jobs, rate, tuple(models)
        self.tally = Tally()
        self.stage = Stage(total=jobs)
        self.began_seconds = 0.0  # by the service's clock, since 1970
        self._url, self._token = url.rstrip("/"), token
        self._concurrency = min(concurrency, jobs)
        self._pictures = pictures if pictures is not None else DrawnPictures(seed)
        self._patience = Patience(patience_seconds)
        self._kafka = kafka
        self._seed = seed
        self._book = Book()
        self._lock = threading.Lock()
        self._next = self._events = 0
        self._late = 0.0
        self._unexpected: list[str] = []
        self._unanswered: list[str] = []
        self._stop, self._hurry = threading.Event(), threading.Event()
        self._failure: BaseException | None = None  # one of our own making, in a client's thread
        self._began = self._ended = self._left = 0.0  # monotonic

    @property
    def seconds(self) -> float:
        """How long the run has taken so far, without the check."""
        return (self._ended or time.monotonic()) - self._began if self._began else 0.0

    @property
    def idle_seconds(self) -> float:
        """How long no job has come to its end."""
        return self._patience.waited if self._began and not self._ended else 0.0

    def has(self, job_id: str) -> bool:
        """Whether a job is known to be of this run."""
        return job_id in self._book.entries

    def unseen(self, seen: Mapping[str, int]) -> int:
        """How many of the events that the check has read in the log a follower hasn't seen yet.

        Args:
            seen: how many events the follower has seen of each job.
        """
        return self._events - sum(seen.get(job, 0) for job in self._book.entries)

    def greet(self) -> None:
        """Makes sure that the service is there and has the models.

        Raises:
            Unavailable, NotSignedIn, NotFound: as `Client.greet`.
            FileRefused: an image can't be read.
        """
        _ = self._pictures[0]  # drawn, or found to be unreadable, before the clock runs
        with self._client() as client:
            self.began_seconds = client.greet(self.models)

    def stop(self) -> None:
        """Begins no more jobs; those under way come to their end and are checked."""
        self._stop.set()

    def leave(self) -> None:
        """Lets everything lie: `run` comes back soon, and nothing is checked."""
        self._left = self._left or time.monotonic()
        self._stop.set()
        self._hurry.set()

    def run(self) -> Report:
        """Runs the jobs, reads everything back and reports.

        Raises: as `greet`.
        """
        if not self.began_seconds:
            self.greet()
        self._began = time.monotonic()
        self._patience.renew()
        threads = [
            threading.Thread(target=self._work, name=f"truthloop-client-{number}", daemon=True)
            for number in range(self._concurrency)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and not self._is_left():
                    thread.join(LOOK_SECONDS)
            self._ended = time.monotonic()
            if self._failure is not None:
                raise self._failure
            return self._report(None if self._hurry.is_set() else self._check())
        except BaseException:
            self.leave()
            raise

    def _is_left(self) -> bool:
        """Whether the clients have had their time to leave; a request that hangs isn't waited for."""
        return self._left > 0 and time.monotonic() - self._left > LEAVE_SECONDS

    def _client(self) -> Client:
        return Client(
            self._url,
            self._token,
            tally=self.tally,
            patience_seconds=self._patience.seconds,
            hurry=self._hurry,
        )

    def _work(self) -> None:
        """What one client does, on its thread."""
        try:
            self._bring_jobs_to_their_end()
        except BaseException as failure:
            self._failure = failure
            self.leave()

    def _bring_jobs_to_their_end(self) -> None:
        with self._client() as client:
            while True:
                with self._lock:
                    number = self._next
                    if number >= self.jobs or self._stop.is_set():
                        return
                    self._next += 1
                due = self._began + (number / self.rate if self.rate else 0.0)
                if self.rate is None:
                    due = time.monotonic()
                elif self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                self._one(client, number, due)

    def _one(self, client: Client, number: int, due: float) -> None:
        self.tally.begin()
        late = time.monotonic() - due
        todo = plan(self._seed, number, models=self.models, pictures=len(self._pictures))
        try:
            state = live(
                todo,
                client,
                self._book,
                lambda: self._pictures[todo.picture],
                patience=self._patience,
                hurry=self._hurry,
            )
        except GaveUp as gave_up:
            self._note(self._unanswered, str(gave_up))
            if self._patience.is_over:  # nothing goes on here, so more jobs would only wait as well
                self._stop.set()
        except (OddAnswer, FileRefused) as odd:
            self._note(self._unexpected, str(odd))
        else:
            self._patience.renew()
            now = time.monotonic()
            self.tally.end(state, second=now - self._began)
            if todo.when is None:
                # From when it was due: a rate that can't be kept shows, whoever is too slow for it.
                self.tally.operation(WHOLE, now - due)
        with self._lock:
            self._late = max(self._late, late)
            self.stage.done = self.tally.ended

    def _note(self, where: list[str], text: str) -> None:
        with self._lock:
            where.append(text)

    def _check(self) -> Checked | None:
        """Reads back; None where that was given up."""
        with ExitStack() as stack:
            clients = [stack.enter_context(self._client()) for _ in range(self._concurrency)]
            try:
                return check(
                    clients,
                    self._book,
                    began_seconds=self.began_seconds,
                    kafka=self._kafka,
                    patience_seconds=self._patience.seconds,
                    hurry=self._hurry,
                    progress=self._progress,
                )
            except GaveUp as gave_up:
                self._note(self._unanswered, str(gave_up))
            except OddAnswer as odd:
                self._note(self._unexpected, str(odd))
            return None

    def _progress(self, name: str, done: int, total: int | None) -> None:
        self.stage.name, self.stage.done, self.stage.total = name, done, total

    def _report(self, checked: Checked | None) -> Report:
        findings = checked.findings if checked is not None else []
        self._events = checked.events if checked is not None else 0
        return Report(
            jobs=self.tally.begun,
            acknowledged=len(self._book.entries),
            seconds=round(self.seconds, 3),
            throughput=round(self.tally.ended / max(self.seconds, 1e-9), 2),
            states=dict(sorted((checked.states if checked is not None else self.tally.states()).items())),
            operations={name: OperationFigures.of(each) for name, each in self.tally.operations().items()},
            retries=self.tally.retries(),
            late_seconds=round(self._late, 3) if self.rate else 0.0,
            ended_each_second=self.tally.ends(),
            checked=checked is not None and not self._hurry.is_set(),
            events=self._events,
            events_in_kafka=checked.kafka if checked is not None else None,
            lost=_texts(findings, Fault.LOST),
            doubled=_texts(findings, Fault.DOUBLED),
            out_of_order=_texts(findings, Fault.OUT_OF_ORDER),
            unexpected=self._unexpected + _texts(findings, Fault.UNEXPECTED),
            unanswered=self._unanswered + (checked.unanswered if checked is not None else []),
        )


def _texts(findings: Sequence[Finding], fault: Fault) -> list[str]:
    return [finding.text for finding in findings if finding.fault is fault]
