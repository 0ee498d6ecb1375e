"""How often a caller without a token may ask: a bucket of tokens for each address, in this process's memory."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

from truthloop.errors import TooManyRequests

# Of so many addresses the bucket is kept; that of the one unseen for longest goes first, some 2 MB in all.
MAX_ADDRESSES = 10_000


class RateLimit:
    """Buckets that fill by and by. Used by one event loop alone, so without a lock.

    Args:
        burst: what a bucket holds, and how full a new one is.
        per_second: what flows in.
        clock: seconds, as `time.monotonic`.
        max_addresses: how many buckets are kept.
    """

    def __init__(
        self,
        *,
        burst: float,
        per_second: float,
        clock: Callable[[], float] = time.monotonic,
        max_addresses: int = MAX_ADDRESSES,
    ) -> None:
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is in it, and since when

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, address: str, cost: float) -> None:
        """Takes out of a caller's bucket.

        Args:
            address: the caller's; those of one IPv6 network (/64) count as one.
            cost: how much, at most `burst`.

        Raises:
            TooManyRequests: there isn't enough in it; nothing is taken then.
        """
        now, caller = self._clock(), caller_of(address)
        amount, since = self._buckets.get(caller, (self._burst, now))
        amount = min(self._burst, amount + (now - since) * self._per_second)
        enough = amount >= cost
        self._buckets[caller] = (amount - cost if enough else amount, now)
        self._buckets.move_to_end(caller)
        while len(self._buckets) > self._max_addresses:
            self._buckets.popitem(last=False)
        if not enough:
            raise TooManyRequests(
                "Too many requests without a token came from your address. Wait a moment, or send a token."
            )


def caller_of(address: str) -> str:
    """Who asks, by their address: a household has a whole IPv6 network, and would have as many buckets.

    >>> caller_of("192.0.2.7"), caller_of("2001:db8::1:2:3:4"), caller_of("::ffff:192.0.2.7")
    ('192.0.2.7', '2001:db8::/64', '192.0.2.7')
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
