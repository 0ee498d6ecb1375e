import threading
import time

import pytest

from truthloop.errors import LeaseLost
from truthloop.store import lease as leases
from truthloop.store.connection import Store


def test_of_many_takers_at_once_one_gets_the_place(store: Store):
    taken: list[leases.Lease] = []

    def take(name: str) -> None:
        lease = leases.acquire(store, "place", holder=name, seconds=60)
        if lease is not None:
            taken.append(lease)

    threads = [threading.Thread(target=take, args=(f"{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(taken) == 1


def test_a_place_that_was_released_is_free_at_once(store: Store):
    first = leases.acquire(store, "place", holder="a", seconds=60)
    assert first is not None
    leases.release(store, first)

    second = leases.acquire(store, "place", holder="b", seconds=60)

    assert second is not None
    assert second.term > first.term


def test_a_place_whose_time_has_run_out_goes_to_the_next_and_the_first_is_told(store: Store):
    first = leases.acquire(store, "place", holder="a", seconds=0.0)
    second = leases.acquire(store, "place", holder="b", seconds=60)
    assert first is not None and second is not None

    with pytest.raises(LeaseLost):
        leases.renew(store, first)
    leases.release(store, first)

    assert first.lost.is_set()
    assert leases.acquire(store, "place", holder="c", seconds=60) is None


def test_a_renewed_place_stays_held_and_its_beat_grows(store: Store):
    lease = leases.acquire(store, "place", holder="a", seconds=0.5)
    assert lease is not None
    with leases.held(store, lease, every_seconds=0.05):
        first = leases.renew(store, lease)
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            assert leases.acquire(store, "place", holder="b", seconds=60) is None
        assert leases.renew(store, lease) > first

    assert leases.acquire(store, "place", holder="b", seconds=60) is not None
