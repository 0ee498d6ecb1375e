"""The life of the embedded MongoDB: started once, shared, stopped, and brought back after any kill -9."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from store.embedded_users import (
    UserProcess,
    connected,
    end_at_once,
    kill_mongod,
    kill_supervisor,
    mongods_on,
    stored,
    wait_for,
    write,
)
from truthloop.errors import EmbeddedServerFailed
from truthloop.store import embedded
from truthloop.store.mongod_files import Files, Record, mongod_holder, read_record, write_record

SHORT = 0.2  # seconds of idle time, where a test waits for it
LONG = 600.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / ".truthloop"
    yield home
    end_at_once(home)


def test_importing_starts_nothing_and_does_not_load_the_driver() -> None:
    code = "import sys, truthloop.store.embedded; print('pymongo' in sys.modules, 'bson' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]


def test_the_first_user_gets_a_primary_with_transactions_and_change_streams(home: Path) -> None:
    with (
        embedded.use(home, idle_seconds=LONG) as use,
        connected(use.uri) as client,
        client.test.numbers.watch() as changes,
        client.start_session() as session,
    ):
        with session.start_transaction():
            client.test.numbers.insert_one({"_id": 1}, session=session)

        assert next(changes)["documentKey"] == {"_id": 1}


def test_all_processes_of_a_workspace_share_one_server(home: Path) -> None:
    other = UserProcess(home)
    try:
        with embedded.use(home, idle_seconds=LONG):
            assert embedded.inspect(home).mongod_pid == other.mongod_pid()
    finally:
        other.end()


def test_ten_first_starts_at_the_same_moment_give_one_server_and_ten_users(home: Path) -> None:
    users = [UserProcess(home) for _ in range(10)]
    try:
        servers = {user.mongod_pid() for user in users}
    finally:
        for user in users:
            user.end()

    assert servers == set(mongods_on(Files.of(home).data))
    assert len(servers) == 1


def test_threads_start_one_server(home: Path) -> None:
    found: list[int | None] = []

    def start() -> None:
        with embedded.use(home, idle_seconds=LONG):
            found.append(embedded.inspect(home).mongod_pid)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert set(found) == {embedded.inspect(home).mongod_pid}


def test_it_listens_on_its_own_socket_and_on_nothing_else(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG):
        state = embedded.inspect(home)
        process = Path(f"/proc/{state.mongod_pid}")
        inodes = set()
        for entry in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                if (link := str(entry.readlink())).startswith("socket:"):
                    inodes.add(link[8:-1])
        network = [
            line
            for name in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
            if (process / "net" / name).exists()
            for line in (process / "net" / name).read_text().splitlines()[1:]
            if line.split()[9] in inodes
        ]
        accepting = "00010000"  # the flag of a listening socket in /proc/net/unix
        listening = [
            words[7]
            for line in (process / "net" / "unix").read_text().splitlines()[1:]
            if (words := line.split())[6] in inodes and words[3] == accepting
        ]

        assert inodes
        assert network == []
        assert listening == [str(state.socket)]


def test_only_this_user_can_reach_the_data_and_the_socket(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG):
        state = embedded.inspect(home)
        modes = {
            path: oct(stat.S_IMODE(path.stat().st_mode))
            for path in (state.data.parent, state.data, state.socket.parent, state.socket)
        }

    assert list(modes.values()) == ["0o700", "0o700", "0o700", "0o600"]


def test_the_server_goes_when_its_last_user_was_killed(home: Path) -> None:
    user = UserProcess(home, idle_seconds=SHORT)
    user.mongod_pid()
    user.kill()

    wait_for(lambda: not embedded.inspect(home).running, "the idle server to stop")
    state = embedded.inspect(home)
    assert (state.state, state.reason) == ("stopped", f"no user for {SHORT} s")
    assert not state.socket.exists()


def test_a_server_in_use_stays_longer_than_the_idle_time(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with embedded.use(home, idle_seconds=SHORT):
        before = embedded.inspect(home).mongod_pid
        embedded.use(other, idle_seconds=SHORT).release()  # a clock: later, and without a user
        wait_for(lambda: not embedded.inspect(other).running, "the idle server to stop")

        assert embedded.inspect(home).mongod_pid == before
        assert embedded.inspect(home).restarts == 0
    end_at_once(other)


def test_a_fork_keeps_the_server_when_its_parent_lets_go(home: Path) -> None:
    use = embedded.use(home, idle_seconds=SHORT)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)  # until the parent closes its end
        os._exit(0)
    os.close(read_end)
    use.release()

    clock = home.parent / "clock"
    embedded.use(clock, idle_seconds=SHORT).release()
    wait_for(lambda: not embedded.inspect(clock).running, "the idle server to stop")
    assert embedded.inspect(home).state == "ready"

    os.close(write_end)
    os.waitpid(child, 0)
    wait_for(lambda: not embedded.inspect(home).running, "the idle server to stop")
    end_at_once(clock)


def test_stop_ends_it_though_it_is_in_use_and_the_next_ensure_brings_it_back(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)

        assert embedded.stop(home) is True
        assert embedded.inspect(home).state == "stopped"
        assert mongods_on(Files.of(home).data) == []
        assert embedded.stop(home) is False

        write(use, 2)
        assert stored(use) == {1, 2}


def test_users_who_come_while_it_is_stopped_get_a_fresh_server(home: Path) -> None:
    embedded.use(home, idle_seconds=LONG).release()
    users = [UserProcess(home) for _ in range(2)]
    embedded.stop(home)

    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
        assert stored(use) == {1}
    for user in users:
        user.end()


def test_a_heartbeat_revives_a_killed_server_but_not_one_that_was_stopped_on_purpose(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        kill_supervisor(home)
        wait_for(lambda: embedded.inspect(home).supervisor_pid is None, "the supervisor to die")
        assert use.revive() is True
        assert embedded.inspect(home).state == "ready"

        embedded.stop(home)
        assert use.revive() is False
        assert embedded.inspect(home).running is False


def test_a_released_use_starts_nothing(home: Path) -> None:
    use = embedded.use(home, idle_seconds=LONG)
    use.release()
    use.release()

    assert use.revive() is False
    with pytest.raises(ValueError, match="released"):
        use.ensure()


def test_a_use_that_is_released_while_a_heartbeat_looks_after_it_ends_in_silence(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = embedded.use(home, idle_seconds=LONG)
    real = embedded.lock_holder

    def releasing(path: Path) -> int | None:
        use.release()
        return real(path)

    monkeypatch.setattr(embedded, "lock_holder", releasing)

    assert use.revive() is False


def test_what_a_killed_user_was_told_is_stored(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from truthloop.store import embedded; import pymongo\n"
        "use = embedded.use(Path(sys.argv[1]), idle_seconds=600)\n"
        "numbers = pymongo.MongoClient(use.uri).test.numbers\n"
        "for number in range(10**6): print(numbers.insert_one({'_id': number}).inserted_id, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = {int(writer.stdout.readline()) for _ in range(20)}
        writer.kill()
        told |= {int(line) for line in writer.stdout if line.endswith("\n")}
    kill_mongod(home)

    with embedded.use(home, idle_seconds=LONG) as use:
        assert told <= stored(use)


def test_a_killed_mongod_is_restarted_for_its_users_and_loses_nothing(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
        killed = kill_mongod(home)
        write(use, 2)

        assert stored(use) == {1, 2}
        assert embedded.inspect(home).mongod_pid != killed
        assert embedded.inspect(home).restarts == 1


def test_a_mongod_that_dies_time_and_again_is_given_up_and_the_next_use_tries_anew(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)

        def given_up() -> bool:
            kill_mongod(home)
            return embedded.inspect(home).state == "failed"

        wait_for(given_up, "the supervisor to give up")
        assert stored(use) == {1}


def test_mongod_stops_with_a_killed_supervisor_and_the_next_use_loses_nothing(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
        killed = embedded.inspect(home)
        kill_supervisor(home)
        write(use, 2)

        assert stored(use) == {1, 2}
        now = embedded.inspect(home)
        assert now.supervisor_pid != killed.supervisor_pid
        assert mongods_on(now.data) == [now.mongod_pid]


def test_a_killed_supervisor_and_mongod_together_are_replaced(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
        kill_supervisor(home)
        kill_mongod(home)

        assert stored(use) == {1}


def test_stop_waits_for_a_mongod_whose_supervisor_was_killed(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG):
        kill_supervisor(home)

        assert embedded.stop(home) is True
        assert mongod_holder(Files.of(home)) is None
        # A process that has let go of its lock is seen for some moments more.
        wait_for(lambda: not mongods_on(Files.of(home).data), "the end of mongod")


def test_a_moved_folder_is_opened_at_its_new_place(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
        old = use.uri
    embedded.stop(home)
    moved = home.with_name("moved")
    home.rename(moved)

    with embedded.use(moved, idle_seconds=LONG) as use:
        assert use.uri != old
        assert stored(use) == {1}
        write(use, 2)
    end_at_once(moved)


def test_a_folder_moved_under_a_running_server_keeps_what_was_acknowledged(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
        moved = home.with_name("moved")
        home.rename(moved)
    with embedded.use(moved, idle_seconds=LONG) as use:
        assert stored(use) == {1}
        assert mongods_on(Files.of(home).data) == []
    end_at_once(moved)


def test_a_removed_folder_takes_its_server_along(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        state = embedded.inspect(home)
        gone = home.rename(home.with_name("gone"))  # at one stroke, for mongod makes files while others go
        wait_for(lambda: not mongods_on(state.data), "mongod to go with its folder")
        shutil.rmtree(gone)

        with pytest.raises(EmbeddedServerFailed, match="was moved or removed while it was in use"):
            use.ensure()

        with embedded.use(home, idle_seconds=LONG) as fresh:  # a new workspace at the same place is followed
            write(fresh, 2)
            assert stored(use) == {2}


def test_a_supervisor_that_finds_its_folder_gone_late_leaves_a_new_server_at_its_place_alone(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        old = embedded.inspect(home)
        assert old.supervisor_pid is not None
        os.kill(old.supervisor_pid, signal.SIGSTOP)  # a busy machine: it sees nothing of what comes next
        gone = home.rename(home.with_name("gone"))
        kill_mongod(gone)  # as it dies by itself, now and then, when it misses its folder
        wait_for(lambda: not mongods_on(old.data), "mongod to die")
        shutil.rmtree(gone)
        with embedded.use(home, idle_seconds=LONG) as fresh:
            now = embedded.inspect(home)
            os.kill(old.supervisor_pid, signal.SIGCONT)
            wait_for(lambda: not Path(f"/proc/{old.supervisor_pid}").exists(), "the old supervisor to leave")

            write(fresh, 2)
            assert stored(use) == {2}
            assert mongods_on(old.data) == [now.mongod_pid]
            assert (embedded.inspect(home).mongod_pid, embedded.inspect(home).restarts) == (now.mongod_pid, 0)


def test_a_copied_folder_gets_a_server_of_its_own(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
        embedded.stop(home)
        copy = home.with_name("copy")
        use.ensure()
        shutil.copytree(home, copy, ignore=shutil.ignore_patterns("*.sock"))
        kill_mongod(copy)  # nobody runs there: the record that was copied must not mislead
        shutil.rmtree(copy / "mongodb" / "data")
        embedded.stop(home)
        shutil.copytree(home / "mongodb" / "data", copy / "mongodb" / "data")
        use.ensure()
        original = embedded.inspect(home).mongod_pid
        with embedded.use(copy, idle_seconds=LONG) as other:
            write(other, 2)
            assert stored(other) == {1, 2}
        assert stored(use) == {1}
        assert embedded.inspect(home).mongod_pid == original
        end_at_once(copy)


def test_stale_locks_records_and_sockets_are_no_obstacle_and_kill_nobody(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
    embedded.stop(home)
    files = Files.of(home)
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        (files.data / "mongod.lock").write_text(f"{bystander.pid}\n")
        socket = embedded.inspect(home).socket
        socket.parent.mkdir(mode=0o700)
        socket.touch()
        lock = os.open(files.supervisor_lock, os.O_RDWR)
        record = read_record(files.supervisor_lock)
        assert record is not None
        stale = Record(
            state="ready", supervisor_pid=bystander.pid, folder=str(files.folder), socket=str(socket), restarts=0
        )
        write_record(lock, stale)
        os.close(lock)

        assert embedded.inspect(home).state == "lost"
        assert embedded.stop(home) is False
        with embedded.use(home, idle_seconds=LONG) as use:
            assert stored(use) == {1}
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_socket_that_was_cleaned_away_comes_back(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
        shutil.rmtree(embedded.inspect(home).socket.parent)

        assert stored(use) == {1}
        assert embedded.inspect(home).restarts == 1


def test_a_long_log_is_put_aside(home: Path) -> None:
    with embedded.use(home, idle_seconds=2):  # looked after every half second
        log = embedded.inspect(home).log
        with log.open("ab") as file:
            file.truncate(9 * 2**20)

        wait_for(lambda: log.with_name("mongod.log.1").exists(), "the long log to be put aside")
        kill_mongod(home)
        wait_for(lambda: log.exists() and b"Waiting for connections" in log.read_bytes(), "a new log")
        assert log.stat().st_size < 2**20


def test_looking_makes_nothing(home: Path) -> None:
    state = embedded.inspect(home)

    assert (state.running, state.state, state.supervisor_pid, state.mongod_pid) == (False, "absent", None, None)
    assert embedded.stop(home) is False
    assert not home.exists()


def test_the_supervisor_keeps_nothing_of_its_callers_open(home: Path) -> None:
    # A pipe that stayed open would make `truthloop status | cat` wait for the idle time.
    code = (
        "import os, sys; from pathlib import Path; from truthloop.store import embedded;"
        "r, w = os.pipe(); os.set_inheritable(w, True);"
        "embedded.use(Path(sys.argv[1]), idle_seconds=600).release();"
        "print(*(f'pipe:[{os.fstat(d).st_ino}]' for d in (1, 2, w)))"
    )
    done = subprocess.run(  # returns when both pipes have ended, as `| cat` does
        [sys.executable, "-c", code, str(home)], capture_output=True, text=True, timeout=60, check=True
    )

    state = embedded.inspect(home)
    assert state.running
    for pid in (state.supervisor_pid, state.mongod_pid):
        process = Path(f"/proc/{pid}")
        opened = {str(entry.readlink()) for entry in (process / "fd").iterdir()}
        assert not opened & set(done.stdout.split())
        assert (process / "cwd").readlink() == Path("/")
    assert os.getsid(state.supervisor_pid or 0) != os.getsid(0)


def test_a_signal_to_the_supervisor_stops_the_server_cleanly(home: Path) -> None:
    with embedded.use(home, idle_seconds=LONG) as use:
        write(use, 1)
        state = embedded.inspect(home)
        assert state.supervisor_pid is not None
        os.kill(state.supervisor_pid, signal.SIGTERM)
        wait_for(lambda: not embedded.inspect(home).running, "the server to stop")

        assert embedded.inspect(home).state == "stopped"
        assert "WiredTiger closed" in state.log.read_text()
        assert (state.data / "mongod.lock").read_text() == ""  # as mongod leaves it after a clean end
