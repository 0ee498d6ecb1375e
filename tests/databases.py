"""Databases that tests take by turns: to empty one takes a tenth of the time that it takes to make one."""

import uuid
from collections import deque
from typing import Any

from pymongo import MongoClient, WriteConcern

from truthloop.store import embedded, migrations
from truthloop.store.connection import Store

# One that was given back rests while others are taken: what a test left running, against the rules, is seen by
# then.
RESTING = 3
# With more documents than this a database is dropped sooner than emptied.
FEW_DOCUMENTS = 3000
# A process that is killed in a transaction leaves it to the server, with a lock on what it wrote, for so long; 60
# is MongoDB's default.
TRANSACTION_SECONDS = 10


class Databases:
    """Those of one server, each as in a workspace that was just made, or taken by one test."""

    def __init__(self) -> None:
        self._use: embedded.Use | None = None  # without it the server goes while other tests don't need it
        self._client: MongoClient[dict[str, Any]] | None = None
        self._new: dict[str, dict[str, Any]] = {}  # what each looked like when it was made
        self._resting: deque[str] = deque()

    def take(self) -> str:
        """The name of an empty one, which isn't there yet if none has rested enough."""
        if self._client is not None and self._use is not None and len(self._resting) > RESTING:
            self._use.ensure()  # a test may have stopped it
            name = self._resting.popleft()
            if self._documents(name) == len(migrations.STEPS):
                return name
            self._drop(name)
        return f"test-{uuid.uuid4().hex[:12]}"

    def made(self, store: Store) -> None:
        """Notes what the store's database looks like before the test has it."""
        if self._client is None:
            self._use = embedded.use(store.settings.home, idle_seconds=store.settings.mongod_idle_seconds)
            self._client = MongoClient(self._use.uri)
            self._client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": TRANSACTION_SECONDS})
        name = store.settings.database
        if name not in self._new:
            self._new[name] = self._looks(name)

    def give_back(self, name: str) -> None:
        """Empties it for the next test, or drops it where a test changed more than documents."""
        assert self._client is not None
        looks = self._looks(name)
        if looks != self._new[name] or self._documents(name) > FEW_DOCUMENTS:
            self._drop(name)
            return
        database = self._client.get_database(name, write_concern=WriteConcern(1))
        for collection in looks["collections"]:
            done = range(1, len(migrations.STEPS) + 1) if collection == migrations.COLLECTION else ()
            database[collection].delete_many({"_id": {"$nin": [*done]}})
        self._resting.append(name)

    def close(self) -> None:
        """Ends the connection; the databases go with their server."""
        if self._client is not None and self._use is not None:
            self._client.close()
            self._use.release()

    def _drop(self, name: str) -> None:
        assert self._client is not None
        self._client.drop_database(name)
        del self._new[name]

    def _looks(self, name: str) -> dict[str, Any]:
        """Its collections with their options and identities, and how many indexes they have."""
        assert self._client is not None
        return {
            "collections": {each["name"]: each for each in self._client[name].list_collections()},
            "indexes": self._client[name].command("dbStats")["indexes"],
        }

    def _documents(self, name: str) -> int:
        assert self._client is not None
        return int(self._client[name].command("dbStats")["objects"])
