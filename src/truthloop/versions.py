"""How versions compare: one rule for models, audit tasks and annotation tasks."""

from functools import lru_cache
from typing import TypeAlias

VersionKey: TypeAlias = tuple[tuple[tuple[int, int, int, str], ...], str]

_END = (0, 0, 0, "")  # nothing but zeros from here on


@lru_cache(maxsize=4096)  # a workspace has few versions and compares them once for each document
def version_key(version: str) -> VersionKey:
    """The key by which a version sorts; the greater is the newer.

    Split at `.`: a part of ASCII digits is that number, any other is -1. Parts compare one by one, missing
    ones are 0. Versions with equal parts (`1.0` and `1.0.0`, `1.a` and `1.b`) compare by their text, so the
    order is total: two different texts are never equal.

    >>> sorted(["10.0.0", "9.0.0", "9.0", "9.beta"], key=version_key)
    ['9.beta', '9.0', '9.0.0', '10.0.0']
    """
    # Since what is missing is 0, only the parts that differ from 0 count, and where they stand: a number lifts
    # a version above one with zeros there, the more the earlier it comes; a -1 lowers it likewise. Numbers
    # compare as (digits, text), because a text of 5000 digits is more than int() accepts.
    steps: list[tuple[int, int, int, str]] = []
    for place, part in enumerate(version.split(".")):
        if not (part.isascii() and part.isdigit()):
            steps.append((-1, place, 0, ""))
        elif digits := part.lstrip("0"):
            steps.append((1, -place, len(digits), digits))
    return (*steps, _END), version
