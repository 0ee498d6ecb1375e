"""Images that come at the same moment enter `metadata` in one transaction, which costs as much as for one."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from truthloop.ingest.images import NewImage, RefusedByCollection, record_images
from truthloop.ingest.synthetic import claim_real
from truthloop.store.connection import Store


@dataclass(slots=True)
class _Waiting:
    """An image on its way, and what its sender is to be told."""

    image: NewImage
    woken: threading.Event = field(default_factory=threading.Event)
    is_new: bool = False
    error: BaseException | None = None
    leads: bool = False  # it is this sender's turn to enter all that wait


class Entrance:
    """The way into `metadata` for many threads, each with an image.

    Nobody waits for others to come: what comes while one transaction runs goes into the next.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._busy = False
        self._is_claimed = False

    def claim(self) -> None:
        """Says that the workspace holds real images; asked of the database once, since it stays so.

        Raises:
            Conflict: it holds made-up sample data.
        """
        if not self._is_claimed:
            claim_real(self.store)
            self._is_claimed = True

    def enter(self, image: NewImage) -> bool:
        """Enters an image; returns whether it is new.

        Raises:
            RefusedByCollection: the customer's own rules refuse it.
            DatabaseUnavailable, DatabaseRefused, DiskFull: as their texts say.
        """
        mine = _Waiting(image)
        with self._lock:
            self._waiting.append(mine)
            mine.leads = not self._busy
            self._busy = True
        if not mine.leads:
            mine.woken.wait()
        if mine.leads:
            self._lead()
        if mine.error is not None:
            raise mine.error
        return mine.is_new

    def _lead(self) -> None:
        """Enters all that wait, then hands the lead to one of those who came meanwhile."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            self._enter(batch)
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._busy = following is not None
            if following is not None:
                following.leads = True
                following.woken.set()
            for each in batch:
                each.woken.set()

    def _enter(self, batch: Sequence[_Waiting]) -> None:
        try:
            are_new = record_images(self.store, [each.image for each in batch])
        except RefusedByCollection as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            half = len(batch) // 2  # which one it is shows alone
            self._enter(batch[:half])
            self._enter(batch[half:])
        except BaseException as error:
            for each in batch:
                each.error = error
        else:
            for each, is_new in zip(batch, are_new, strict=True):
                each.is_new = is_new
