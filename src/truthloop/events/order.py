"""The order of events when the log is read by id. Pure."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from truthloop.events.documents import Event


def in_sequence(events: Iterable[Event], *, within: int) -> Iterator[Event]:
    """The same events, those of one subject by their sequence.

    A log in the order of its ids is in the order of the clocks that made them: where a worker's clock lags behind
    the service's, its `job.started` can stand before their `job.queued`. Each place in the order keeps its subject
    and gets the least sequence of that subject among the events up to `within` places on.

    Args:
        events: in the order of their ids.
        within: how many events are held in memory to look ahead.
    """
    places: deque[tuple[str, str]] = deque()
    held: defaultdict[tuple[str, str], list[tuple[int, str, Event]]] = defaultdict(list)

    def first() -> Event:
        place = places.popleft()
        event = heappop(held[place])[-1]
        if not held[place]:
            del held[place]
        return event

    for event in events:
        # An image and its annotation may share an id; a revision counts the changes of one of them.
        place = (event.entity, event.subject)
        places.append(place)
        heappush(held[place], (event.sequence, event.id, event))
        if len(places) > within:
            yield first()
    while places:
        yield first()
