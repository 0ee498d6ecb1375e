"""A request that is repeated with its Idempotency-Key is done once, whatever dies in between."""

import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from api.given_jobs import FACES, JOBS, encoded, verbs_of
from api.service import BEARER, SERVICE
from cli.processes import free_port, wait_for

BATCHES = "/api/v1/inference/batches"
KEY = {"Idempotency-Key": "mine"}


def count(workspace, collection: str = "truthloop.jobs") -> int:
    return workspace.store[collection].count_documents({})


def test_a_repetition_gets_the_same_answer_and_makes_nothing(client, workspace):
    first, again = (client.post(JOBS, json={"model": FACES}, headers=KEY) for _ in range(2))

    assert (again.status_code, again.content) == (first.status_code, first.content) == (201, first.content)
    for name in ("location", "etag", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert count(workspace) == 1
    assert verbs_of(workspace, first.json()["id"]) == [(1, "created")]


def test_a_repetition_gets_the_answer_of_then_when_the_job_has_gone_on(client):
    first = client.post(JOBS, json={"model": FACES}, headers=KEY)
    client.post(f"{first.headers['location']}/cancel")

    assert client.post(JOBS, json={"model": FACES}, headers=KEY).json()["state"] == "created"


def test_an_execution_is_done_once(client, workspace):
    job = client.post(JOBS, json={"model": FACES})
    headers = {"Content-Type": "image/png", **KEY}

    first, again = (
        client.post(job.headers["location"], content=encoded("PNG"), headers=headers) for _ in range(2)
    )

    assert (first.status_code, again.status_code, again.content) == (202, 202, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert verbs_of(workspace, job.json()["id"]) == [(1, "created"), (2, "queued")]


def test_a_form_is_the_same_though_its_boundary_is_another(client, workspace):
    """As with each new curl."""
    answers = []
    for boundary in ("one", "two"):
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", **KEY}
        answers.append(
            client.post(JOBS, data={"model": FACES}, files={"image": ("a.png", encoded("PNG"))}, headers=headers)
        )

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert count(workspace) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"json": {"model": "opencv_people"}},
        {"data": {"model": FACES}, "files": {"image": encoded("PNG")}},
    ],
)
def test_another_request_under_the_same_key_is_refused(client, workspace, other):
    client.post(JOBS, json={"model": FACES}, headers=KEY)

    answer = client.post(JOBS, headers=KEY, **other)

    assert (answer.status_code, [*answer.json()["errors"]]) == (422, ["Idempotency-Key"])
    assert count(workspace) == 1


def test_another_image_under_the_same_key_is_refused(client):
    place = client.post(JOBS, json={"model": FACES}).headers["location"]
    headers = {"Content-Type": "image/png", **KEY}

    answers = [client.post(place, content=encoded("PNG", (side, 9)), headers=headers) for side in (8, 9)]

    assert [answer.status_code for answer in answers] == [202, 422]


def test_a_key_belongs_to_its_path(client):
    places = [client.post(JOBS, json={"model": FACES}).headers["location"] for _ in range(2)]
    headers = {"Content-Type": "image/png", **KEY}

    answers = [client.post(place, content=encoded("PNG"), headers=headers) for place in places]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] != answers[1].json()["id"]


def test_a_refused_request_leaves_its_key_free(client):
    refused = client.post(JOBS, json={"model": "nobody"}, headers=KEY)
    taken = client.post(JOBS, json={"model": FACES}, headers=KEY)

    assert (refused.status_code, taken.status_code) == (422, 201)


def test_a_batch_is_made_once(client, workspace):
    body = {"model": FACES, "query": "all"}
    first, again = (client.post(BATCHES, json=body, headers=KEY) for _ in range(2))

    assert (first.status_code, again.status_code, again.content) == (202, 202, first.content)
    assert count(workspace, "truthloop.batches") == 1


