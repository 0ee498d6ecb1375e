"""What is refused of a job over HTTP: by its name, with a problem, and without a trace."""

import pytest

from api.given_jobs import FACES, JOBS, made, sent
from api.service import BEARER
from hostile import ALL, send


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


@pytest.mark.parametrize("body", [{}, {"state": "succeeded"}, {"model": None}, [], {"deadline_seconds": 0}])
def test_a_change_that_means_nothing_is_refused(client, body):
    answer = client.patch(made(client).headers["location"], json=body, headers={"If-Match": "*"})

    assert answer.status_code == 422


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
