"""What Truthloop answers: frozen values that are the same in Python, as JSON and over HTTP."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum
from html import escape
from typing import Any

from pydantic import BaseModel, ConfigDict

# A notebook's page is no place for more; the values themselves are all there.
MAX_ROWS = 100


class Answer(BaseModel):
    """A frozen answer; a notebook shows it as a table.

    One with a list named `items` that isn't empty is a table of these, any other a table of its fields.
    """

    model_config = ConfigDict(frozen=True)

    def _repr_html_(self) -> str:
        items = getattr(self, "items", None)
        if items and isinstance(items, list | tuple):
            rows = [_flat(item) for item in items[:MAX_ROWS]]
            more = f"<p>… and {len(items) - MAX_ROWS:,} more</p>" if len(items) > MAX_ROWS else ""
            return _table(rows) + more
        return _table([{"": name} | {"value": value} for name, value in _flat(self).items()])


def _flat(value: object, name: str = "") -> dict[str, object]:
    """The leaves of nested answers by their path: `corrected.fraction`, `model_versions[0].model_version`."""
    if isinstance(value, BaseModel):
        parts: Iterable[tuple[str, object]] = (
            (f".{key}", getattr(value, key)) for key in type(value).model_fields
        )
    elif isinstance(value, Mapping):
        parts = ((f".{key}", part) for key, part in value.items())
    elif isinstance(value, list | tuple) and value and isinstance(value[0], BaseModel):
        parts = ((f"[{index}]", part) for index, part in enumerate(value))
    else:
        return {name: value}
    flat: dict[str, object] = {}
    for key, part in parts:
        flat |= _flat(part, f"{name}{key}".removeprefix("."))
    return flat


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_text(row.get(name)))}</td>" for name in columns) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: object) -> str:
    match value:
        case None:
            return "–"
        case bool() | str():
            return str(value.value) if isinstance(value, Enum) else str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S} UTC"
        case list() | tuple():
            return ", ".join(_text(part) for part in value)
        case _:
            return str(value)
