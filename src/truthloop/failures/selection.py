"""Which items are wanted: by model version, kind, IoU and size of the box. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real
from typing import Self

from truthloop.errors import InputRefused
from truthloop.failures.kinds import MATCH_IOU, MISPLACED_IOU, Edges, Item, Kind

# Parts of the image's area. A square whose side is a tenth of the image's has a hundredth of its area; one with
# a third, about a tenth. The limits don't need pixels, which the documents lack.
SMALL_BELOW, LARGE_FROM = 0.01, 0.1
# Between which IoUs the pairs of a kind lie: from the first, below the second. The other kinds are boxes alone.
_PAIRS = {
    Kind.MATCH: (MATCH_IOU, 2.0),  # 1 is among them
    Kind.MISPLACED: (MISPLACED_IOU, MATCH_IOU),
    Kind.UNRELATED: (0.0, MISPLACED_IOU),
}


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

    It chooses from what was paired. `min_iou` is another thing: it forbids pairs beforehand. Make one with `of`,
    which checks what it is given.
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
        model_versions: Iterable[str] | str = (),
        kinds: Iterable[Kind | str] | str = (),
        sizes: Iterable[Size | str] | str = (),
        iou_at_least: float | None = None,
        iou_below: float | None = None,
    ) -> Self:
        """From what a user gave.

        Args:
            model_versions: whose predictions are looked at; a single one needs no list around it.
            kinds: of which kinds, such as `missed`; likewise.
            sizes: of which sizes, such as `small`; likewise.
            iou_at_least: only pairs whose IoU is this or more.
            iou_below: only pairs whose IoU is below it.

        Raises:
            InputRefused: a kind or a size that there is not, an IoU that isn't from 0 to 1, or a range of IoUs in
                which nothing that is wanted can lie.
        """
        versions = texts("model_version", model_versions)
        chosen_kinds, chosen_sizes = texts("kind", kinds), texts("size", sizes)
        for name, given, allowed in (("kind", chosen_kinds, list(Kind)), ("size", chosen_sizes, list(Size))):
            for value in given:
                if value not in allowed:
                    text = f"must be one of {', '.join(allowed)}"
                    raise InputRefused(f"{name} is {value}: it {text}.", errors={name: text})
        for name, iou in (("iou_at_least", iou_at_least), ("iou_below", iou_below)):
            if iou is not None:
                check_iou(name, iou)
        selection = cls(
            model_versions=frozenset(versions),
            kinds=frozenset(map(Kind, chosen_kinds)),
            sizes=frozenset(map(Size, chosen_sizes)),
            iou_at_least=iou_at_least,
            iou_below=iou_below,
        )
        selection._check_range()
        return selection

    def _check_range(self) -> None:
        """Refuses a range of IoUs that no item of the kinds can lie in."""
        if self.iou_at_least is None and self.iou_below is None:
            return
        low = 0.0 if self.iou_at_least is None else self.iou_at_least
        high = 2.0 if self.iou_below is None else self.iou_below
        place = "iou_at_least" if self.iou_below is None else "iou_below"
        if low >= high:
            text = "must be above iou_at_least" if self.iou_at_least is not None else "must be above 0"
            raise InputRefused(f"iou_below is {high:g}: it {text}, or nothing can match.", errors={place: text})
        ranges = [_PAIRS[kind] for kind in self.kinds if kind in _PAIRS]
        if not self.kinds or any(max(low, least) < min(high, beyond) for least, beyond in ranges):
            return
        named = ", ".join(sorted(self.kinds))
        raise InputRefused(
            f"No item of the kind {named} has such an IoU: a match has 0.5 or more, a misplaced pair 0.1 to 0.5, "
            "an unrelated one less, and a box alone has none. Leave out the kind, or the IoU.",
            errors={place: f"no item of the kind {named} has such an IoU"},
        )

    @property
    def takes_all(self) -> bool:
        """Whether no item of the model versions is left out."""
        return self == Selection(model_versions=self.model_versions)

    def takes(self, item: Item) -> bool:
        """Whether the item is wanted; it is of a model version that is."""
        if self.kinds and item.kind not in self.kinds:
            return False
        if self.sizes and size_of_item(item) not in self.sizes:
            return False
        if self.iou_at_least is None and self.iou_below is None:
            return True
        if item.iou is None or (self.iou_at_least is not None and item.iou < self.iou_at_least):
            return False
        return self.iou_below is None or item.iou < self.iou_below


def texts(name: str, given: object) -> list[str]:
    """Some texts that a user gave, or a single one.

    Raises:
        InputRefused: they aren't texts.
    """
    if isinstance(given, str):
        return [str(given)]
    values = list(given) if isinstance(given, Iterable) else [given]
    found = [value for value in values if isinstance(value, str)]
    if len(found) < len(values):
        other = next(value for value in values if not isinstance(value, str))
        text = "must be a text or several texts"
        raise InputRefused(f"{name} has {other!r:.100}: it {text}.", errors={name: text})
    return found


def check_selection(selection: object) -> None:
    """Nothing, if it is a selection or None.

    Raises:
        InputRefused: it is anything else.
    """
    if selection is not None and not isinstance(selection, Selection):
        text = "must be a Selection, such as Selection.of(kinds=['missed'])"
        raise InputRefused(f"selection is {selection!r:.100}: it {text}.", errors={"selection": text})


def check_iou(name: str, iou: object) -> None:
    """Nothing, if the value can be an IoU.

    Raises:
        InputRefused: it isn't a number from 0 to 1.
    """
    if not isinstance(iou, float | int | Real) or not 0.0 <= float(iou) <= 1.0:
        raise InputRefused(f"{name} is {iou}: it must be from 0 to 1.", errors={name: "must be from 0 to 1"})
