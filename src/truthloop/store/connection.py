"""The way to MongoDB: one `Store` a process, from the embedded server or from TRUTHLOOP_MONGODB_URI."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeGuard, TypeVar

import pymongo
from bson import Timestamp
from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)
from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from truthloop.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    DiskFull,
    SettingRefused,
    TruthloopError,
    WorkspaceNotFound,
)
from truthloop.settings import Settings
from truthloop.store import embedded, migrations
from truthloop.store.supervisor import MIN_FREE_BYTES

Document = dict[str, Any]
T = TypeVar("T")

# MongoDB 6.0, the first with the pre-images that tell which image a deleted document belonged to.
OLDEST_WIRE_VERSION = 17
# How long a transaction may take with all of its repetitions. PyMongo's own limit of two minutes would hold up a
# request, and its thread, while there is no primary, or while what a killed process has locked isn't free yet.
TRANSACTION_SECONDS = 20.0
# MongoDB's code for a change of what another transaction has changed since this one began.
_WRITE_CONFLICT = 112
# How long an operation waits for a server: an election or a restart of the embedded server takes a few seconds.
SELECTION_MS = 10_000


class Locked(Exception):
    """Another transaction has changed what this one was to change, and may not have ended yet."""


class Store:
    """The workspace's database, with the embedded server held up for as long as it is open.

    Safe to share between threads. Close it, or use it as a context manager.
    """

    def __init__(self, settings: Settings, uri: str, use: embedded.Use | None) -> None:
        self.settings = settings
        self._use = use
        self._uri = uri
        self._keeper = _KeepsServerUp(self._revive)
        self._reconnecting = threading.Lock()
        self._noting = threading.Lock()
        self._connect()

    @property
    def embedded_uri(self) -> str | None:
        """The embedded server's address, for other programs of this machine's user; None for another server."""
        return self._uri if self._use is not None else None

    def _connect(self) -> None:
        self.client: MongoClient[Document] = MongoClient(
            self._uri,
            appname="truthloop",
            tz_aware=True,
            # What other systems wrote need not be what Python can hold; it must not stop those who read it.
            datetime_conversion="DATETIME_AUTO",
            unicode_decode_error_handler="replace",
            serverSelectionTimeoutMS=SELECTION_MS,
            # What is promised here stands on these, so an address can't weaken them.
            readPreference="primary",
            retryReads=True,
            retryWrites=True,
            w="majority",
            event_listeners=[self._keeper] if self._use is not None else [],
        )
        self.database: Database[Document] = self.client[self.settings.database]
        # When the last transaction was that didn't wait to be lasting, by the clock that this client has seen.
        self._seen: Timestamp | None = None

    def _revive(self) -> None:
        assert self._use is not None
        if self._use.revive():
            self._reconnect()

    def _reconnect(self) -> None:
        """Takes up the server's address where it has changed, as after its socket's folder was removed."""
        assert self._use is not None
        with self._reconnecting:
            if self._use.uri != self._uri:
                old, self._uri = self.client, self._use.uri
                self._connect()
                old.close()

    def __getitem__(self, name: str) -> Collection[Document]:
        """The collection of that name."""
        return self.database[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections and lets go of the embedded server; twice does no harm."""
        self.client.close()
        if self._use is not None:
            self._use.release()

    def transaction(
        self,
        work: Callable[[ClientSession], T],
        *,
        is_lasting: bool = True,
        patience_seconds: float | None = None,
    ) -> T:
        """Runs `work` in one transaction: all of its writes, or none.

        Args:
            work: gets the session, which each of its operations must carry. It may run more than once, so it
                touches nothing but the database.
            is_lasting: whether it returns only when nothing can undo it any more. Without, a crash or a failover
                may undo it as a whole; a later lasting transaction that stands on it is undone with it, or fails.
                Later transactions of this store see it; untold, the server may let one begin as of before it.
            patience_seconds: how long it is tried again while another transaction holds what it changes, which may
                be one that a killed process has left and that the server ends only after a while. None: as long as
                all of it may take.

        Raises:
            Locked: patience is at its end.
            DatabaseUnavailable: as `errors`, or it can't be done within 20 s. Then it may yet have been done.
            DatabaseRefused, DiskFull: as `errors`.
        """
        began = time.monotonic()

        def attempt(session: ClientSession) -> T:
            try:
                return work(session)
            except OperationFailure as error:
                is_impatient = patience_seconds is not None and time.monotonic() - began >= patience_seconds
                if is_impatient and error.code == _WRITE_CONFLICT:
                    raise Locked from error
                raise

        with self.errors(), pymongo.timeout(TRANSACTION_SECONDS), self.client.start_session() as session:
            if self._seen is not None:
                session.advance_operation_time(self._seen)
            done = session.with_transaction(
                attempt,
                read_concern=ReadConcern("snapshot"),
                write_concern=WriteConcern("majority" if is_lasting else 1),
            )
            if not is_lasting and (now := session.operation_time) is not None:
                with self._noting:
                    self._seen = now if self._seen is None else max(self._seen, now)
            return done

    def find_lasting(
        self,
        name: str,
        id: object,  # noqa: A002 - MongoDB's own name, but for the underscore
        *,
        unless: Callable[[Document | None], bool] = lambda _: False,
    ) -> Document | None:
        """A document, or that there is none, once no failover can take that back any more.

        What a primary shows may be known to it alone until a majority has it. Reading only what a majority has
        would not do either: a new primary, for a moment, knows of less than was acknowledged before.

        Args:
            name: of the collection.
            id: of the document.
            unless: tells of what the primary shows whether it is enough, without waiting.

        Raises:
            DatabaseUnavailable: as `errors`, or a majority doesn't have it within 20 s.
            DatabaseRefused: as `errors`.
        """
        with self.errors(), pymongo.timeout(TRANSACTION_SECONDS), self.client.start_session() as session:
            found = self[name].find_one({"_id": id}, session=session)
            if unless(found):
                return found
            # The session has this wait until a majority has all that the primary had at the first read.
            by_majority = self[name].with_options(read_concern=ReadConcern("majority"))
            return by_majority.find_one({"_id": id}, session=session)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns PyMongo's errors into ours; stands around each place that calls PyMongo.

        Raises:
            DatabaseUnavailable: no server answers, or it went away in the middle.
            DatabaseRefused: the server says no, or a document can't be written or read.
            DiskFull: the server has no room left.
        """
        try:
            yield
        except (PyMongoError, BSONError) as error:
            if self._use is not None and isinstance(error, ConnectionFailure):
                self._use.ensure()  # raises what really is wrong with the server, such as a full disk
                self._reconnect()
                raise DatabaseUnavailable(
                    "The embedded MongoDB had gone away; it runs again now. Try again."
                ) from error
            raise translated(error, self.settings) from error


def connect(settings: Settings, *, create: bool) -> Store:
    """Opens the workspace's database and brings its collections and indexes up to date.

    Args:
        settings: which server, which database, which folder.
        create: whether a workspace that isn't there yet is made.

    Raises:
        WorkspaceNotFound: there is none and `create` is false.
        SettingRefused: TRUTHLOOP_MONGODB_URI can't be understood.
        DatabaseUnavailable, DatabaseRefused, EmbeddedServerFailed, DiskFull: as their texts say.
    """
    if settings.mongodb_uri is not None:
        return _connect_to(settings.mongodb_uri.get_secret_value(), settings, None, create=create)
    if not create and not (settings.home / "mongodb").is_dir():
        raise WorkspaceNotFound(
            f"There is no workspace at {settings.home}. Make one with `truthloop load PATH`, "
            "`truthloop ingest PATH` or `truthloop sample`, or name another folder in TRUTHLOOP_HOME."
        )
    use = embedded.use(settings.home, idle_seconds=settings.mongod_idle_seconds)
    try:
        return _connect_to(use.uri, settings, use, create=True)
    except BaseException:
        use.release()
        raise


def is_made(settings: Settings, *, seconds: float) -> bool:
    """Whether the workspace is there, without making anything: for who waits until it is.

    Args:
        settings: which server, which database, which folder.
        seconds: how long a MongoDB at TRUTHLOOP_MONGODB_URI may take to answer.

    Raises:
        DatabaseUnavailable: it doesn't, or has no primary.
        SettingRefused, DatabaseRefused: as for `connect`.
    """
    if settings.mongodb_uri is None:
        return (settings.home / "mongodb").is_dir()
    try:
        client: MongoClient[Document] = MongoClient(
            settings.mongodb_uri.get_secret_value(),
            appname="truthloop",
            serverSelectionTimeoutMS=round(seconds * 1000),
            readPreference="primary",
        )
        with client, pymongo.timeout(seconds):
            return migrations.are_there(client[settings.database])
    except (InvalidURI, ConfigurationError, ValueError) as error:
        raise SettingRefused(f"TRUTHLOOP_MONGODB_URI can't be used: {error}.") from error
    except PyMongoError as error:
        raise translated(error, settings) from error


def _connect_to(uri: str, settings: Settings, use: embedded.Use | None, *, create: bool) -> Store:
    try:
        store = Store(settings, uri, use)
    except (InvalidURI, ConfigurationError, ValueError) as error:
        raise SettingRefused(f"TRUTHLOOP_MONGODB_URI can't be used: {error}.") from error
    try:
        _check_topology(store.client.admin.command("hello"))
        if not create and not migrations.are_there(store.database):
            raise WorkspaceNotFound(
                f"The database {settings.database} is no workspace yet. Make one with `truthloop load PATH`, "
                "`truthloop ingest PATH` or `truthloop sample`, or name another in TRUTHLOOP_DATABASE."
            )
        migrations.migrate(store.database)
    except PyMongoError as error:
        store.client.close()
        if isinstance(error, ConfigurationError):  # found only on connecting, as with a name that DNS lacks
            raise SettingRefused(f"TRUTHLOOP_MONGODB_URI can't be used: {error}.") from error
        raise translated(error, settings) from error
    except TruthloopError:
        store.client.close()
        raise
    return store


def _check_topology(hello: Document) -> None:
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise DatabaseRefused(
            "TRUTHLOOP_MONGODB_URI is a standalone MongoDB, which has neither transactions nor change streams. "
            "Start it with --replSet NAME and run rs.initiate() once, or leave the variable out to use the "
            "embedded server."
        )
    if hello["maxWireVersion"] < OLDEST_WIRE_VERSION:
        raise DatabaseRefused(
            "TRUTHLOOP_MONGODB_URI is a MongoDB older than 6.0, which doesn't tell what was deleted. "
            "Use 6.0 or newer."
        )


def translated(error: PyMongoError | BSONError, settings: Settings) -> TruthloopError:
    """Our error for one of PyMongo's, with what the user can do."""
    where = "TRUTHLOOP_MONGODB_URI" if settings.mongodb_uri is not None else "the embedded MongoDB"
    # Behind these PyMongo shows its own state and the whole answer, which help nobody who reads one line.
    said = error.details["writeErrors"][0]["errmsg"] if _has_write_errors(error) else str(error)
    text = said.split(", full error:")[0].split(" (configured timeouts")[0].split(", Timeout:")[0]
    if getattr(error, "code", None) == 14031 or "No space left on device" in text:
        return DiskFull(f"No room is left for the data of {where}. Free some space, then try again.")
    if isinstance(error, ConnectionFailure) or (isinstance(error, PyMongoError) and error.timeout):
        if (
            settings.mongodb_uri is None
            and settings.home.is_dir()
            and shutil.disk_usage(settings.home).free < MIN_FREE_BYTES
        ):
            return DiskFull(f"The disk of {settings.home} is full. Free some space, then try again.")
        hint = (
            "Check that it runs and can be reached from here"
            if settings.mongodb_uri is not None
            else "`truthloop doctor` says what is wrong with it"
        )
        return DatabaseUnavailable(f"No answer from {where} ({text[:300]}). {hint}, then try again.")
    if isinstance(error, OperationFailure) and error.code in (18, 8000):
        return DatabaseRefused(f"{where} refuses the user or the password. Correct them in the address.")
    if isinstance(error, OperationFailure) and error.code == 13:
        return DatabaseRefused(
            f"The user of {where} lacks a right: {text[:300]}. Grant it readWrite and dbAdmin on the database "
            f"{settings.database}."
        )
    return DatabaseRefused(f"{where} answered with an error: {text[:500]}.")


def _has_write_errors(error: PyMongoError | BSONError) -> TypeGuard[BulkWriteError]:
    return isinstance(error, BulkWriteError) and bool(error.details.get("writeErrors"))


class _KeepsServerUp(ServerHeartbeatListener):
    """Starts the embedded server again when a long-lived process finds it gone."""

    def __init__(self, revive: Callable[[], None]) -> None:
        self._revive = revive
        self._busy = threading.Lock()

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        pass

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        pass

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:  # noqa: ARG002
        # On a thread of its own: PyMongo's monitor must go on looking while the server comes up.
        if self._busy.acquire(blocking=False):
            threading.Thread(target=self._run, name="truthloop-mongod", daemon=True).start()

    def _run(self) -> None:
        try:
            with suppress(TruthloopError):  # the operation that waits for the server reports what is wrong
                self._revive()
        finally:
            self._busy.release()
