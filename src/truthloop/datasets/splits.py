"""Which part of an export an image belongs to: training, validation or test. Pure."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Literal, TypeAlias

from truthloop.errors import InputRefused

Part: TypeAlias = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
DEFAULT = "80/10/10"


def parse_split(text: str) -> Mapping[Part, int]:
    """The shares of the parts in percent.

    Raises:
        InputRefused: they aren't three whole numbers, or don't add up to 100.

    >>> parse_split("80/10/10")
    {'train': 80, 'val': 10, 'test': 10}
    """
    shares = text.split("/")
    if len(shares) != len(PARTS) or not all(share.isascii() and share.isdigit() for share in shares):
        raise InputRefused(f"{text} is no split. Give the percents of train, val and test, such as {DEFAULT}.")
    numbers = [int(share[:4]) for share in shares]
    if sum(numbers) != 100:
        raise InputRefused(f"The parts of {text} don't add up to 100. Give three percents, such as {DEFAULT}.")
    return dict(zip(PARTS, numbers, strict=True))


def part_of(group: str, split: Mapping[Part, int]) -> Part:
    """The part of a group of images that must stay together; an image without relatives is its own group.

    It depends on the group and the shares alone, so an image keeps its part as the set grows.

    >>> [part_of(name, parse_split("80/10/10")) for name in ("f", "g", "h", "i")]
    ['train', 'val', 'train', 'val']
    """
    # 8 bytes, as a fraction of all that they can be.
    place = int.from_bytes(sha256(group.encode("utf-8", "surrogatepass")).digest()[:8])
    limit = 0
    for part in PARTS:
        limit += split[part]
        if place * 100 < limit << 64:
            return part
    return PARTS[-1]
