"""How soon a worker is told that a job waits: by MongoDB's change stream, and through Kafka.

    TRUTHLOOP_TEST_KAFKA_CLASSPATH=FOLDER python bench/wake.py [--jobs 300] [--rate 20]

A real MongoDB, a real broker and `truthloop relay`, each a process of its own on this machine. Jobs are queued one
by one, each followed by a pause, so that each is a hint of its own. Prints, in one run, the time from the commit
of the change to the call that wakes the worker (p50, p99), both ways at once.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


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
    from relay import active_relay, has_kafka

    if not has_kafka():
        return 0
    from cli.processes import Terminal
    from kafka import Kafka
    from truthloop import logs
    from truthloop.predict.kafka_wake import TOPICS, KafkaWakeUp
    from truthloop.predict.wake import StreamWakeUp
    from truthloop.settings import load_settings
    from truthloop.store import embedded
    from truthloop.store.connection import connect

    logs.configure("error")
    with tempfile.TemporaryDirectory(prefix="truthloop-bench-") as folder:
        home = Path(folder) / ".truthloop"
        kafka = Kafka()
        try:
            kafka.start()
            for topic in TOPICS:
                kafka.make_topic(topic)
            os.environ["TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS"] = kafka.servers
            with connect(load_settings(home), create=True) as store:
                stream, through = Told(), Told()
                wakes = StreamWakeUp(store, stream.tell), KafkaWakeUp(store.settings, through.tell)
                for wake in wakes:
                    wake.begin()
                with active_relay(Terminal(home, TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS=kafka.servers)):
                    while not (stream.called.is_set() and wakes[1].stands):
                        time.sleep(0.05)
                    result = measure(store, {"stream": stream, "kafka": through}, options.jobs, options.rate)
                for wake in wakes:
                    wake.end()
            print(json.dumps(result))
        finally:
            kafka.remove()
            embedded.stop(home)
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
    print(f"{'job queued to worker told':40}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    for name, seen in delays.items():
        ordered = sorted(seen[10:])  # the first ones open connections
        p50, p99 = (ordered[round(part * (len(ordered) - 1))] for part in (0.5, 0.99))
        print(f"{name:40}{p50:9.1f}{p99:9.1f}{ordered[-1]:9.1f}")
        result |= {f"{name}_p50_ms": round(p50, 1), f"{name}_p99_ms": round(p99, 1)}
    return result


if __name__ == "__main__":
    sys.exit(main())
