"""How much of the images being sent this process holds at a time, and how slowly they may come."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from truthloop.api.rate_limit import caller_of
from truthloop.errors import TooManyRequests

# In all bodies together; a few of the largest images that are taken by default, or many of a usual size.
MAX_HELD_BYTES = 256 * 1024 * 1024
# At once, from one address without a token.
MAX_PER_STRANGER = 4
# Who sends may be so far behind the rate, and no further.
PATIENCE_SECONDS, BYTES_PER_SECOND = 10.0, 64 * 1024
RETRY_AFTER_SECONDS = 2


class Receiving:
    """The images that are being sent, or wait to be stored. Used by one event loop alone, so without a lock.

    Args:
        max_held_bytes: the most bytes of all of them that are held in memory.
        max_per_stranger: how many a caller without a token may send at once.
        patience_seconds: how long nothing may come, and how far behind the rate a sender may be.
        bytes_per_second: the least rate.
    """

    def __init__(
        self,
        *,
        max_held_bytes: int = MAX_HELD_BYTES,
        max_per_stranger: int = MAX_PER_STRANGER,
        patience_seconds: float = PATIENCE_SECONDS,
        bytes_per_second: float = BYTES_PER_SECOND,
    ) -> None:
        self._max_held_bytes = max_held_bytes
        self._max_per_stranger = max_per_stranger
        self._patience, self._rate = patience_seconds, bytes_per_second
        self._strangers: Counter[str] = Counter()
        self.held_bytes = 0

    @contextmanager
    def place(self, stranger: str | None) -> Iterator["Place"]:
        """A place for one image, until it is stored or refused.

        Args:
            stranger: the address of a caller without a token; None for one who has it.

        Raises:
            TooManyRequests: the stranger sends as many as they may.
        """
        caller = None if stranger is None else caller_of(stranger)
        if caller is not None:
            if self._strangers[caller] >= self._max_per_stranger:
                raise TooManyRequests(
                    f"{self._max_per_stranger} images are being sent from your address without a token already. "
                    "Wait until one is there, or send a token."
                )
            self._strangers[caller] += 1
        place = Place(self)
        try:
            yield place
        finally:
            place.hold(0)
            if caller is not None:
                self._strangers[caller] -= 1
                if not self._strangers[caller]:
                    del self._strangers[caller]

    async def chunks(self, request: Request) -> AsyncGenerator[bytes]:
        """A body piece by piece, as it comes.

        Raises:
            HTTPException: 408 where it comes too slowly, 400 where the connection ends before it.
        """
        now = asyncio.get_running_loop().time
        try:
            # Each piece puts the end off by the time that it may have taken: a sender who is ahead can't save up
            # for a long silence.
            async with asyncio.timeout(self._patience) as timeout:
                async for chunk in request.stream():
                    yield chunk
                    due = timeout.when()
                    assert due is not None
                    timeout.reschedule(min(due + len(chunk) / self._rate, now() + self._patience))
        except TimeoutError:
            text = (
                f"The body comes too slowly: at least {self._rate:,.0f} bytes a second are needed. Send it again."
            )
            raise HTTPException(408, text, {"Connection": "close"}) from None
        except ClientDisconnect:
            raise HTTPException(400, "The connection ended before the body did. Send it again.") from None

    def hold(self, more: int) -> None:
        """Counts bytes that are held from now on, or fewer.

        Raises:
            HTTPException: 503, there is no room for them.
        """
        if more > 0 and self.held_bytes + more > self._max_held_bytes:
            text = "Too many images are being sent at once. Send it again in a moment."
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"}
            raise HTTPException(503, text, headers)
        self.held_bytes += more


class Place:
    """What one image takes of the whole."""

    def __init__(self, receiving: Receiving) -> None:
        self._receiving = receiving
        self._size = 0

    def hold(self, size: int) -> None:
        """Says how many bytes of the image are held now; see `Receiving.hold`."""
        self._receiving.hold(size - self._size)
        self._size = size
