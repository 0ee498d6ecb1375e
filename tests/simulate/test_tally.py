import math
import threading

from hypothesis import given
from hypothesis.strategies import floats, lists

from truthloop.simulate.tally import FIRST, GROWTH, Latencies, Tally

times = lists(floats(1e-6, 1e4), min_size=1, max_size=200)


@given(times, floats(0, 100))
def test_a_percentile_is_that_of_the_sorted_times_or_at_most_two_percent_more(seconds, percent):
    exact = sorted(seconds)[max(1, math.ceil(len(seconds) * percent / 100)) - 1]
    found = Latencies(seconds).percentile(percent)

    assert found is not None
    assert found <= max(exact, FIRST) * GROWTH * (1 + 1e-9)
    assert found >= exact * (1 - 1e-9)


def test_there_is_no_percentile_of_nothing():
    assert Latencies().percentile(50) is None


def test_a_million_latencies_take_no_more_memory_than_a_few():
    latencies = Latencies((number % 9973 + 1) / 1000 for number in range(200_000))

    assert len(list(latencies.classes())) < 1000
    assert sum(number for _, number in latencies.classes()) == len(latencies) == 200_000


def test_nothing_is_lost_when_many_threads_count():
    tally = Tally()

    def count() -> None:
        for _ in range(1000):
            tally.begin()
            tally.end("succeeded", second=2.5)
            tally.operation("read", 0.01)
            tally.retry("503")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert tally.begun == tally.ended == 8000
    assert tally.states() == {"succeeded": 8000}
    assert tally.retries() == {"503": 8000}
    assert tally.operations()["read"].count == 8000
    assert tally.ends() == [0, 0, 8000]
