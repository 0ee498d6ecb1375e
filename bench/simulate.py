"""What the whole system does: jobs a second and latencies, with and without Kafka, with one worker and with two.

    TRUTHLOOP_TEST_KAFKA_CLASSPATH=FOLDER python bench/simulate.py [--jobs 600] [--rounds 3]

Each round runs `truthloop simulate` against three systems in turn, each of real processes on this machine: the
service with its worker, woken by MongoDB's change stream; the same with Kafka, where `truthloop relay` sends every
event to a real broker and the workers are woken from there; and that with a second `truthloop worker`. The
simulator is one more process on the same processors, and checks in each run that nothing was lost, doubled or out
of order.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen

from with_kafka import broker, has_kafka

SYSTEMS = ("one worker, no Kafka", "one worker, relay, Kafka", "two workers, relay, Kafka")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=600, help="jobs of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=16, help="clients of the simulator")
    parser.add_argument("--model", default="opencv_faces")
    options = parser.parse_args()
    if not has_kafka():
        return 0
    reports: dict[str, list[dict]] = {system: [] for system in SYSTEMS}
    with tempfile.TemporaryDirectory(prefix="truthloop-bench-") as folder, broker() as kafka:
        for number in range(options.rounds):
            for system in SYSTEMS:
                home = Path(folder) / f"{number}-{SYSTEMS.index(system)}" / ".truthloop"
                with running(system, home, kafka) as terminal:
                    command = ("simulate", "--json", "--models", options.model, "--jobs")
                    clients = ("--concurrency", str(options.concurrency))
                    terminal.run(*command, "50", *clients)  # models are loaded, topics are there
                    done = terminal.run(*command, str(options.jobs), *clients)
                if done.returncode != 0:
                    print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
                    return 1
                reports[system].append(json.loads(done.stdout))
    operations = list(reports[SYSTEMS[0]][0]["operations"])
    print(f"{options.jobs} jobs, {options.concurrency} clients, {options.model}: medians of {options.rounds}")
    print(f"{'':30}" + "".join(f"{system:>28}" for system in SYSTEMS))
    print(f"{'jobs a second':30}" + "".join(f"{middle(reports[s], 'throughput'):28.1f}" for s in SYSTEMS))
    for operation in operations:
        for share in ("p50_ms", "p99_ms"):
            row = [middle(reports[s], "operations", operation, share) for s in SYSTEMS]
            print(f"{operation + ', ' + share:30}" + "".join(f"{value:28.1f}" for value in row))
    bare, relayed, doubled = (middle(reports[s], "throughput") for s in SYSTEMS)
    result = {
        "relay_against_none": round(relayed / bare, 3),
        "two_workers_against_one": round(doubled / relayed, 3),
    }
    print(json.dumps(result))
    return 0


@contextmanager
def running(system: str, home: Path, kafka) -> Iterator:
    """The processes of a system, on a MongoDB of its own, ended afterwards."""
    from cli.processes import Terminal, free_port
    from truthloop.store import embedded

    settings = {"TRUTHLOOP_PORT": free_port(), "TRUTHLOOP_DATABASE": home.parent.name}
    if "no Kafka" not in system:
        settings["TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS"] = kafka.servers
    terminal = Terminal(home, **settings)
    with ExitStack() as ended:
        ended.callback(embedded.stop, home)
        terminal.answer("up", "--detach")
        ended.callback(terminal.run, "down")
        if "no Kafka" not in system:
            ended.callback(end, terminal.start("relay", "--json"))
        if "two" in system:
            ended.callback(end, terminal.start("worker"))
        yield terminal


def end(process: "Popen[str]") -> None:
    process.terminate()
    process.communicate()


def middle(reports: list[dict], *names: str) -> float:
    """The median of a figure over the rounds."""
    values = []
    for report in reports:
        value = report
        for name in names:
            value = value[name]
        values.append(value)
    return statistics.median(values)


if __name__ == "__main__":
    sys.exit(main())
