"""How soon a worker is told that a job waits: by MongoDB's change stream, and through Kafka.

    TRUTHLOOP_TEST_KAFKA_CLASSPATH=FOLDER python bench/wake.py [--jobs 300] [--rate 20]

A real MongoDB, a real broker and `truthloop relay`, each a process of its own on this machine. Jobs are queued one
by one, each followed by a pause, so that each is a hint of its own. Prints, in one run, the time from the commit
of the change to the call that wakes the worker (p50, p99), both ways at once.
"""

import argparse
import json
import sys
import threading
import time

from percentiles import print_delays
from with_kafka import active_relay, broker, has_kafka, home_of_a_workspace


class Told:
    """When it was told last."""

    def __init__(self) -> None:
        self.at = 0.0
        self.called = threading.Event()

    def tell(self, _: object) -> None:
        self.at = time.perf_counter()
        self.called.set()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--rate", type=float, default=20.0, help="jobs a second at most")
    options = parser.parse_args()
    if not has_kafka():
        return 0
    from truthloop.predict.kafka_wake import TOPICS, KafkaWakeUp
    from truthloop.predict.wake import StreamWakeUp
    from truthloop.settings import load_settings
    from truthloop.store.connection import connect

    with home_of_a_workspace() as home, broker() as kafka:
        for topic in TOPICS:
            kafka.make_topic(topic)
        with connect(load_settings(home), create=True) as store:
            stream, through = Told(), Told()
            wakes = StreamWakeUp(store, stream.tell), KafkaWakeUp(store.settings, through.tell)
            for wake in wakes:
                wake.begin()
            with active_relay(store):
                while not (stream.called.is_set() and wakes[1].stands):
                    time.sleep(0.05)
                result = measure(store, {"stream": stream, "kafka": through}, options.jobs, options.rate)
            for wake in wakes:
                wake.end()
        print(json.dumps(result))
    return 0


def measure(store, told: dict[str, Told], jobs: int, rate: float) -> dict:
    from predict.given import queued

    delays: dict[str, list[float]] = {name: [] for name in told}
    for _ in range(jobs + 10):
        for ear in told.values():
            ear.called.clear()
        queued(store)
        committed = time.perf_counter()
        for name, ear in told.items():
            assert ear.called.wait(30), f"not told by {name}"
            delays[name].append(max(ear.at - committed, 0.0) * 1000)
        time.sleep(1 / rate)
    result = {}
    # The first ones open connections.
    told_after = print_delays("job queued to worker told", {name: seen[10:] for name, seen in delays.items()})
    for name, (p50, p99) in told_after.items():
        result |= {f"{name}_p50_ms": round(p50, 1), f"{name}_p99_ms": round(p99, 1)}
    return result


if __name__ == "__main__":
    sys.exit(main())
