"""The life of the embedded server as a state machine, in which kill -9 of anybody is one rule among others."""

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from store.embedded_users import (
    UserProcess,
    end_at_once,
    kill_mongod,
    kill_supervisor,
    mongods_on,
    stored,
    wait_for,
    write,
)
from truthloop.store import embedded
from truthloop.store.mongod_files import Files

IDLE_SECONDS = 0.3
MAX_USERS = 3


class Life(RuleBasedStateMachine):
    """Users come, write, go and are killed; so are the supervisor and mongod; the folder moves."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="truthloop-life-")
        self.moves = 0
        self.uses: list[embedded.Use] = []
        self.processes: list[UserProcess] = []
        self.acknowledged: set[int] = set()
        self.home.mkdir()

    @property
    def home(self) -> Path:
        return Path(self.folder.name, f"home{self.moves}")

    @precondition(lambda self: len(self.uses) < MAX_USERS)
    @rule()
    def come(self) -> None:
        self.uses.append(embedded.use(self.home, idle_seconds=IDLE_SECONDS))

    @precondition(lambda self: len(self.processes) < MAX_USERS)
    @rule()
    def a_process_comes(self) -> None:
        self.processes.append(UserProcess(self.home, IDLE_SECONDS))  # and nobody waits until it has its server

    @precondition(lambda self: self.processes)
    @rule()
    def kill_a_process(self) -> None:
        self.processes.pop(0).kill()

    @precondition(lambda self: self.uses)
    @rule()
    def store(self) -> None:
        number = len(self.acknowledged)
        write(self.uses[0], number)
        self.acknowledged.add(number)

    @precondition(lambda self: self.uses)
    @rule()
    def go(self) -> None:
        self.uses.pop(0).release()

    @rule()
    def kill_supervisor(self) -> None:
        kill_supervisor(self.home)

    @rule()
    def kill_mongod(self) -> None:
        kill_mongod(self.home)

    @rule()
    def stop(self) -> None:
        embedded.stop(self.home)

    @precondition(lambda self: not self.uses and not self.processes)
    @rule()
    def fall_idle(self) -> None:
        wait_for(lambda: not embedded.inspect(self.home).running, "the idle server to stop")

    @precondition(lambda self: not self.uses and not self.processes)
    @rule()
    def move(self) -> None:
        embedded.stop(self.home)
        before = self.home
        self.moves += 1
        before.rename(self.home)

    @invariant()
    def at_most_one_mongod_has_the_data(self) -> None:
        # One whose supervisor was killed before it opened the data sees that it is too late, and leaves.
        wait_for(lambda: len(mongods_on(Files.of(self.home).data)) <= 1, "the second mongod to leave")

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        if self.uses:
            assert stored(self.uses[0]) == self.acknowledged

    def teardown(self) -> None:
        try:
            for process in self.processes:
                process.kill()
            with embedded.use(self.home, idle_seconds=IDLE_SECONDS) as use:
                assert stored(use) == self.acknowledged
        finally:
            for use in self.uses:
                use.release()
            end_at_once(self.home)
            with suppress(OSError):
                self.folder.cleanup()


Life.TestCase.settings = settings(
    max_examples=5,
    stateful_step_count=10,
    deadline=None,  # a stop takes a second
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestLife = Life.TestCase
