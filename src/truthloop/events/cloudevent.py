"""An event as CloudEvents 1.0 has it, for everything outside of the log."""

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from truthloop.errors import InputRefused
from truthloop.events.documents import TYPE_PREFIX, Event
from truthloop.events.passed_on import checked_cursor

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


def from_cloudevent_json(message: bytes) -> Event:
    """The event of what `to_cloudevent_json` gave.

    Raises:
        InputRefused: it is no CloudEvent, or none of Truthloop's.
    """
    try:
        read = JSONFormat().read(None, message)
        if read.get_specversion() != "1.0":
            raise InputRefused(f"This is a CloudEvent of version {read.get_specversion()}, not 1.0.")
        return Event.model_validate(
            {
                "id": checked_cursor(read.get_id()),
                "type": _own_type(read.get_type()),
                "source": read.get_source(),
                "subject": read.get_subject(),
                "time": read.get_time(),
                "sequence": int(read.get_extension("sequence")),
                "data": read.get_data(),
            }
        )
    except InputRefused:
        raise
    except Exception as error:  # anybody can write into a topic, and the parser names no errors of its own
        raise InputRefused(
            f"This is no event of Truthloop ({type(error).__name__}: {str(error)[:200]})."
        ) from error


def _own_type(type_: str) -> str:
    if type_.count(".") < 3 or not type_.startswith(TYPE_PREFIX):
        raise InputRefused(f"This is no event of Truthloop: its type is {type_[:100]!r}.")
    return type_
