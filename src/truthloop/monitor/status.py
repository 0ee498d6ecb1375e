"""Reading the figures and the lists behind them, never more than two seconds behind."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from truthloop.errors import CursorRefused, FiguresBehind, InputRefused
from truthloop.ingest.synthetic import is_synthetic
from truthloop.monitor import follow
from truthloop.monitor.documents import ImageItem, ImagePage, State, Status
from truthloop.monitor.figures import Figures
from truthloop.monitor.follow import COLLECTION as FIGURES
from truthloop.monitor.follow import FIGURES_ID, LEASE_NAME
from truthloop.monitor.read import COLLECTION as IMAGE_STATES
from truthloop.monitor.states import KEYS, keys_of
from truthloop.store import lease as leases
from truthloop.store.connection import Store

# Figures older than this are brought up to date before they are shown.
MAX_BEHIND = timedelta(seconds=2)
MAX_LIMIT = 1_000
# While a follower is this far behind, a load waits for it, at most so long a batch.
PACE_BEHIND = timedelta(seconds=1)
PACE_SECONDS = 5.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Kept:
    """The figures as they were written down last."""

    figures: Figures
    as_of: datetime
    behind: timedelta


def read_kept(store: Store) -> Kept | None:
    """The figures as they stand; None if they were never counted, or are being counted anew."""
    with store.errors():
        found = list(
            store[FIGURES].aggregate(
                [{"$match": {"_id": FIGURES_ID, "complete": True}}, {"$addFields": {"now": "$$NOW"}}]
            )
        )
    if not found or "as_of" not in found[0]:
        return None
    document = found[0]
    return Kept(Figures.of(document), document["as_of"], document["now"] - document["as_of"])


def status(store: Store, *, catch_up: bool = True, progress: Callable[[int], None] | None = None) -> Status:
    """The status of the workspace: at most two seconds behind while a service keeps it, else up to this moment.

    Args:
        store: the workspace.
        catch_up: whether figures that are further behind are brought up to date first.
        progress: called with the number of images counted, where it comes to a recount.

    Raises:
        FiguresBehind: they are further behind, and `catch_up` is false.
    """
    kept = _current(store, catch_up=catch_up, progress=progress)
    return kept.figures.status(as_of=kept.as_of, synthetic=is_synthetic(store))


def images(
    store: Store,
    state: State | str | None = None,
    *,
    limit: int = 100,
    after: str | None = None,
    catch_up: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ImagePage:
    """The images of one state, or all in `metadata`, in the order of their ids.

    Args:
        store: the workspace.
        state: whose images; all by default.
        limit: how many at most, 1 to 1,000.
        after: the cursor `next` of the page before, an image's id.
        catch_up: as `status`.
        progress: as `status`.

    Raises:
        InputRefused: `state` is none of `State`, or `limit` is out of range.
        CursorRefused: `after` is empty.
        FiguresBehind: as `status`.
    """
    if state is not None and state not in list(State):
        text = f"must be one of {', '.join(State)}"
        raise InputRefused(f"state is {state}: it {text}.", errors={"state": text})
    if not 1 <= limit <= MAX_LIMIT:
        text = f"must be from 1 to {MAX_LIMIT:,}"
        raise InputRefused(f"limit is {limit}: it {text}.", errors={"limit": text})
    if after == "":
        raise CursorRefused("after is empty. Give the `next` of the page before.", errors={"after": "is empty"})
    _current(store, catch_up=catch_up, progress=progress, again=after is not None)
    query: dict[str, object] = {"state": {"$in": list(KEYS) if state is None else keys_of(State(state))}}
    if after is not None:
        query["_id"] = {"$gt": after}
    with store.errors():
        found = list(store[IMAGE_STATES].find(query, {"state": 1}).sort("_id", 1).limit(limit + 1))
    items = [
        ImageItem(image_id=document["_id"], states=[s for s in State if s in KEYS[document["state"]]])
        for document in found[:limit]
    ]
    return ImagePage(items=items, next=items[-1].image_id if len(found) > limit else None)


def pace(store: Store) -> None:
    """Waits while a live follower has fallen behind, so that a load doesn't outrun the figures.

    Returns at once where no process keeps them, and after `PACE_SECONDS` in any case.
    """
    deadline = time.monotonic() + PACE_SECONDS
    while time.monotonic() < deadline and _followed(store):
        kept = read_kept(store)
        if kept is None or kept.behind <= PACE_BEHIND:
            return
        time.sleep(_POLL_SECONDS)


def _followed(store: Store) -> bool:
    with store.errors():
        lease = store[leases.COLLECTION].find_one({"_id": LEASE_NAME, "$expr": {"$gt": ["$expires", "$$NOW"]}})
    return lease is not None


def _current(store: Store, *, catch_up: bool, progress: Callable[[int], None] | None, again: bool = False) -> Kept:
    """The figures, at most two seconds behind; where no process keeps them, with all that was written before.

    `again` says that they were brought up to date a moment ago, for the page before: then two seconds will do.
    """
    kept = read_kept(store)
    if catch_up and not again and follow.catch_up(store, progress):
        kept = read_kept(store)
    while kept is None or kept.behind > MAX_BEHIND:
        if not catch_up:
            raise FiguresBehind("The figures are being brought up to date. Try again in a few seconds.")
        if not follow.catch_up(store, progress):
            time.sleep(_POLL_SECONDS)
        kept = read_kept(store)
    return kept
