"""How often a caller without a token may ask."""

import pytest

from truthloop.api.rate_limit import RateLimit
from truthloop.errors import TooManyRequests


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> RateLimit:
    return RateLimit(burst=10, per_second=2, clock=clock, max_addresses=3)


def test_what_a_bucket_holds_is_let_in_at_once_and_no_more(limit):
    for _ in range(5):
        limit.take("192.0.2.1", 2)
    with pytest.raises(TooManyRequests):
        limit.take("192.0.2.1", 2)


def test_a_bucket_fills_with_time_but_not_above_its_rim(limit, clock):
    limit.take("192.0.2.1", 10)
    clock.now = 1.0
    limit.take("192.0.2.1", 2)
    with pytest.raises(TooManyRequests):
        limit.take("192.0.2.1", 1)
    clock.now = 1000.0
    limit.take("192.0.2.1", 10)
    with pytest.raises(TooManyRequests):
        limit.take("192.0.2.1", 1)


def test_asking_in_vain_costs_nothing(limit, clock):
    limit.take("192.0.2.1", 10)
    for _ in range(100):
        with pytest.raises(TooManyRequests):
            limit.take("192.0.2.1", 10)
    clock.now = 5.0
    limit.take("192.0.2.1", 10)


def test_each_address_has_its_own_bucket_but_an_ipv6_network_has_one(limit):
    limit.take("192.0.2.1", 10)
    limit.take("192.0.2.2", 10)
    limit.take("2001:db8::1", 10)
    with pytest.raises(TooManyRequests):
        limit.take("2001:db8::ffff", 1)


def test_a_million_addresses_take_no_more_memory_than_a_few(limit):
    for number in range(10_000):
        limit.take(f"192.0.{number // 256}.{number % 256}", 1)
    assert len(limit) == 3
