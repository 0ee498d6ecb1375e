"""What is killed and when: drawn from a seed, and told when a test fails."""

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from nothing_lost.cluster import PROGRAMS, Cluster
from nothing_lost.replica_set import MEMBERS

# How long MongoDB's member or Kafka stays away after a kill; the programs come back at once.
AWAY_SECONDS = 2.0
LOOK_SECONDS = 0.2


class Chaos:
    """Does a list of things in an order and at moments that are drawn from a seed, on a thread of its own.

    Args:
        cluster: what it is done to.
        what: each of `PROGRAMS`, `Kafka`, or what `_do` has of MongoDB.
        seed: for the order and the moments.
        progress: how far the load is, from 0 to 1; all is done before 0.85, however fast or slow the machine is.
    """

    def __init__(self, cluster: Cluster, what: Sequence[str], *, seed: int, progress: Callable[[], float]) -> None:
        self.done: list[str] = []
        self._cluster, self._progress, self._seed = cluster, progress, seed
        self._random = random.Random(seed)
        self._what = self._random.sample(what, len(what))
        self._moments = sorted(self._random.uniform(0.01, 0.85) for _ in what)
        self._over = threading.Event()
        self._began = time.monotonic()
        self._returning: dict[str, threading.Thread] = {}
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for thread in self._returning.values():
            thread.join()

    def all_done(self) -> bool:
        """Whether everything was done."""
        if self._failure is not None:
            raise self._failure
        return len(self.done) == len(self._what)

    def __str__(self) -> str:
        return f"seed {self._seed}; {'; '.join(self.done)}"

    def _run(self) -> None:
        try:
            for what, moment in zip(self._what, self._moments, strict=True):
                while self._progress() < moment:
                    if self._over.wait(LOOK_SECONDS):
                        return
                time.sleep(self._random.uniform(0.0, LOOK_SECONDS))  # a moment that is nothing's beginning
                self._do(what)
        except BaseException as error:
            self._failure = error

    def _do(self, what: str) -> None:
        mongodb = self._cluster.mongodb
        if what in PROGRAMS:
            self._note(f"kill -9 {what}")
            self._cluster.kill(what)
        elif what == "Kafka":
            kafka = self._cluster.kafka
            self._send_away("Kafka", lambda: kafka.stop(signal.SIGKILL), kafka.start)
        elif what == "the primary of MongoDB":
            self._kill_member(mongodb.wait_for_primary(), "the primary")
        elif what == "a member of MongoDB":
            self._kill_member(self._random.randrange(MEMBERS), "any")
        elif what == "a stepdown of MongoDB":
            self._note(f"stepdown of member {mongodb.step_down()} of MongoDB")
        else:
            raise AssertionError(what)

    def _kill_member(self, member: int, which: str) -> None:
        mongodb = self._cluster.mongodb
        name = f"member {member} of MongoDB, {which}"
        self._send_away(name, lambda: mongodb.kill(member), lambda: mongodb.start(member))

    def _send_away(self, name: str, kill: Callable[[], None], start: Callable[[], None]) -> None:
        """Kills it, and has it come back while others are killed."""
        for thread in self._returning.values():
            thread.join()  # two members away at once would be an outage, and Kafka must have come back itself
        away = self._random.uniform(0.0, AWAY_SECONDS)

        def come_back() -> None:
            time.sleep(away)
            start()

        self._note(f"kill -9 {name}, away for {away:.1f} s")
        kill()
        self._returning[name] = threading.Thread(target=come_back)
        self._returning[name].start()

    def _note(self, text: str) -> None:
        self.done.append(f"{time.monotonic() - self._began:.1f} s: {text}")
