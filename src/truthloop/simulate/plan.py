"""What a simulated client does with each of its jobs. Pure, and the same for the same seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from truthloop.predict.documents import JobState


class Ending(StrEnum):
    """How a client lets a job end."""

    RUN = "run"
    CANCEL = "cancel"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done with one job."""

    number: int  # from 0
    model: str
    picture: int  # which of the pictures
    at_once: bool  # whether one request makes and executes it, else two
    ending: Ending
    when: JobState | None  # where it is to stand when it is cancelled or deleted


# So many jobs run to their end for each that is cancelled or deleted.
RUN_BETWEEN = 4
# Those others, in turn: ended in different states, and not by one verb alone however few they are.
OTHERS = (
    (Ending.CANCEL, JobState.QUEUED),
    (Ending.DELETE, JobState.SUCCEEDED),
    (Ending.CANCEL, JobState.CREATED),
    (Ending.DELETE, JobState.QUEUED),
    (Ending.CANCEL, JobState.RUNNING),
    (Ending.DELETE, JobState.CREATED),
)


def plan(seed: int, number: int, *, models: Sequence[str], pictures: int) -> Plan:
    """What is to be done with a job; of any number of jobs, at least eight of ten run to their end.

    Args:
        seed: of the whole run.
        number: the job's, from 0.
        models: at least one.
        pictures: how many there are, at least one.
    """
    chance = random.Random(f"{seed}:{number}")
    model, picture, at_once = chance.choice(models), chance.randrange(pictures), chance.random() < 0.5
    turn, place = divmod(number, RUN_BETWEEN + 1)
    ending, when = OTHERS[turn % len(OTHERS)] if place == RUN_BETWEEN else (Ending.RUN, None)
    return Plan(
        number=number,
        model=model,
        picture=picture,
        # A job that one request makes and executes is never seen as created.
        at_once=at_once and when is not JobState.CREATED,
        ending=ending,
        when=when,
    )
