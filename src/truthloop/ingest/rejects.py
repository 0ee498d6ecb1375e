"""The rejects file: every document that was refused, with its place and reason, one a line."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from bson import json_util

from truthloop.ingest.documents import Fault

# A document is kept whole up to so many characters; of one that is longer, or too odd for JSON, the begin is kept.
_WHOLE, _BEGIN = 64 * 1024, 2000


def rejected(
    *,
    file: str,
    collection: str,
    index: int,
    faults: Sequence[Fault],
    line: int | None = None,
    document: Any = None,
    stored: Any = None,
    excerpt: str | None = None,
) -> str:
    """One refused document, as a line.

    Args:
        file: the file that it is from.
        collection: where it was to go.
        index: its number in the file, from 0.
        faults: at least one.
        line: in the file, from 1, where it is known.
        document: what was read, if it could be.
        stored: what is stored under the same key, in a conflict.
        excerpt: the begin of its text, where it couldn't be read.
    """
    entry: dict[str, Any] = {
        "file": file,
        "collection": collection,
        "place": place(index, faults[0].place),
        "reason": faults[0].reason,
    }
    if len(faults) > 1:
        entry["faults"] = [f"{place(index, fault.place)}: {fault.reason}" for fault in faults]
    if line is not None:
        entry["line"] = line
    if excerpt is not None:
        entry["text"] = excerpt
    else:
        entry["document"] = document
    if stored is not None:
        entry["stored"] = stored
    for name, instead in (("document", "text"), ("stored", "stored_text")):
        if name in entry and not _can_be_kept(entry[name]):
            entry[instead] = _begin(entry.pop(name))
    return json_util.dumps(entry, json_options=_OPTIONS) + "\n"


def place(index: int, within: str) -> str:
    """A place in a file: `[3].bboxes[0].left`."""
    return f"[{index}].{within}" if within and not within.startswith("[") else f"[{index}]{within}"


_OPTIONS = json_util.RELAXED_JSON_OPTIONS
_ENCODER = json.JSONEncoder(default=lambda value: json_util.default(value, json_options=_OPTIONS))


def _can_be_kept(value: Any) -> bool:
    """Whether a value can be written, and in not too many characters; doesn't make more than that of them."""
    characters = 0
    try:
        for piece in _ENCODER.iterencode(value):
            characters += len(piece)
            if characters > _WHOLE:
                return False
        json_util.dumps(value, json_options=_OPTIONS)
    except (RecursionError, TypeError, ValueError, OverflowError):
        return False
    return True


def _begin(value: Any) -> str:
    """The begin of a value's text, also where it is nested without end."""
    text = ""
    with contextlib.suppress(RecursionError, TypeError, ValueError, OverflowError):
        for piece in _ENCODER.iterencode(value):
            text += piece
            if len(text) > _BEGIN:
                break
    return text[:_BEGIN]
