"""Following the event log: from Kafka where there is one, else from the API."""

import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import httpx

from truthloop.errors import InputRefused, TruthloopError
from truthloop.events.cloudevent import from_cloudevent_json
from truthloop.events.documents import Event
from truthloop.events.from_kafka import KafkaEvents
from truthloop.events.passed_on import PassedOn, first_id_at, id_time_ms
from truthloop.settings import Settings
from truthloop.simulate.client import API, tls, trusts_proxies

# Between two attempts to reach what is followed.
PAUSE_SECONDS = 0.5
# The service sends a sign of life every 15 s.
SILENCE_SECONDS = 40.0


class Follower:
    """Reads the log on a thread of its own until it is stopped; a break in the connection is taken up again.

    Args:
        listen: where the events come from.
        show: gets each event once; on the follower's thread.
        since_seconds: the time from which on events are shown, in seconds since 1970, by the service's clock.
    """

    def __init__(self, listen: "Listen", show: Callable[[Event], None], *, since_seconds: float) -> None:
        self._listen = listen
        self._show = show
        self._first = first_id_at(round(since_seconds * 1000))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="truthloop-follower", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it soon; does not wait for a connection on which nothing comes."""
        self._stop.set()

    def _run(self) -> None:
        passed = PassedOn()
        last = self._first
        while not self._stop.is_set():
            try:
                for event in self._listen(last, self._stop):
                    if self._stop.is_set():
                        return
                    if event.id >= self._first and passed.add(event.id, now_ms=id_time_ms(event.id)):
                        self._show(event)
                    last = max(last, event.id)
            except (TruthloopError, httpx.HTTPError):
                pass  # what is wrong with the service, the run itself tells
            self._stop.wait(PAUSE_SECONDS)


class Listen(Protocol):
    """Where events come from."""

    def __call__(self, after: str, stop: threading.Event, /) -> Iterator[Event]:
        """The events after that one, repeats among them; ends when the connection breaks or `stop` is set."""


def from_kafka(settings: Settings) -> Listen:
    """What the relay takes to Kafka."""

    def listen(after: str, stop: threading.Event, /) -> Iterator[Event]:
        return iter(KafkaEvents(settings, follow=True, after=after, stop=stop))

    return listen


def from_api(url: str, token: str) -> Listen:
    """The service's Server-Sent Events."""

    def listen(after: str, stop: threading.Event, /) -> Iterator[Event]:
        headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": after}
        with (
            httpx.Client(trust_env=trusts_proxies(url), verify=tls(url), timeout=SILENCE_SECONDS) as http,
            http.stream("GET", f"{url}{API}/events/stream", headers=headers) as answer,
        ):
            answer.raise_for_status()
            for line in answer.iter_lines():
                if stop.is_set():
                    return
                if line.startswith("data: "):
                    try:
                        yield from_cloudevent_json(line.removeprefix("data: ").encode())
                    except InputRefused:
                        continue  # a service of another version

    return listen
