"""Those who wait for a job's end over HTTP: many at once, and told whatever happens."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI

from api.given_jobs import JOBS, sent
from api.service import BEARER
from cli.processes import wait_for

WAKE_SECONDS = 30  # less than they ask for


def waiting_for(app: FastAPI) -> int:
    """How many jobs are waited for, and listened for."""
    ends = app.state.waiting._job_ends
    return len(ends._waiting) if ends._listening is not None and ends._listening.done() else 0


def test_many_who_wait_hold_up_nobody_and_each_is_told_of_the_end(app, client, address, portrait):
    many = 120  # more than there are threads
    places = [sent(client, portrait).headers["location"] for _ in range(many)]
    with (
        httpx.Client(
            base_url=address, headers=BEARER, timeout=120, limits=httpx.Limits(max_connections=many)
        ) as patient,
        ThreadPoolExecutor(many) as pool,
    ):
        answers = [pool.submit(patient.get, place, params={"wait": 60}) for place in places]
        wait_for(lambda: waiting_for(app) == many, "all to wait")

        for place in places:
            assert client.get(place).status_code == 202
        assert not any(answer.done() for answer in answers)

        for place in places:
            assert client.post(place.replace("result", "cancel")).status_code == 200
        assert {answer.result(WAKE_SECONDS).status_code for answer in answers} == {409}
    assert waiting_for(app) == 0


def test_who_waits_for_a_job_that_is_deleted_is_told(app, client, address, portrait):
    place = sent(client, portrait).headers["location"]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.get, f"{address}{place}?wait=60", headers=BEARER, timeout=120)
        wait_for(lambda: waiting_for(app) == 1, "it to wait")

        client.delete(place.removesuffix("/result"))

        assert answer.result(WAKE_SECONDS).status_code == 404


def test_who_waits_goes_on_waiting_when_the_listener_has_ended(app, client, address, portrait):
    place = sent(client, portrait).headers["location"]
    ends = app.state.waiting._job_ends
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.get, f"{address}{place}?wait=60", headers=BEARER, timeout=120)
        wait_for(lambda: waiting_for(app) == 1, "it to wait")
        first = ends._listener

        first.get_loop().call_soon_threadsafe(first.cancel)
        wait_for(lambda: ends._listener is not first and ends._listening.done(), "another listener")
        assert not answer.done()
        client.post(place.replace("result", "cancel"))

        assert answer.result(WAKE_SECONDS).status_code == 409


def test_who_waits_when_the_service_stops_is_told_how_the_job_stands(app, client, address, workspace, portrait):
    place = sent(client, portrait).headers["location"]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.get, f"{address}{place}?wait=60", headers=BEARER, timeout=120)
        wait_for(lambda: waiting_for(app) == 1, "it to wait")

        workspace.hub.close()

        assert answer.result(WAKE_SECONDS).status_code == 202


@pytest.mark.parametrize("wait", [-1, 61, "inf", "nan", "long"])
def test_one_waits_a_minute_at_most(client, wait):
    assert client.get(f"{JOBS}/x/result", params={"wait": wait}).status_code == 422
