"""What the event log holds."""

from typing import Any, Self

from pydantic import AwareDatetime, Field

from truthloop.answers import Answer

TYPE_PREFIX = "dev.truthloop."


class Event(Answer):
    """One change that happened, as `truthloop.events` stores it."""

    id: str = Field(description="A UUIDv7, made in the transaction of the change.")
    type: str = Field(description="`dev.truthloop.<entity>.<past participle>`.")
    source: str = Field(description="The path of the stage that made the change.")
    subject: str = Field(description="The id of the entity that changed.")
    time: AwareDatetime = Field(description="When it changed, UTC.")
    sequence: int = Field(ge=0, description="The entity's revision; it orders the events of one subject.")
    data: dict[str, Any] = Field(description="Ids, states and counts.")

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """The event of a document of the log."""
        return cls.model_validate({**document, "id": document["_id"]})

    def __hash__(self) -> int:
        """By the id alone: `data` can't be hashed, and equal events have equal ids."""
        return hash(self.id)

    @property
    def entity(self) -> str:
        """What kind of thing changed: `documents`, `job`."""
        return self.type.split(".")[-2]

    @property
    def verb(self) -> str:
        """What happened to it: `loaded`, `started`."""
        return self.type.split(".")[-1]


class EventPage(Answer):
    """A page of the log, in the order of the events' ids."""

    items: list[Event]
    next: str | None = Field(description="Give this as `after` for the next page; null on the last.")
