"""An event as a line that a person reads."""

from collections.abc import Callable, Mapping
from typing import Any

from truthloop.events.documents import Event

# What people call an entity, where its name alone doesn't say it.
NOUNS = {"job": "Inference job"}


def text(event: Event) -> str:
    """One line: what changed, what happened to it and, where there is one, its state after it.

    Control characters in names that came from outside are shown as `?`, so that they can't steer a terminal.
    """
    noun = NOUNS.get(event.entity, event.entity.replace("_", " ").capitalize())
    line = f"{noun} (id: {event.subject}) {event.verb.replace('_', ' ')}"
    tell = _OUTCOMES.get(event.entity, _state)
    outcome = tell(event.data)
    whole = f"{line}: {outcome}" if outcome else line
    return "".join(character if character.isprintable() else "?" for character in whole)


def _state(data: dict[str, Any]) -> str:
    return str(data.get("state", ""))


def _loaded(data: dict[str, Any]) -> str:
    parts = [f"{_count(data, 'new')} into {data.get('collection', '?')} from {data.get('file', '?')}"]
    if data.get("replaced"):
        parts.append(f"{_count(data, 'replaced')} replaced")
    if data.get("already_there"):
        parts.append(f"{_count(data, 'already_there')} there already")
    if data.get("conflicts"):
        parts.append(f"{_count(data, 'conflicts')} in conflict")
    parts.append(f"{_count(data, 'refused')} refused")
    if data.get("complete") is False:
        parts.append("incomplete")
    return ", ".join(parts)


def _built(data: dict[str, Any]) -> str:
    return (
        f"{_count(data, 'entries')} of {_count(data, 'images')} images, {_count(data, 'unseen')} unseen, "
        f"{_count(data, 'refused')} refused"
    )


def _ingested(data: dict[str, Any]) -> str:
    size = f"{data.get('width', '?')} x {data.get('height', '?')} pixels"
    return f"{size} from {data['source']}" if "source" in data else size


def _batch(data: dict[str, Any]) -> str:
    told = f"{_state(data)}, {_count(data, 'done')} of {_count(data, 'total')} images"
    return f"{told}, {_count(data, 'refused')} refused" if data.get("refused") else told


def _count(data: dict[str, Any], name: str) -> str:
    return f"{data.get(name, 0):,}"


# What people want to know of an event, where it is more than the entity's state.
_OUTCOMES: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "documents": _loaded,
    "image": _ingested,
    "dataset": _built,
    "batch": _batch,
}
