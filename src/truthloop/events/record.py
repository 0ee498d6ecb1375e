"""Writing an event into the log, in the transaction of the change that it tells of."""

from datetime import UTC, datetime
from typing import Any

import uuid_utils
from pymongo.client_session import ClientSession

from truthloop.store.connection import Store

COLLECTION = "truthloop.events"
TYPE_PREFIX = "dev.truthloop."


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
    id = str(uuid_utils.uuid7())  # noqa: A001 - CloudEvents' own name
    store[COLLECTION].insert_one(
        {
            "_id": id,
            "type": TYPE_PREFIX + type,
            "source": source,
            "subject": subject,
            "time": datetime.now(UTC),
            "sequence": sequence,
            "data": data,
        },
        session=session,
    )
    return id
