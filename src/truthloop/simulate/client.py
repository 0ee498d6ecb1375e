"""A client of the service as it should be: it repeats what may be repeated, and knows what it was told.

A request is repeated after an error of the connection, a 429, and a 502, 503 or 504, with the same
`Idempotency-Key` where it makes or starts something, until the client's patience ends. So a service that is killed
and comes back is a delay.
"""

import mimetypes
import random
import ssl
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from email.utils import parsedate_to_datetime
from functools import cache
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from truthloop.errors import NotFound, NotSignedIn, Unavailable
from truthloop.predict.documents import JobState
from truthloop.simulate.pictures import Picture
from truthloop.simulate.tally import Tally

API = "/api/v1"
JOBS = f"{API}/inference/jobs"
# A page of a list, the most that the service gives.
PAGE = 1000
# How long one request for a result may wait at the service for the job to end.
WAIT_SECONDS = 10.0
# How long a request may take besides: its image may wait its turn.
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
# Between two attempts: from the first to the second, and at most; in between it doubles.
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.1, 2.0
# The longest that a `Retry-After` is followed.
LONGEST_REST_SECONDS = 30.0
_COME_BACK = (429, 502, 503, 504)
# What is answered where it is for the image that a request isn't taken.
_REFUSED = (413, 415, 422)
# Where an answer keeps whether it is one to a repetition.
_REPEATED = "truthloop.repeated"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class GaveUp(Exception):
    """A request had no answer for as long as the client's patience lasts."""


class OddAnswer(Exception):
    """An answer that the client can't explain: a fault of the service, or of this client."""


