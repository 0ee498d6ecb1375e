"""Other MongoDB servers than the embedded one: what is used, and what is refused with a reason."""

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from pymongo import MongoClient, ReadPreference
from pymongo.errors import PyMongoError

from truthloop.errors import DatabaseRefused, DatabaseUnavailable, SettingRefused, WorkspaceNotFound
from truthloop.settings import Settings, load_settings
from truthloop.store import embedded, migrations
from truthloop.store.connection import Store, connect

USER, PASSWORD = "engineer", "correct horse"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def start(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], int]:
    """A mongod of the test's own, on loopback."""
    port = free_port()
    process = subprocess.Popen(
        [
            str(embedded.find_mongod()),
            *("--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
            *("--logpath", str(folder / "log"), "--wiredTigerCacheSizeGB", "0.25"),
            *options,
        ],
        stdout=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            with MongoClient(f"mongodb://127.0.0.1:{port}", directConnection=True, timeoutMS=500) as client:
                client.admin.command("hello")
                return True
        except PyMongoError:
            return False

    wait_for(answers)
    return process, port


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, port = start(tmp_path_factory.mktemp("standalone"))
    yield f"mongodb://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def with_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a replica set of one member that wants a user and a password."""
    folder = tmp_path_factory.mktemp("replica-set")
    key = folder / "key"
    key.write_text("a key for the members only")
    key.chmod(0o600)
    process, port = start(folder, "--replSet", "company", "--keyFile", str(key))
    with MongoClient(f"mongodb://127.0.0.1:{port}", directConnection=True) as client:
        client.admin.command(
            {"replSetInitiate": {"_id": "company", "members": [{"_id": 0, "host": f"127.0.0.1:{port}"}]}}
        )
        wait_for(lambda: client.admin.command("hello")["isWritablePrimary"])
        client.admin.command({"createUser": USER, "pwd": PASSWORD, "roles": ["root"]})
    with MongoClient(f"mongodb://127.0.0.1:{port}", username=USER, password=PASSWORD) as client:
        client.admin.command(
            {"createUser": "reader", "pwd": PASSWORD, "roles": [{"role": "read", "db": "truthloop"}]}
        )
    yield port
    process.kill()
    process.wait()


def using(settings: Settings, uri: str) -> Settings:
    return settings.model_copy(update={"mongodb_uri": SecretStr(uri), "home": settings.home.parent / "unused"})


def test_a_replica_set_of_the_companys_own_is_used(settings: Settings, with_password: int):
    own = using(settings, f"mongodb://{USER}:correct%20horse@127.0.0.1:{with_password}/?replicaSet=company")

    with connect(own, create=True) as store:
        store["metadata"].insert_one({"image_id": "a"})
        store.transaction(lambda session: store["metadata"].insert_one({"image_id": "b"}, session=session))
        assert store["metadata"].count_documents({}) == 2
    assert not own.home.exists()


def test_a_wrong_password_is_named_and_not_shown(settings: Settings, with_password: int):
    with pytest.raises(DatabaseRefused, match="refuses the user or the password") as caught:
        connect(using(settings, f"mongodb://{USER}:wr0ng@127.0.0.1:{with_password}"), create=True)

    assert "wr0ng" not in str(caught.value)


def test_a_user_without_the_rights_is_told_which_to_get(settings: Settings, with_password: int):
    own = using(settings, f"mongodb://reader:correct%20horse@127.0.0.1:{with_password}")

    with pytest.raises(DatabaseRefused, match="Grant it readWrite and dbAdmin"):
        connect(own.model_copy(update={"database": "truthloop"}), create=True)


def test_a_standalone_is_refused_with_the_reason_and_the_remedy(settings: Settings, standalone: str):
    with pytest.raises(DatabaseRefused, match=r"standalone.*rs\.initiate"):
        connect(using(settings, standalone), create=True)


def test_a_server_that_does_not_answer_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("truthloop.store.connection.SELECTION_MS", 200)
    with pytest.raises(DatabaseUnavailable, match="No answer from TRUTHLOOP_MONGODB_URI") as caught:
        connect(using(settings, f"mongodb://127.0.0.1:{free_port()}"), create=True)

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("uri", ["mongodb://", "mongodb://a:b:c@host", "mongodb://host:port"])
def test_an_address_that_cannot_be_understood_is_refused(settings: Settings, uri: str):
    with pytest.raises(SettingRefused, match="TRUTHLOOP_MONGODB_URI"):
        connect(using(settings, uri), create=True)


def test_a_database_that_is_no_workspace_is_left_as_it_is(settings: Settings, with_password: int):
    uri = f"mongodb://{USER}:correct%20horse@127.0.0.1:{with_password}"
    own = using(settings, uri).model_copy(update={"database": "untouched"})

    with pytest.raises(WorkspaceNotFound, match="TRUTHLOOP_DATABASE"):
        connect(own, create=False)

    with MongoClient(uri) as client:
        assert client["untouched"].list_collection_names() == []


def test_without_a_workspace_folder_nothing_is_started(settings: Settings, tmp_path: Path):
    with pytest.raises(WorkspaceNotFound, match="truthloop load"):
        connect(settings.model_copy(update={"home": tmp_path / ".truthloop"}), create=False)

    assert list(tmp_path.iterdir()) == []


def test_migrations_are_safe_twice_and_from_many_processes_at_once(store: Store):
    store.client.drop_database(store.database.name)
    failures: list[Exception] = []

    def migrate() -> None:
        try:
            migrations.migrate(store.database)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    migrations.migrate(store.database)

    assert not failures
    assert store[migrations.COLLECTION].count_documents({}) == len(migrations.STEPS)
    for name, keys in migrations.SOURCE_INDEXES.items():
        assert [(key, 1) for key in keys] in [list(index["key"].items()) for index in store[name].list_indexes()]
        options = store[name].options()
        assert options["changeStreamPreAndPostImages"] == {"enabled": True}


def test_a_collection_that_was_there_before_is_prepared_and_not_changed(store: Store):
    store.client.drop_database(store.database.name)
    documents = [{"_id": n, "image_id": "the same", "extra": {"kept": True}} for n in range(3)]
    store["metadata"].insert_many(documents)

    migrations.migrate(store.database)

    assert list(store["metadata"].find()) == documents


def test_a_workspace_of_a_newer_truthloop_is_refused(store: Store):
    store[migrations.COLLECTION].insert_one({"_id": 999, "name": "from the future"})

    with pytest.raises(DatabaseRefused, match="newer Truthloop"):
        migrations.migrate(store.database)


def test_the_validators_refuse_what_is_no_event(store: Store):
    with pytest.raises(DatabaseRefused), store.errors():
        store["truthloop.events"].insert_one({"_id": "1", "type": "not ours"})


def test_a_transaction_that_fails_leaves_nothing(store: Store):
    def work(session: object) -> None:
        store["metadata"].insert_one({"image_id": "a"}, session=session)  # type: ignore[arg-type]
        raise ValueError("stopped half way")

    with pytest.raises(ValueError, match="half way"):
        store.transaction(work)

    assert store["metadata"].count_documents({}) == 0


def test_an_address_cannot_weaken_what_is_promised(settings: Settings, with_password: int):
    uri = (
        f"mongodb://{USER}:correct%20horse@127.0.0.1:{with_password}/"
        "?replicaSet=company&readPreference=secondary&w=0&retryWrites=false"
    )
    with connect(using(settings, uri), create=True) as store:
        assert store.database.read_preference == ReadPreference.PRIMARY
        assert store.database.write_concern.document["w"] == "majority"
        assert store.client.options.retry_writes


def test_a_write_that_is_refused_says_why(store: Store):
    with pytest.raises(DatabaseRefused, match="Document failed validation"), store.errors():
        store["truthloop.events"].insert_many([{"_id": "1"}])
    with pytest.raises(DatabaseRefused), store.errors():
        store["metadata"].insert_one({"image_id": "x" * 17_000_000})


def test_a_server_that_moved_to_another_socket_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory() as short:  # pytest's own paths are too long for a socket
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        monkeypatch.setenv("TRUTHLOOP_HOME", str(tmp_path / ".truthloop"))
        monkeypatch.setattr("truthloop.store.connection.SELECTION_MS", 1000)
        own = load_settings()
        with connect(own, create=True) as store:
            store["metadata"].insert_one({"image_id": "a"})
            shutil.rmtree(short)  # as at logout
            embedded.stop(own.home)

            def works() -> bool:
                try:
                    with store.errors():
                        return store["metadata"].count_documents({}) == 1
                except DatabaseUnavailable:
                    return False

            wait_for(works)
        embedded.stop(own.home)
        Path(short).mkdir(exist_ok=True)
