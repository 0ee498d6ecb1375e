"""An event as CloudEvents 1.0 has it, for everything outside of the log."""

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from truthloop.events.documents import Event

CONTENT_TYPE = JSONFormat.CONTENT_TYPE
SEQUENCE_DIGITS = 10


def to_cloudevent(event: Event) -> CloudEvent:
    """The event with its extensions.

    `sequence` is a text that sorts as the numbers do, as its extension asks; `partitionkey` keeps the events of
    one subject in one partition.

    Source: CloudEvents 1.0.2; its extensions Sequence and Partitioning.
    """
    return CloudEvent(
        attributes={
            "specversion": "1.0",
            "id": event.id,
            "type": event.type,
            "source": event.source,
            "subject": event.subject,
            "time": event.time,
            "datacontenttype": "application/json",
            "partitionkey": event.subject,
            "sequence": f"{event.sequence:0{SEQUENCE_DIGITS}d}",
        },
        data=event.data,
    )


def to_cloudevent_json(event: Event) -> bytes:
    """The event as one line of structured-mode CloudEvents JSON."""
    return JSONFormat().write(to_cloudevent(event))
