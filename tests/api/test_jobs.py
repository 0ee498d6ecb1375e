"""The life of a job over HTTP, with a worker and a model that needs no file."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from api.service import BEARER
from cli.processes import wait_for
from hostile import ALL, send
from truthloop.settings import Settings

JOBS = "/api/v1/inference/jobs"
FACES = "opencv_faces"
DEADLINE_SECONDS = 60


@pytest.fixture(scope="module")
def portrait() -> bytes:
    """A photograph of one face, from Matplotlib's sample data."""
    return (resources.files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg").read_bytes()


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """With a blob store of its own."""
    return settings.model_copy(update={"blobs": f"file://{tmp_path}/blobs"})


@pytest.fixture
def worker(workspace) -> Iterator[None]:
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=workspace.run_worker, args=(stop,), kwargs={"models": [FACES], "ready": ready.set}
    )
    thread.start()
    assert ready.wait(DEADLINE_SECONDS)
    yield
    stop.set()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()


def made(client: httpx.Client, **fields) -> httpx.Response:
    answer = client.post(JOBS, json={"model": FACES} | fields)
    assert answer.status_code == 201, answer.text
    return answer


def sent(client: httpx.Client, image: bytes, **more) -> httpx.Response:
    return client.post(JOBS, data={"model": FACES}, files={"image": ("face.jpg", image)}, **more)


def execute(client: httpx.Client, job: httpx.Response, image: bytes, media_type: str = "image/jpeg"):
    return client.post(job.headers["location"], content=image, headers={"Content-Type": media_type})


def encoded(kind: str, size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size[::-1], 3), 200, np.uint8)).save(file, kind)
    return file.getvalue()


def verbs_of(workspace, job_id: str) -> list[tuple[int, str]]:
    found = workspace.store["truthloop.events"].find({"subject": job_id}).sort("sequence", 1)
    return [(event["sequence"], event["type"].rpartition(".")[2]) for event in found]


def test_the_life_of_a_job_as_the_brief_has_it(client, workspace, worker, portrait):
    job = made(client)
    assert (job.json()["state"], job.headers["etag"]) == ("created", '"1"')
    assert job.headers["location"] == f"{JOBS}/{job.json()['id']}"

    queued = execute(client, job, portrait)
    assert (queued.status_code, queued.json()["state"]) == (202, "queued")
    assert queued.headers["location"] == f"{JOBS}/{job.json()['id']}/result"
    assert int(queued.headers["retry-after"]) > 0

    result = client.get(queued.headers["location"], params={"wait": 60})
    assert result.status_code == 200
    (face,) = result.json()["boxes"]
    assert face["label"] == "face"
    assert 0.2 < face["left"] < face["right"] < 0.8

    read = client.get(job.headers["location"])
    assert (read.json()["state"], read.json()["image_id"]) == ("succeeded", result.json()["image_id"])
    assert verbs_of(workspace, job.json()["id"]) == [
        (1, "created"),
        (2, "queued"),
        (3, "started"),
        (4, "succeeded"),
    ]

    assert client.delete(job.headers["location"]).status_code == 204
    assert client.get(job.headers["location"]).status_code == 404
    assert client.get(queued.headers["location"]).status_code == 404


def test_made_and_executed_in_one_request_with_the_image_in_a_form(client, worker, portrait):
    queued = sent(client, portrait)

    assert (queued.status_code, queued.json()["state"]) == (202, "queued")
    result = client.get(queued.headers["location"], params={"wait": 60})
    assert len(result.json()["boxes"]) == 1


def test_made_and_executed_in_one_request_with_an_image_of_the_workspace(client, worker, portrait):
    image = client.post("/api/v1/images", content=portrait, headers={"Content-Type": "image/jpeg"}).json()

    queued = client.post(JOBS, json={"model": FACES, "image_id": image["image_id"], "execute": True})

    assert queued.status_code == 202
    result = client.get(queued.headers["location"], params={"wait": 60}).json()
    assert (result["image_id"], len(result["boxes"])) == (image["image_id"], 1)


