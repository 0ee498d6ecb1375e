"""Which items are wanted: by model version, kind, IoU and size of the box. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from truthloop.errors import InputRefused
from truthloop.failures.kinds import Edges, Item, Kind

# Parts of the image's area. A square whose side is a tenth of the image's has a hundredth of its area; one with
# a third, about a tenth. The limits don't need pixels, which the documents lack.
SMALL_BELOW, LARGE_FROM = 0.01, 0.1


class Size(StrEnum):
    """How much of the image a box takes."""

    SMALL = "small"  # less than 1 %
    MEDIUM = "medium"
    LARGE = "large"  # 10 % and more


def size_of(edges: Edges) -> Size:
    """The size of a box, by its area as it is stored; what lies beyond the image's edge counts too.

    >>> size_of(Edges(top=0.0, left=0.0, bottom=0.2, right=0.2)).value
    'medium'
    """
    area = (edges.right - edges.left) * (edges.bottom - edges.top)
    if area < SMALL_BELOW:
        return Size.SMALL
    return Size.MEDIUM if area < LARGE_FROM else Size.LARGE


def size_of_item(item: Item) -> Size:
    """The size of its annotated box, which is the true one; of the predicted box where there is no other."""
    edges = item.annotated or item.predicted
    assert edges is not None  # an item has a box
    return size_of(edges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which items are wanted; one that names nothing takes all of them.

    It chooses from what was paired. `min_iou` is another thing: it forbids pairs beforehand.
    """

    model_versions: frozenset[str] = frozenset()
    kinds: frozenset[Kind] = frozenset()
    sizes: frozenset[Size] = frozenset()
    iou_at_least: float | None = None  # takes pairs alone, since a box alone has no IoU
    iou_below: float | None = None  # likewise

    @classmethod
    def of(
        cls,
        *,
        model_versions: Collection[str] = (),
        kinds: Collection[Kind | str] = (),
        sizes: Collection[Size | str] = (),
        iou_at_least: float | None = None,
        iou_below: float | None = None,
    ) -> Self:
        """From what a user gave.

        Raises:
            InputRefused: a kind or a size that there is not, or an IoU that isn't from 0 to 1.
        """
        for name, given, allowed in (("kind", kinds, list(Kind)), ("size", sizes, list(Size))):
            for value in given:
                if value not in allowed:
                    text = f"must be one of {', '.join(allowed)}"
                    raise InputRefused(f"{name} is {value}: it {text}.", errors={name: text})
        for name, iou in (("iou_at_least", iou_at_least), ("iou_below", iou_below)):
            if iou is not None:
                check_iou(name, iou)
        return cls(
            model_versions=frozenset(model_versions),
            kinds=frozenset(map(Kind, kinds)),
            sizes=frozenset(map(Size, sizes)),
            iou_at_least=iou_at_least,
            iou_below=iou_below,
        )

    @property
    def takes_all(self) -> bool:
        """Whether no item is left out."""
        return self == Selection()

    def takes_version(self, model_version: str) -> bool:
        """Whether any item of that version may be wanted."""
        return not self.model_versions or model_version in self.model_versions

    def takes(self, item: Item) -> bool:
        """Whether the item is wanted, whatever its version."""
        if self.kinds and item.kind not in self.kinds:
            return False
        if self.sizes and size_of_item(item) not in self.sizes:
            return False
        if self.iou_at_least is None and self.iou_below is None:
            return True
        if item.iou is None or (self.iou_at_least is not None and item.iou < self.iou_at_least):
            return False
        return self.iou_below is None or item.iou < self.iou_below


def check_iou(name: str, iou: float) -> None:
    """Nothing, if the value can be an IoU.

    Raises:
        InputRefused: it isn't from 0 to 1.
    """
    if not 0.0 <= iou <= 1.0:
        raise InputRefused(f"{name} is {iou}: it must be from 0 to 1.", errors={name: "must be from 0 to 1"})
