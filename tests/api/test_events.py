"""The event log over HTTP."""

import asyncio
import queue
import threading
import time

import httpx
import jsonschema
import pytest

from api.service import BEARER, DEADLINE_SECONDS, Sent, served, stream
from events.log import write, write_many
from events.test_cloudevent import SCHEMA
from truthloop.api import events as api_events
from truthloop.events import listeners


def test_pages_of_the_log_are_cloudevents(client, store):
    written = write_many(store, ["a", "b", "c"])

    first = client.get("/api/v1/events", params={"limit": 2}).json()
    rest = client.get("/api/v1/events", params={"limit": 2, "after": first["next"]}).json()

    assert [event["id"] for event in first["items"] + rest["items"]] == written
    assert rest["next"] is None
    for event in first["items"]:
        jsonschema.validate(event, SCHEMA)


def test_a_stream_sends_each_event_as_it_happens(address, store):
    with stream(address) as sent:
        written = [write(store, subject, new=3) for subject in ("a", "b")]

        events = [next(sent), next(sent)]
    assert [event.id for event in events] == written
    assert {event.event for event in events} == {"dev.truthloop.documents.loaded"}
    assert events[0].data["data"] == {"new": 3}
    jsonschema.validate(events[0].data, SCHEMA)


@pytest.mark.parametrize("way", ["header", "query"])
def test_a_client_that_comes_back_gets_what_it_missed(address, store, way):
    seen = write(store, "seen")
    missed = write(store, "missed")
    request = {"headers": {"Last-Event-ID": seen}} if way == "header" else {"params": {"last_event_id": seen}}
    with stream(address, **request) as sent:
        assert next(sent).id == missed


def test_a_stream_from_a_malformed_id_is_a_problem_and_no_stream(client):
    answer = client.get("/api/v1/events/stream", headers={"Last-Event-ID": "5"})

    assert (answer.status_code, answer.json()["title"]) == (422, "Cursor refused")


def test_a_silent_stream_says_that_it_is_there(address, monkeypatch):
    monkeypatch.setattr(api_events, "HEARTBEAT_SECONDS", 0.05)
    with stream(address) as sent:
        assert next(sent) == ": still here"


def test_when_the_service_stops_streams_end(app, store):
    ended: queue.Queue = queue.Queue()

    def listen(address: str, listening: threading.Event) -> None:
        with stream(address) as sent:
            listening.set()
            ended.put(list(sent))

    with served(app) as address:
        listening = threading.Event()
        threading.Thread(target=listen, args=(address, listening), daemon=True).start()
        assert listening.wait(DEADLINE_SECONDS)

    assert ended.get(timeout=DEADLINE_SECONDS) == []


def test_a_client_that_goes_is_forgotten(address, workspace):
    with stream(address):
        (sink,) = workspace.hub._loops.values()
        assert len(sink._listeners) == 1

    deadline = time.monotonic() + DEADLINE_SECONDS
    while sink._listeners:
        assert time.monotonic() < deadline, "the listener stays"
        time.sleep(0.01)


def test_a_client_that_is_too_slow_is_cut_off_and_resumes_without_a_gap(address, workspace, store, monkeypatch):
    monkeypatch.setattr(listeners.LoopListener.__init__, "__defaults__", (10,))
    with stream(address) as sent:
        written = write_many(store, [str(number) for number in range(3)])
        seen = [next(sent).id for _ in range(3)]
        written += write_many(store, [str(number) for number in range(3, 1000)])
        seen += [event.id for event in sent if isinstance(event, Sent)]  # until it is cut off
    assert len(seen) < 1000

    with stream(address, headers={"Last-Event-ID": seen[-1]}) as sent:
        while len(set(seen)) < 1000:
            seen.append(next(sent).id)

    assert set(seen) == set(written)


def test_dozens_of_clients_get_each_event_once_in_order_and_others_are_answered(address, store):
    clients, number = 50, 20

    async def listen(client: httpx.AsyncClient, started: asyncio.Barrier) -> list[str]:
        ids: list[str] = []
        async with client.stream("GET", "/api/v1/events/stream") as response:
            async for line in response.aiter_lines():
                if line.startswith("retry: "):
                    await started.wait()
                if line.startswith("id: "):
                    ids.append(line.removeprefix("id: "))
                if len(ids) == number:
                    return ids
        return ids

    async def all_of_them() -> tuple[list[str], list[list[str]], set[int]]:
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(base_url=address, headers=BEARER, limits=limits, timeout=DEADLINE_SECONDS) as client,
            asyncio.timeout(DEADLINE_SECONDS),
        ):
            started = asyncio.Barrier(clients + 1)
            tasks = [asyncio.create_task(listen(client, started)) for _ in range(clients)]
            await started.wait()
            written, statuses = [], set()
            for each in range(number):
                written.append(await asyncio.to_thread(write, store, str(each)))
                statuses.add((await client.get("/api/v1/events", params={"limit": 1})).status_code)
            return written, await asyncio.gather(*tasks), statuses

    written, seen, statuses = asyncio.run(all_of_them())

    assert seen == [written] * clients
    assert statuses == {200}
