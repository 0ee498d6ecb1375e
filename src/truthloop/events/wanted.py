"""Which events a reader wants. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from truthloop.events.documents import TYPE_PREFIX, Event

# What can happen to each entity, for people who ask for something else.
KNOWN: Mapping[str, Sequence[str]] = {
    "batch": ("created", "started", "progressed", "delayed", "completed", "failed", "cancelled", "resumed"),
    "dataset": ("built",),
    "documents": ("loaded",),
    "image": ("ingested",),
    "job": (
        *("created", "updated", "queued", "started", "requeued"),
        *("succeeded", "failed", "cancelled", "deleted"),
    ),
}


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

    def unknown(self) -> str | None:
        """What is to be said where no event can be wanted: which entities or types there are; else None.

        >>> Wanted(entity="banana").unknown()
        "There is no entity 'banana'; there are batch, dataset, documents, image, job."
        """
        types = [f"{entity}.{verb}" for entity, verbs in KNOWN.items() for verb in verbs]
        if self.entity is not None and self.entity not in KNOWN:
            return f"There is no entity {self.entity[:64]!r}; there are {', '.join(KNOWN)}."
        if self.type is not None and self.type.removeprefix(TYPE_PREFIX) not in types:
            return f"There is no type {self.type[:64]!r}; there are {', '.join(types)}."
        return None
