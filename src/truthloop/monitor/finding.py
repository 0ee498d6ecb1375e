"""What `truthloop doctor` says of one thing that it has looked at."""

from typing import Literal

from pydantic import Field

from truthloop.answers import Answer


class Finding(Answer):
    """One thing that was looked at."""

    level: Literal["ok", "warning", "failure"]
    name: str
    text: str
    mend: str = ""
    figures: dict[str, int | float] = Field(default={}, description="The numbers in the text, for programs.")


def lasting(seconds: float) -> str:
    """A span of time for people.

    >>> lasting(7.4), lasting(600), lasting(9_000), lasting(200_000)
    ('7 s', '10 min', '2 h', '2 days')
    """
    for unit, length, up_to in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < up_to:
            return f"{max(seconds, 0) / length:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days"


def sized(size: int) -> str:
    """A number of bytes for people.

    >>> sized(0), sized(1_500), sized(2_500_000), sized(7_200_000_000)
    ('0.00 MB', '0.00 MB', '2.50 MB', '7.20 GB')
    """
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.2f} MB"
