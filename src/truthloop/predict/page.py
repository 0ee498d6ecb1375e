"""What the lists of jobs and of batches share: the size of a page, and its cursor."""

from truthloop.errors import CursorRefused, InputRefused
from truthloop.events.passed_on import checked_cursor

MAX_PAGE = 1000


def check_limit(limit: int) -> None:
    """Refuses a page of a size that no list has.

    Raises:
        InputRefused: `limit` isn't between 1 and `MAX_PAGE`.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InputRefused(
            f"limit is {limit}; give 1 to {MAX_PAGE}.", errors={"limit": f"must be 1 to {MAX_PAGE}"}
        )


def checked_job_cursor(after: str) -> str:
    """The cursor, if it has the form of the id of a job or of a batch.

    Raises:
        CursorRefused: it hasn't.
    """
    try:
        return checked_cursor(after)
    except CursorRefused:
        raise CursorRefused(
            f"{after[:64]!r} isn't the id that a page of this list ends with. Give the `next` of the page before.",
            errors={"after": "not the `next` of a page"},
        ) from None
