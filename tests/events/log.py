"""Writing into the log as the stages do."""

from truthloop.events.passed_on import first_id_at, id_time_ms
from truthloop.events.record import COLLECTION, record
from truthloop.store.connection import Store


def write(store: Store, subject: str, *, sequence: int = 1, **data: object) -> str:
    """One event in a transaction of its own; returns its id."""
    return store.transaction(
        lambda session: record(
            store, session, type="documents.loaded", subject=subject, source="/tests", sequence=sequence, data=data
        )
    )


def write_many(store: Store, subjects: list[str]) -> list[str]:
    """Events of one transaction."""

    def work(session):
        return [
            record(store, session, type="documents.loaded", subject=subject, source="/tests", sequence=1, data={})
            for subject in subjects
        ]

    return store.transaction(work)


def backdated(store: Store, subject: str, seconds: float) -> str:
    """Writes an event as if its id had been made before, as a slow transaction's is."""
    written = write(store, subject)
    document = store[COLLECTION].find_one_and_delete({"_id": written})
    document["_id"] = first_id_at(id_time_ms(written) - int(seconds * 1000))[:-12] + written[-12:]
    store[COLLECTION].insert_one(document)
    return document["_id"]