class Client:
    """One client with its own connection, for one thread.

    Args:
        url: where the service is.
        token: what it asks for.
        tally: what is counted: the time of each operation, and repetitions.
        patience_seconds: how long a request is repeated in vain.
        hurry: ends the pauses between attempts, and so the attempts, when it is set.
    """

    def __init__(
        self, url: str, token: str, *, tally: Tally, patience_seconds: float, hurry: threading.Event
    ) -> None:
        self._tally = tally
        self._patience = patience_seconds
        self._hurry = hurry
        self._http = httpx.Client(
            base_url=url,
            verify=tls(url),
            trust_env=trusts_proxies(url),
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def greet(self, models: Collection[str]) -> float:
        """Asks once whether the service is there, knows the token and has the models.

        Returns:
            The service's time, in seconds since 1970.

        Raises:
            Unavailable: no service answers, or something else than the service.
            NotSignedIn: the token is wrong.
            NotFound: there is no such model.
        """
        try:
            answer = self._http.get(f"{API}/models")
        except httpx.HTTPError as error:
            raise Unavailable(
                f"No service answers at {self._http.base_url} ({_reason(error)}). Start one with `truthloop up`, "
                "or say in TRUTHLOOP_URL where one is."
            ) from None
        if answer.status_code in (401, 403):
            raise NotSignedIn(
                f"The service at {self._http.base_url} refuses the token. Give its own in TRUTHLOOP_TOKEN."
            )
        if not answer.is_success:
            raise Unavailable(
                f"{self._http.base_url} answers {answer.status_code} to {API}/models: {_detail(answer)} "
                "Is it Truthloop's service? `truthloop doctor` looks for what is wrong."
            )
        try:
            there = [str(item["name"]) for item in answer.json()["items"]]
            now = parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (ValueError, KeyError, TypeError):
            raise Unavailable(
                f"{self._http.base_url} doesn't answer as Truthloop's service does. "
                "Say in TRUTHLOOP_URL where one is."
            ) from None
        for model in models:
            if model not in there:
                raise NotFound(f"There is no model {model!r} at the service. It has: {', '.join(there)}.")
        return now

    def create(self, model: str, deadline_seconds: float) -> str:
        """Makes a job; returns its id."""
        body = {"model": model, "deadline_seconds": deadline_seconds}
        return _id(self._ask("create", "POST", JOBS, (201,), json=body))

    def submit(self, model: str, deadline_seconds: float, picture: Picture) -> str:
        """Makes a job and executes it, in one request; returns its id."""
        form = {"model": model, "deadline_seconds": repr(deadline_seconds)}
        files = {"image": (picture.name, picture.data, _type(picture))}
        return _id(self._ask("create+execute", "POST", JOBS, (202,), picture=picture, data=form, files=files))

    def execute(self, job: str, picture: Picture) -> None:
        """Puts a job into the queue, with its image."""
        headers = {"Content-Type": _type(picture)}
        path = f"{JOBS}/{job}"
        self._ask("execute", "POST", path, (202,), picture=picture, content=picture.data, headers=headers)

    def read(self, job: str, *, operation: str | None = "read") -> Mapping[str, Any] | None:
        """A job as it stands; None if there is none."""
        answer = self._ask(operation, "GET", f"{JOBS}/{job}", (200, 404))
        return None if answer.status_code == 404 else _object(answer)

    def result(
        self, job: str, *, wait_seconds: float = 0.0, operation: str | None = "result"
    ) -> tuple[str, bytes | None]:
        """The state of a job, and its result as it was sent if there is one; `gone` if there is no job."""
        answer = self._ask(
            operation, "GET", f"{JOBS}/{job}/result", (200, 202, 404, 409), params={"wait": f"{wait_seconds:g}"}
        )
        if answer.status_code == 200:
            return JobState.SUCCEEDED, answer.content
        if answer.status_code == 202:
            return str(_object(answer)["state"]), None
        now = self.read(job, operation=None)
        return ("gone" if now is None else str(now["state"])), None

    def cancel(self, job: str) -> bool:
        """Ends a job; false if that is refused, since it has ended already."""
        answer = self._ask("cancel", "POST", f"{JOBS}/{job}/cancel", (200, 409))
        return answer.status_code == 200

    def delete(self, job: str) -> None:
        """Removes a job."""
        answer = self._ask("delete", "DELETE", f"{JOBS}/{job}", (204, 404))
        # After a repetition it may be that an earlier attempt was done, whose answer got lost: the events tell.
        if answer.status_code == 404 and not answer.extensions[_REPEATED]:
            raise OddAnswer(f"DELETE of job {job} answers 404 at the first attempt: {_detail(answer)}")

    def jobs_since(self, time_seconds: float) -> Iterator[Mapping[str, Any]]:
        """All jobs that were made since then, whoever made them, the newest first."""
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_seconds))
        return self._pages(JOBS, {"created_after": since})

    def events_after(self, event_id: str) -> Iterator[Mapping[str, Any]]:
        """The log after an event, as CloudEvents."""
        return self._pages(f"{API}/events", {"after": event_id})

    def _pages(self, path: str, query: dict[str, str]) -> Iterator[Mapping[str, Any]]:
        while True:
            page = _object(self._ask(None, "GET", path, (200,), params=query | {"limit": str(PAGE)}))
            yield from page["items"]
            if page["next"] is None:
                return
            query = query | {"after": page["next"]}

    def _ask(
        self,
        operation: str | None,
        method: str,
        path: str,
        expected: Collection[int],
        *,
        headers: Mapping[str, str] | None = None,
        picture: Picture | None = None,
        **sent: Any,
    ) -> httpx.Response:
        """One request with its repetitions.

        Args:
            operation: under what its time is counted; None if it isn't.
            method: of HTTP.
            path: with the leading slash.
            expected: the statuses that are answers.
            headers: besides the usual ones.
            picture: what is sent, to name its file where it is refused.
            **sent: as httpx takes it.

        Raises:
            GaveUp: patience ended.
            OddAnswer: another status.
        """
        headers = dict(headers or {}) | ({"Idempotency-Key": uuid.uuid4().hex} if method == "POST" else {})
        timeout = ANSWER_SECONDS + float(sent.get("params", {}).get("wait", 0))
        began = time.monotonic()
        pause = FIRST_PAUSE_SECONDS
        repeated = False
        while True:
            try:
                answer = self._http.request(
                    method,
                    path,
                    headers=headers,
                    timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS),
                    **sent,
                )
            except httpx.TransportError as error:
                reason, told, at_least = "connection", _reason(error), 0.0
            else:
                if answer.status_code in expected:
                    answer.extensions[_REPEATED] = repeated
                    if operation is not None:
                        self._tally.operation(operation, time.monotonic() - began)
                    return answer
                if answer.status_code not in _COME_BACK:
                    odd = f"{method} {path} answers {answer.status_code}: {_detail(answer)}"
                    if answer.status_code in _REFUSED and picture is not None and picture.path is not None:
                        odd = f"{picture.path}: {odd} Mend the file, or take it out of the folder."
                    raise OddAnswer(odd)
                reason, told = str(answer.status_code), _detail(answer)
                at_least = _retry_after(answer)
            # Spread, so that all clients of a service that comes back don't come at once.
            rest = max(at_least, pause * random.uniform(0.5, 1.0))
            if time.monotonic() + rest - began > self._patience or self._hurry.wait(rest):
                raise GaveUp(f"{method} {path} had no answer for {time.monotonic() - began:.0f} s: {told}")
            self._tally.retry(reason)
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
            repeated = True


def trusts_proxies(url: str) -> bool:
    """Whether the environment's proxies are for that address: not where it is on this machine."""
    return urlsplit(url).hostname not in LOOPBACK


@cache
def tls(url: str) -> ssl.SSLContext | bool:
    """The certificates that are trusted, read once for all clients; none where there is no TLS."""
    return ssl.create_default_context() if url.startswith("https:") else False


def _object(answer: httpx.Response) -> Mapping[str, Any]:
    """The JSON object that an answer is.

    Raises:
        OddAnswer: it is none.
    """
    try:
        said = answer.json()
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise OddAnswer(
            f"{answer.request.method} {answer.request.url.path} answers no JSON: {answer.text[:200]!r}"
        )
    return said


def _id(answer: httpx.Response) -> str:
    return str(_object(answer)["id"])


def _type(picture: Picture) -> str:
    return mimetypes.guess_type(picture.name)[0] or "application/octet-stream"


def _reason(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


def _detail(answer: httpx.Response) -> str:
    """What a problem document says, or the beginning of what there is."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200] or answer.reason_phrase


def _retry_after(answer: httpx.Response) -> float:
    """The seconds that the service asks for; 0 where it asks for none, or for a date."""
    try:
        return min(float(answer.headers.get("Retry-After", 0)), LONGEST_REST_SECONDS)
    except ValueError:
        return 0.0
