"""What the ids of events tell about their time, and which of them a stream has passed on already. Pure.

An event's id is a UUIDv7 made inside the transaction of its change, and a transaction lives for 60 s at most. So
whoever has seen an event has seen all that were made more than 60 s before it, or will see them on the change
stream that is open now. Rescanning from 120 s before it leaves the other 60 s for clocks that disagree.

Source: RFC 9562, section 5.7 (UUID version 7: 48 bits of milliseconds since 1970, in front).
"""

import re

from truthloop.errors import CursorRefused

RESCAN_MS = 120_000
# Twice the rescan: what a rescan can meet again is remembered also when ids came out of order.
REMEMBERED_MS = 2 * RESCAN_MS

ID_PATTERN = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_ID = re.compile(ID_PATTERN)


def checked_cursor(after: str) -> str:
    """The cursor, if it has the form of an event's id.

    Raises:
        CursorRefused: it hasn't.
    """
    if _ID.fullmatch(after) is None:
        raise CursorRefused(
            f"{after[:64]!r} is no event's id. Give the id of the last event you have seen, or leave it out.",
            errors={"after": "not the id of an event (a UUID of version 7)"},
        )
    return after


def id_time_ms(id: str) -> int:  # noqa: A002 - CloudEvents' own name
    """When an event's id was made, in milliseconds since 1970.

    >>> id_time_ms("01890a5d-ac96-774b-bcce-b302099a8057")
    1688096058518
    """
    return int(id[:8] + id[9:13], 16)


def first_id_at(time_ms: int) -> str:
    """The least id that can have been made at that time or later.

    >>> first_id_at(1688096058518)
    '01890a5d-ac96-7000-8000-000000000000'
    """
    digits = f"{max(time_ms, 0):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def rescan_from(after: str, *, now_ms: int) -> str:
    """Where to begin reading the log again so that nothing after the event `after` is missed.

    Args:
        after: the id of the last event seen.
        now_ms: milliseconds since 1970; an id from a clock that runs ahead must not skip what others write.
    """
    return first_id_at(min(id_time_ms(after), now_ms) - RESCAN_MS)


class PassedOn:
    """The ids that a stream has passed on lately, so that it repeats none of them after a rescan.

    It forgets ids made more than four minutes before the newest: no rescan reaches back that far.
    """

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}
        self.newest_ms = 0  # when the newest of them was made

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: str) -> bool:  # noqa: A002 - CloudEvents' own name
        return id in self._ids

    def add(self, id: str, *, now_ms: int) -> bool:  # noqa: A002 - CloudEvents' own name
        """Notes an id; false if it was there already."""
        if id in self._ids:
            return False
        self._ids[id] = None
        self.newest_ms = max(self.newest_ms, min(id_time_ms(id), now_ms))
        while id_time_ms(oldest := next(iter(self._ids))) < self.newest_ms - REMEMBERED_MS:
            del self._ids[oldest]
        return True
