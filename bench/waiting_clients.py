"""How much 500 clients that wait for events slow down everyone else.

    python bench/waiting_clients.py [--clients 500] [--seconds 10]

A real service in a process of its own, the waiting clients in another, and here one client that asks for the
status and for /healthz as fast as it gets answers: first alone, then beside the waiting ones while five events a
second go out to each of them. Prints the times and the ratio of the two; exits 1 if with them an answer took
longer than the limit.
"""

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from percentiles import at

LIMIT_MS = 100.0
EVENTS_PER_SECOND = 5
TOKEN = "benchmark-token-of-32-characters"

SERVICE = f"""
import threading
from truthloop import logs
from truthloop.api.app import create_app
from truthloop.api.serve import serve
from truthloop.settings import load_settings
from truthloop.workspace import Workspace

logs.configure("warning")
settings = load_settings()
with Workspace.open(settings, create=True) as workspace:
    stop = threading.Event()
    follower = threading.Thread(target=workspace.follow_changes, args=(stop,))
    follower.start()
    app = create_app(workspace, token={TOKEN!r}, settings=settings)
    serve(app, host="127.0.0.1", port=0, ready=lambda address: print(address, flush=True))
    stop.set()
    follower.join()
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each measurement takes")
    parser.add_argument("--wait-at", metavar="PORT", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.wait_at:
        asyncio.run(wait(options.wait_at, options.clients))
        return 0
    with tempfile.TemporaryDirectory(prefix="truthloop-bench-") as folder:
        os.environ["TRUTHLOOP_HOME"] = str(Path(folder) / ".truthloop")
        os.environ.pop("TRUTHLOOP_TOKEN", None)
        service = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True)
        try:
            port = int(service.stdout.readline().rpartition(":")[2])
            return measure(port, options.clients, options.seconds)
        finally:
            service.terminate()
            service.wait(30)
            from truthloop.store import embedded

            embedded.stop(Path(os.environ["TRUTHLOOP_HOME"]))


def measure(port: int, clients: int, seconds: float) -> int:
    paths = ("/api/v1/status", "/healthz")
    ask(port, paths[0], seconds=2.0)  # everything is loaded and counted
    alone = {path: ask(port, path, seconds) for path in paths}
    waiting = subprocess.Popen(
        [sys.executable, __file__, "--wait-at", str(port), "--clients", str(clients)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout.readline() == "listening\n"
    done = threading.Event()
    written: list[str] = []
    writer = threading.Thread(target=write_events, args=(done, written))
    writer.start()
    try:
        beside = {path: ask(port, path, seconds) for path in paths}
    finally:
        done.set()
        writer.join()
    received = [int(count) for count in waiting.communicate(f"{len(written)}\n", timeout=60)[0].split()]
    print(f"{'':37}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'answers':>9}")
    for path in paths:
        for name, times in (("alone", alone[path]), (f"{clients} clients wait", beside[path])):
            figures = "".join(f"{time:9.1f}" for time in (at(times, 0.5), at(times, 0.99), times[-1]))
            print(f"{path:16} {name:>20}{figures}{len(times):9}")
    print(f"{len(written)} events written; each client received {min(received)} to {max(received)}")
    result = {
        "ratio_p50_status": round(at(beside[paths[0]], 0.5) / at(alone[paths[0]], 0.5), 2),
        "ratio_p99_status": round(at(beside[paths[0]], 0.99) / at(alone[paths[0]], 0.99), 2),
        "slowest_ms": round(max(times[-1] for times in beside.values()), 1),
        "limit_ms": LIMIT_MS,
    }
    print(json.dumps(result))
    return 0 if result["slowest_ms"] < LIMIT_MS and set(received) == {len(written)} else 1


def ask(port: int, path: str, seconds: float) -> list[float]:
    """Milliseconds from request to answer, sorted, asking again and again on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        response.read()
        times.append((time.perf_counter() - began) * 1000)
        assert response.status == 200, response.status
    connection.close()
    return sorted(times)


def write_events(done: threading.Event, written: list[str]) -> None:
    import truthloop
    from truthloop.events.record import record

    with truthloop.open() as workspace:
        store = workspace.store
        while not done.wait(1 / EVENTS_PER_SECOND):
            number = len(written) + 1
            written.append(
                store.transaction(
                    lambda session, number=number: record(
                        store,
                        session,
                        type="benchmark.run",
                        subject="benchmark",
                        source="/bench",
                        sequence=number,
                        data={},
                    )
                )
            )


async def wait(port: int, clients: int) -> None:
    """Opens the streams, counts the events of each, and prints the counts once all have come."""
    counts = [0] * clients
    listening = asyncio.Semaphore(0)

    async def listen(client: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /api/v1/events/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n"
            % TOKEN.encode()
        )
        while line := await reader.readline():
            if line.startswith(b"retry: "):
                listening.release()
            counts[client] += line.startswith(b"id: ")

    tasks = [asyncio.create_task(listen(client)) for client in range(clients)]
    for _ in range(clients):
        await listening.acquire()
    print("listening", flush=True)
    expected = int(await asyncio.to_thread(sys.stdin.readline))
    deadline = time.monotonic() + 30
    while min(counts) < expected and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    print(*counts, flush=True)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    sys.exit(main())
