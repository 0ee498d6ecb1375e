"""Writing into the log as the stages do."""

from truthloop.events.record import record
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
