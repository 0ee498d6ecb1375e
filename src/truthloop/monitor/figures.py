"""The workspace's figures: sums over image states that are kept current by differences. Pure, no I/O."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from truthloop.monitor.documents import CorrectedShare, Share, Shares, State, Status, VersionStatus, Waiting
from truthloop.monitor.states import NOT_IN_METADATA, ImageState, keys_of
from truthloop.versions import version_key

# What is counted of each model version.
VERSION_COUNTS = ("processed", "correct", "incorrect", "corrected")


class Figures:
    """How many images are in each state, overall and by model version.

    `add` and `take_away` are each other's inverse, so the figures after any series of changes equal those of a
    recount.
    """

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.versions: Counter[tuple[str, str]] = Counter()

    def add(self, state: ImageState, times: int = 1) -> None:
        """Counts an image in."""
        self.states[state.key] += times
        if not state.known:
            return
        for version in state.predicted:
            self.versions[version, "processed"] += times
        for version in state.correct:
            self.versions[version, "correct"] += times
        for version in state.incorrect:
            self.versions[version, "incorrect"] += times
            if state.annotated:
                self.versions[version, "corrected"] += times

    def take_away(self, state: ImageState) -> None:
        """Counts an image out."""
        self.add(state, -1)

    def __add__(self, other: "Figures") -> "Figures":
        """The figures of two disjoint sets of images together."""
        both = Figures()
        for figures in (self, other):
            both.states.update(figures.states)
            both.versions.update(figures.versions)
        return both

    def __eq__(self, other: object) -> bool:
        """Equal where every count is; one that is zero and one that isn't there are the same."""
        if not isinstance(other, Figures):
            return NotImplemented
        return self.states == other.states and self.versions == other.versions

    __hash__ = None  # type: ignore[assignment]

    def document(self) -> dict[str, Any]:
        """As MongoDB keeps them; versions are a list, since their dots can't stand in a field's name."""
        return {
            "states": {key: count for key, count in sorted(self.states.items()) if count},
            "versions": [
                {"version": version, "what": what, "count": count}
                for (version, what), count in sorted(self.versions.items())
                if count
            ],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Reads what `document` wrote."""
        figures = cls()
        figures.states.update(document["states"])
        figures.versions.update(
            {(entry["version"], entry["what"]): entry["count"] for entry in document["versions"]}
        )
        return figures

    def status(self, *, as_of: datetime, synthetic: bool) -> Status:
        """The answer that people read."""
        images = sum(count for key, count in self.states.items() if key != NOT_IN_METADATA)
        count = {state: sum(self.states[key] for key in keys_of(state)) for state in State}
        names = sorted({version for (version, _), n in self.versions.items() if n}, key=version_key, reverse=True)
        shares = _shares(
            images,
            processed=count[State.PROCESSED],
            correct=count[State.CORRECT],
            incorrect=count[State.INCORRECT],
            corrected=count[State.CORRECTED],
        )
        return Status(
            images=images,
            **dict(shares),
            waiting=Waiting(
                unprocessed=count[State.UNPROCESSED],
                unaudited=count[State.UNAUDITED],
                uncorrected=count[State.UNCORRECTED],
            ),
            model_versions=[
                VersionStatus(
                    model_version=name,
                    **dict(_shares(images, **{what: self.versions[name, what] for what in VERSION_COUNTS})),
                )
                for name in names
            ],
            not_in_metadata=self.states[NOT_IN_METADATA],
            synthetic=synthetic,
            as_of=as_of,
        )


def _shares(images: int, *, processed: int, correct: int, incorrect: int, corrected: int) -> Shares:
    def share(count: int) -> Share:
        return Share(count=count, fraction=count / images if images else None)

    return Shares(
        processed=share(processed),
        audited=share(correct + incorrect),
        correct=share(correct),
        incorrect=share(incorrect),
        corrected=CorrectedShare(
            count=corrected,
            fraction=corrected / images if images else None,
            fraction_of_incorrect=corrected / incorrect if incorrect else None,
        ),
    )
