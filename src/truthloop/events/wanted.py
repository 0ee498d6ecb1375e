"""Which events a reader wants. Pure."""

from dataclasses import dataclass

from truthloop.events.documents import TYPE_PREFIX, Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """All events, or only those of an entity, a subject, a type."""

    entity: str | None = None  # such as `job`
    subject: str | None = None  # the entity's id
    type: str | None = None  # such as `job.started`, with or without `dev.truthloop.`

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return (self.entity, self.subject, self.type) != (None, None, None)

    def __call__(self, event: Event) -> bool:
        """Whether this event is wanted."""
        return (
            self.entity in (None, event.entity)
            and self.subject in (None, event.subject)
            and self.type in (None, event.type, event.type.removeprefix(TYPE_PREFIX))
        )