@pytest.mark.parametrize("named_at", ["creation", "execution"])
def test_executed_with_an_image_of_the_workspace(client, workspace, portrait, named_at):
    image_id = workspace.ingest_image(portrait).image_id
    job = made(client, **({"image_id": image_id} if named_at == "creation" else {}))

    body = {} if named_at == "creation" else {"json": {"image_id": image_id}}
    queued = client.post(job.headers["location"], **body)

    assert (queued.status_code, queued.json()["image_id"]) == (202, image_id)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "BMP", "TIFF"])
def test_every_format_is_taken_whatever_its_type_says(client, kind):
    assert execute(client, made(client), encoded(kind), "image/png").status_code == 202


def test_a_job_s_own_image_is_none_of_the_workspace(client, workspace, portrait):
    sent(client, portrait)

    assert workspace.store["metadata"].count_documents({}) == 0


@pytest.mark.parametrize("path", ["picture", "result"])
def test_what_is_known_already_is_not_sent_again(client, worker, portrait, path):
    place = sent(client, portrait).headers["location"].replace("result", path)
    first = client.get(place, params={"wait": 60})
    again = client.get(place, headers={"If-None-Match": first.headers["etag"]})

    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert again.headers["etag"] == first.headers["etag"]


def test_the_picture_is_that_of_python(client, workspace, worker, portrait):
    queued = sent(client, portrait)

    answer = client.get(queued.headers["location"].replace("result", "picture"), params={"wait": 60})

    assert answer.headers["content-type"] == "image/png"
    assert answer.content == workspace.jobs.picture(queued.json()["id"])
    assert Image.open(io.BytesIO(answer.content)).width >= Image.open(io.BytesIO(portrait)).width


def test_a_job_is_read_with_its_revision_and_polled_without_its_body(client):
    job = made(client)

    read = client.get(job.headers["location"])
    polled = client.get(job.headers["location"], headers={"If-None-Match": read.headers["etag"]})
    client.post(f"{job.headers['location']}/cancel")
    changed = client.get(job.headers["location"], headers={"If-None-Match": read.headers["etag"]})

    assert read.json() == job.json()
    assert (polled.status_code, polled.content) == (304, b"")
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')


def test_a_created_job_is_changed_by_who_has_seen_it_last(client):
    job = made(client, deadline_seconds=5)
    place, tag = job.headers["location"], {"If-Match": job.headers["etag"]}

    changed = client.patch(place, json={"model": "opencv_people"}, headers=tag)
    too_late = client.patch(place, json={"deadline_seconds": None}, headers=tag)
    whatever = client.patch(place, json={"deadline_seconds": None}, headers={"If-Match": "*"})

    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert (changed.json()["model"], changed.json()["deadline_seconds"]) == ("opencv_people", 5)
    assert too_late.status_code == 412
    assert (whatever.status_code, whatever.json()["deadline_seconds"]) == (200, None)
    assert whatever.json()["model"] == "opencv_people"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 428),
        ({"If-Match": '"9"'}, 412),
        ({"If-Match": 'W/"1"'}, 412),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": '"7", W/"1", "other"'}, 412),
        ({"If-Match": "1"}, 422),
        ({"If-Match": '"1" "2"'}, 422),
        ({"If-Match": '"1", *'}, 422),
    ],
)
def test_a_change_says_what_it_changes(client, headers, status):
    place = made(client).headers["location"]

    answer = client.patch(place, json={"deadline_seconds": 5}, headers=headers)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert client.get(place).headers["etag"] == '"1"'


def test_of_several_etags_one_must_be_the_present_one(client):
    place = made(client).headers["location"]

    changed = client.patch(place, json={"deadline_seconds": 5}, headers={"If-Match": '"7", "1" ,W/"2"'})
    too_late = client.patch(place, json={"deadline_seconds": 6}, headers={"If-Match": '"7", "1"'})

    assert (changed.status_code, changed.headers["etag"], too_late.status_code) == (200, '"2"', 412)
    assert "not 1 or 7" in too_late.json()["detail"]


@pytest.mark.parametrize("body", [{}, {"state": "succeeded"}, {"model": None}, [], {"deadline_seconds": 0}])
def test_a_change_that_means_nothing_is_refused(client, body):
    answer = client.patch(made(client).headers["location"], json=body, headers={"If-Match": "*"})

    assert answer.status_code == 422


