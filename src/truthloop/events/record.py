"""Writing an event into the log, in the transaction of the change that it tells of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import uuid_utils
from pymongo.client_session import ClientSession

from truthloop.events.documents import TYPE_PREFIX
from truthloop.store.connection import Store

COLLECTION = "truthloop.events"


def record(
    store: Store,
    session: ClientSession,
    *,
    type: str,  # noqa: A002 - CloudEvents' own name
    subject: str,
    source: str,
    sequence: int,
    data: dict[str, Any],
) -> str:
    """Writes one event; called inside the function of the transaction that makes the change.

    Args:
        store: where the log is.
        session: the transaction's session.
        type: entity and past participle, such as `documents.loaded`.
        subject: the entity's id; order is promised within one subject.
        source: the stage's path, such as `/ingest`.
        sequence: the entity's revision, from 1, ascending.
        data: small: ids, states and counts.

    Returns:
        The event's id, a UUIDv7 made here, so that each attempt of a retried transaction has its own.

    Source: CloudEvents 1.0.2, required attributes.
    """
    return record_all(
        store, session, [NewEvent(type=type, subject=subject, sequence=sequence, data=data)], source=source
    )[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event to be written; its fields are those of `record`."""

    type: str
    subject: str
    sequence: int
    data: dict[str, Any]


def record_all(store: Store, session: ClientSession, events: Sequence[NewEvent], *, source: str) -> list[str]:
    """Writes several events in one operation, for changes of one transaction; see `record`.

    Returns:
        Their ids, in order.
    """
    documents = [
        {
            "_id": str(uuid_utils.uuid7()),
            "type": TYPE_PREFIX + event.type,
            "source": source,
            "subject": event.subject,
            "time": datetime.now(UTC),
            "sequence": event.sequence,
            "data": event.data,
        }
        for event in events
    ]
    if documents:
        store[COLLECTION].insert_many(documents, session=session)
    return [str(document["_id"]) for document in documents]