def test_of_many_at_once_one_is_done_and_all_get_its_answer(client, workspace):
    def make(_: int) -> httpx.Response:
        return client.post(JOBS, json={"model": FACES}, headers=KEY)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(make, range(48)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert count(workspace) == 1


def test_of_many_executions_at_once_one_is_done_and_all_get_its_answer(client, workspace):
    job = client.post(JOBS, json={"model": FACES})
    image = encoded("PNG")

    def execute(_: int) -> httpx.Response:
        return client.post(job.headers["location"], content=image, headers={"Content-Type": "image/png", **KEY})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(execute, range(48)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert verbs_of(workspace, job.json()["id"]) == [(1, "created"), (2, "queued")]


def test_a_key_is_kept_for_a_day(client, workspace):
    client.post(JOBS, json={"model": FACES}, headers=KEY)

    (kept,) = workspace.store["truthloop.idempotency_keys"].find()
    indexes = workspace.store["truthloop.idempotency_keys"].index_information().values()

    assert timedelta(hours=23) < kept["expires"] - datetime.now(UTC) <= timedelta(hours=24)
    assert "mine" not in str(kept)  # nor can it be found there
    assert [("expires", 1)] in [index["key"] for index in indexes if index.get("expireAfterSeconds") == 0]


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_a_length(client, key):
    answer = client.post(JOBS, json={"model": FACES}, headers={"Idempotency-Key": key})

    assert (answer.status_code, [*answer.json()["errors"]]) == (422, ["Idempotency-Key"])


# -- the service is killed


class Killed:
    """A service that is killed and comes back at the same address."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", SERVICE, self.port], stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@contextmanager
def running() -> Iterator[Killed]:
    service = Killed()
    try:
        yield service
    finally:
        service.kill()


def test_killed_between_requests_nothing_acknowledged_is_lost_and_nothing_is_doubled(store):
    """100 jobs by four clients; each repeats its request until it is answered, while the service is killed."""
    jobs, kills = 100, 4
    answered: Counter[str] = Counter()
    done = threading.Event()
    image = encoded("PNG")

    def post(client: httpx.Client, path: str, key: str, **body) -> httpx.Response:
        headers = BEARER | body.pop("headers", {}) | {"Idempotency-Key": key}
        while True:
            try:
                answer = client.post(path, headers=headers, **body)
            except httpx.TransportError:
                if done.wait(0.02):
                    raise
                continue
            assert answer.status_code in (201, 202), answer.text
            answered[key] += 1
            return answer

    def run(number: int) -> tuple[str, str]:
        """A job by one request or by two, and what its first answer said."""
        with httpx.Client(base_url=service.address, timeout=30, verify=False) as client:
            if number % 2:
                form = {"data": {"model": FACES}, "files": {"image": image}}
                made, again = (post(client, JOBS, f"{number}", **form) for _ in range(2))
            else:
                made = post(client, JOBS, f"{number}", json={"model": FACES})
                body = {"content": image, "headers": {"Content-Type": "image/png"}}
                post(client, made.headers["location"], "execution", **body)
                again = post(client, JOBS, f"{number}", json={"model": FACES})
            return made.json()["id"], again.json()["id"]

    with running() as service, ThreadPoolExecutor(4) as pool:
        try:
            found = [pool.submit(run, number) for number in range(jobs)]
            for kill in range(1, kills + 1):
                enough = kill * jobs // (kills + 1) + random.randrange(10)
                wait_for(lambda enough=enough: len(answered) >= enough, f"{enough} answers")
                service.kill()
                service.start()
            pairs = [each.result(120) for each in found]
        finally:
            done.set()

    assert all(first == again for first, again in pairs)
    ids = {first for first, _ in pairs}
    assert len(ids) == jobs
    stored = {job["_id"]: (job["state"], job["revision"]) for job in store["truthloop.jobs"].find()}
    assert stored == dict.fromkeys(ids, ("queued", 2))
    events = Counter(
        (event["subject"], event["sequence"], event["type"].rpartition(".")[2])
        for event in store["truthloop.events"].find()
    )
    assert events == Counter(
        (job_id, sequence, verb) for job_id in ids for sequence, verb in ((1, "created"), (2, "queued"))
    )