def test_what_was_executed_is_not_changed_or_executed_again(client, portrait):
    job = made(client)
    assert execute(client, job, portrait).status_code == 202

    changed = client.patch(job.headers["location"], json={"model": FACES}, headers={"If-Match": "*"})

    assert changed.status_code == 409
    assert execute(client, job, portrait).status_code == 409


def test_cancelling_ends_a_job_and_an_ended_one_is_not_cancelled(client, workspace, portrait):
    queued = sent(client, portrait)
    place = f"{JOBS}/{queued.json()['id']}"

    cancelled = client.post(f"{place}/cancel")

    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert client.post(f"{place}/cancel").status_code == 409
    assert verbs_of(workspace, queued.json()["id"])[-1] == (3, "cancelled")


def test_a_result_that_is_not_there_yet_is_no_error(client, portrait):
    queued = sent(client, portrait)

    for path in ("result", "picture"):
        answer = client.get(f"{JOBS}/{queued.json()['id']}/{path}", params={"wait": 0.1})

        assert (answer.status_code, answer.json()["state"]) == (202, "queued")
        assert int(answer.headers["retry-after"]) > 0


def test_a_result_that_will_never_be_there_is_a_conflict_at_once(client, worker, portrait):
    created = made(client)
    cancelled = made(client)
    client.post(f"{cancelled.headers['location']}/cancel")

    for job in (created, cancelled):
        for path in ("result", "picture"):
            answer = client.get(f"{job.headers['location']}/{path}", params={"wait": 60})

            assert answer.status_code == 409
            assert job.json()["id"] in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", ""),
        ("POST", "/cancel"),
        ("GET", "/result?wait=60"),
        ("GET", "/picture?wait=60"),
    ],
)
def test_a_job_that_is_not_there_is_not_found(client, workspace, portrait, method, path):
    body = (
        {"content": portrait, "headers": {"Content-Type": "image/jpeg"}} if (method, path) == ("POST", "") else {}
    )

    answer = client.request(method, f"{JOBS}/nobody{path}", **body)

    assert answer.status_code == 404


