"""What can be said of one image, decided from its documents alone. Pure, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from truthloop.monitor.documents import State
from truthloop.review.verdict import Audit, verdict
from truthloop.versions import version_key

NOT_IN_METADATA = "not in metadata"


@dataclass(frozen=True, slots=True)
class ImageState:
    """One image, as the status counts it.

    `known` says whether it stands in `metadata`; `predicted`, `correct` and `incorrect` are the model versions
    that predicted it and that were audited as one or the other, each sorted and without repetition; a version may
    be audited without its prediction being stored.
    """

    known: bool
    predicted: tuple[str, ...] = ()
    correct: tuple[str, ...] = ()
    incorrect: tuple[str, ...] = ()
    annotated: bool = False

    @property
    def correct_now(self) -> bool | None:
        """The verdict on the newest audited model version; None without an audit."""
        if not self.incorrect:
            return True if self.correct else None
        if not self.correct:
            return False
        newest = max(self.correct + self.incorrect, key=version_key)
        return newest in self.correct

    @property
    def key(self) -> str:
        """The one of `KEYS` under which the image is counted, or `NOT_IN_METADATA`."""
        return _key(bool(self.predicted), self.correct_now, self.annotated) if self.known else NOT_IN_METADATA


NOTHING = ImageState(known=False)


def verdicts(audits: Mapping[str, Sequence[Audit]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The model versions of one image that were audited correct, and those audited incorrect.

    Args:
        audits: the image's audits by the model version that they judge.
    """
    correct: list[str] = []
    incorrect: list[str] = []
    for version, given in audits.items():
        found = verdict(given)
        if found is not None:
            (correct if found else incorrect).append(version)
    return tuple(sorted(correct)), tuple(sorted(incorrect))


def _key(processed: bool, correct: bool | None, annotated: bool) -> str:
    """Twelve keys, each the conjunction of three answers, so that every figure is a sum over some of them."""
    verdict_word = "unaudited" if correct is None else "correct" if correct else "incorrect"
    return " ".join(
        ("processed" if processed else "unprocessed", verdict_word, "annotated" if annotated else "unannotated")
    )


def _states(processed: bool, correct: bool | None, annotated: bool) -> frozenset[State]:
    """Unaudited is processed without an audit, uncorrected is incorrect without an annotation."""
    states = {State.PROCESSED if processed else State.UNPROCESSED}
    if correct is not None:
        states |= {State.AUDITED, State.CORRECT if correct else State.INCORRECT}
    elif processed:
        states.add(State.UNAUDITED)
    if correct is False:
        states.add(State.CORRECTED if annotated else State.UNCORRECTED)
    return frozenset(states)


_COMBINATIONS = list(product((True, False), (None, True, False), (True, False)))
KEYS: Mapping[str, frozenset[State]] = {_key(*parts): _states(*parts) for parts in _COMBINATIONS}


def keys_of(state: State) -> list[str]:
    """The keys under which the images of a state are counted."""
    return [key for key, states in KEYS.items() if state in states]
