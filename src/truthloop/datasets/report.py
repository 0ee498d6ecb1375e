"""Counting what a build decided, and telling it. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Literal, Self, TypeAlias

from truthloop.datasets import documents as said
from truthloop.datasets.rule import Entry, LeftOut, Reason

Kind: TypeAlias = Literal["human", "model"]

# Of each reason the report in the database names so many; the version's files name all.
EXAMPLES = 20


@dataclass(slots=True)
class Tally:
    """Counts that add up; every image of `metadata` is counted once, in `entries` or in `left_out`."""

    entries: Counter[tuple[Kind, str]] = field(default_factory=Counter)  # by kind and version
    verdicts: Counter[bool | None] = field(default_factory=Counter)  # of the model's
    empty: Counter[str] = field(default_factory=Counter)  # by kind, as the boxes
    boxes: Counter[str] = field(default_factory=Counter)
    clipped_boxes: int = 0
    clipped_images: int = 0
    left_out: Counter[Reason] = field(default_factory=Counter)
    examples: dict[Reason, list[tuple[str, str]]] = field(default_factory=dict)  # image and detail
    unknown: int = 0
    unknown_examples: list[str] = field(default_factory=list)

    def add(self, outcome: Entry | LeftOut) -> None:
        """Counts one image."""
        if isinstance(outcome, LeftOut):
            self.left_out[outcome.reason] += 1
            named = self.examples.setdefault(outcome.reason, [])
            named.append((outcome.image_id, outcome.detail))
            if len(named) > 2 * EXAMPLES:
                named[:] = nsmallest(EXAMPLES, named)
            return
        kind, boxes = outcome.kind, len(outcome.boxes)
        self.entries[kind, outcome.version] += 1
        self.boxes[kind] += boxes
        if not boxes:
            self.empty[kind] += 1
        if kind == "model":
            self.verdicts[outcome.verdict] += 1
        if outcome.clipped:
            self.clipped_boxes += outcome.clipped
            self.clipped_images += 1

    def add_unknown(self, image_ids: list[str]) -> None:
        """Counts ids that aren't in `metadata`."""
        self.unknown += len(image_ids)
        self.unknown_examples = nsmallest(EXAMPLES, self.unknown_examples + image_ids)

    def __iadd__(self, other: Self) -> Self:
        """Counts what another counted, of other images."""
        self.entries += other.entries
        self.verdicts += other.verdicts
        self.empty += other.empty
        self.boxes += other.boxes
        self.clipped_boxes += other.clipped_boxes
        self.clipped_images += other.clipped_images
        self.left_out += other.left_out
        for reason, named in other.examples.items():
            self.examples[reason] = nsmallest(EXAMPLES, self.examples.get(reason, []) + named)
        self.unknown += other.unknown
        self.unknown_examples = nsmallest(EXAMPLES, self.unknown_examples + other.unknown_examples)
        return self

    @property
    def images(self) -> int:
        """All images of `metadata`."""
        return self.total + self.left_out.total()

    @property
    def total(self) -> int:
        """The images in the dataset."""
        return self.entries.total()

    def left(self) -> said.LeftOut:
        """The images that aren't."""
        return said.LeftOut(
            count=self.left_out.total(),
            unseen=self.left_out[Reason.UNSEEN],
            refused=sum(number for reason, number in self.left_out.items() if reason.is_refusal),
            audited_incorrect=self.left_out[Reason.AUDITED_INCORRECT],
            reasons=[
                said.LeftOutGroup(
                    reason=reason,
                    count=self.left_out[reason],
                    examples=[
                        said.LeftOutImage(image_id=image_id, reason=reason, detail=detail)
                        for image_id, detail in nsmallest(EXAMPLES, self.examples[reason])
                    ],
                )
                for reason in Reason
                if self.left_out[reason]
            ],
        )

    def sources(self) -> list[said.SourceVersion]:
        """How many entries come from which version of what, the most frequent first."""
        ordered = sorted(self.entries.items(), key=lambda item: (-item[1], item[0]))
        return [
            said.SourceVersion(kind=kind, version=version, images=number) for (kind, version), number in ordered
        ]

    def human(self) -> said.SourceCounts:
        """The entries that people drew."""
        return said.SourceCounts(images=self._of("human"), empty=self.empty["human"], boxes=self.boxes["human"])

    def model(self) -> said.ModelCounts:
        """The entries that a model predicted."""
        return said.ModelCounts(
            images=self._of("model"),
            empty=self.empty["model"],
            boxes=self.boxes["model"],
            correct=self.verdicts[True],
            incorrect=self.verdicts[False],
            unaudited=self.verdicts[None],
        )

    def _of(self, kind: Kind) -> int:
        return sum(number for (of, _), number in self.entries.items() if of == kind)