def test_jobs_page_the_newest_first_by_state_model_and_time(client):
    jobs = [made(client, model=model).json() for model in (FACES, "opencv_people", FACES)]
    client.post(f"{JOBS}/{jobs[0]['id']}/cancel")

    def ids(**params) -> list[str]:
        answer = client.get(JOBS, params=params)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["items"]]

    newest_first = [job["id"] for job in reversed(jobs)]
    first = client.get(JOBS, params={"limit": 2}).json()
    assert [job["id"] for job in first["items"]] == newest_first[:2]
    assert ids(limit=2, after=first["next"]) == newest_first[2:]
    assert ids(state="cancelled") == [jobs[0]["id"]]
    assert ids(model="opencv_people") == [jobs[1]["id"]]
    assert ids(created_after=jobs[1]["created_at"]) == newest_first[:2]
    assert ids(created_before=jobs[1]["created_at"]) == newest_first[2:]


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("state=done", "state"),
        ("stat=queued", "stat"),
        ("limit=0", "limit"),
        ("limit=5&limit=6", "limit"),
        ("after=x", "after"),
        ("created_after=yesterday", "created_after"),
        ("created_after=1700000000", "created_after"),
        ("created_after=2026-01-31T09:30:00", "created_after"),
    ],
)
def test_a_wrong_filter_is_refused_by_its_name(client, query, place):
    answer = client.get(f"{JOBS}?{query}")

    assert answer.status_code == 422
    assert answer.json()["errors"].keys() == {place}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"model": None}, "model"),
        ({"modle": FACES}, "modle"),
        ({"deadline_seconds": -1}, "deadline_seconds"),
        ({"deadline_seconds": 1e9}, "deadline_seconds"),
        ({"options": {"tolerance": -1}}, "options.tolerance"),
        ({"options": {"tolerance": 3}}, "options.tolerance"),
        ({"execute": True}, "image_id"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(client, fields, place):
    answer = client.post(JOBS, json={"model": FACES} | fields)

    assert answer.status_code == 422
    assert answer.json()["errors"].keys() == {place}


def test_a_field_of_a_form_that_has_none_is_refused_by_its_name(client, portrait):
    place = made(client).headers["location"]
    for path, fields in ((place, {"model": "opencv_people"}), (JOBS, {"model": FACES, "tolerence": "1"})):
        answer = client.post(path, data=fields, files={"image": portrait})

        assert (answer.status_code, [*answer.json()["errors"]]) == (422, [[*fields][-1]])


@pytest.mark.parametrize("fields", [{"model": "nobody"}, {"image_id": "nobody"}])
def test_a_model_or_an_image_in_a_body_that_is_not_there_is_a_refused_field(client, fields):
    job = made(client)
    answers = [
        client.post(JOBS, json={"model": FACES} | fields),
        client.post(JOBS, json={"model": FACES, "execute": True} | fields),
        client.patch(job.headers["location"], json=fields, headers={"If-Match": "*"}),
    ]

    for answer in answers:
        assert (answer.status_code, [*answer.json()["errors"]]) == (422, [*fields])
        assert "nobody" in answer.json()["detail"]
    assert client.get(job.headers["location"]).headers["etag"] == '"1"'


def test_no_job_is_of_a_model_that_nobody_knows(client):
    made(client)

    answer = client.get(JOBS, params={"model": "nobody"})

    assert (answer.status_code, answer.json()) == (200, {"items": [], "next": None})


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"{", "application/json", 422),
        (b"\xff", "application/json", 422),
        (b'{"model": "opencv_faces"', "", 422),
        (b"[" * 2_000_000, "application/json", 413),
        (b"model=opencv_faces", "application/x-www-form-urlencoded", 415),
        (b"model: opencv_faces", "application/yaml", 415),
        (b"\xff\xd8\xff", "image/jpeg", 415),
    ],
)
def test_a_body_that_is_not_what_it_should_be_is_a_problem(client, content, media_type, status):
    headers = {"Content-Type": media_type} if media_type else {}

    answer = client.post(JOBS, content=content, headers=headers)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_full_queue_says_when_to_come_back(client, workspace, settings, portrait, monkeypatch):
    monkeypatch.setattr(workspace.jobs._limit, "_limit", 2)
    answers = [sent(client, portrait) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert client.get(JOBS).json()["items"][0]["id"] == answers[1].json()["id"]


def test_nothing_is_there_for_who_has_no_token(stranger, portrait):
    for request in (
        stranger.build_request("GET", JOBS),
        stranger.build_request("POST", JOBS, json={"model": FACES}),
        stranger.build_request("POST", JOBS, data={"model": FACES}, files={"image": portrait}),
        stranger.build_request("GET", f"{JOBS}/x/result?wait=60"),
    ):
        assert stranger.send(request).status_code == 401


@pytest.mark.parametrize("way", ["made and executed", "executed by a body", "executed by a form"])
def test_a_hostile_image_is_refused_with_a_problem_and_leaves_nothing(client, address, workspace, tmp_path, way):
    place, fields = JOBS, {"model": FACES}
    if way != "made and executed":
        place, fields = made(client).headers["location"], None
    before = client.get(JOBS).json()
    for kind in ALL:
        answer = send(address, place, kind, headers=BEARER, form=way != "executed by a body", fields=fields)

        assert 400 <= answer.status < 500, kind
        assert answer.problem()["detail"], kind
        assert answer.problem()["title"] != "Not found", kind
    assert client.get(JOBS).json() == before
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["job", "model"])
def test_the_file_for_what_is_not_there_is_not_stored(client, tmp_path, portrait, kind):
    if kind == "job":
        answer = client.post(f"{JOBS}/nobody", content=portrait, headers={"Content-Type": "image/jpeg"})
    else:
        answer = client.post(JOBS, data={"model": "nobody"}, files={"image": portrait})

    assert answer.status_code == (404 if kind == "job" else 422)
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


# -- waiting

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


# -- the browsable documentation


def test_the_documentation_is_where_the_brief_has_it_and_shows_the_jobs(stranger):
    page = stranger.get("/api/v1/inference/ui", follow_redirects=True)
    document = stranger.get("/api/v1/inference/openapi.json").json()

    assert page.url.path == "/api/v1/inference/ui/"
    assert 'data-document="../openapi.json"' in page.text
    assert f"{JOBS}/{{job_id}}/result" in document["paths"]
    assert "/api/v1/models" in document["paths"]
    assert "/api/v1/status" not in document["paths"]
