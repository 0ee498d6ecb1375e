"""The life of a job over HTTP, with a worker and a model that needs no file."""

import io

import pytest
from PIL import Image

from api.given_jobs import FACES, JOBS, encoded, execute, made, sent, verbs_of


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


def test_of_several_etags_one_must_be_the_present_one(client):
    place = made(client).headers["location"]

    changed = client.patch(place, json={"deadline_seconds": 5}, headers={"If-Match": '"7", "1" ,W/"2"'})
    too_late = client.patch(place, json={"deadline_seconds": 6}, headers={"If-Match": '"7", "1"'})

    assert (changed.status_code, changed.headers["etag"], too_late.status_code) == (200, '"2"', 412)
    assert "not 1 or 7" in too_late.json()["detail"]


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


def test_no_job_is_of_a_model_that_nobody_knows(client):
    made(client)

    answer = client.get(JOBS, params={"model": "nobody"})

    assert (answer.status_code, answer.json()) == (200, {"items": [], "next": None})


def test_the_documentation_is_where_the_brief_has_it_and_shows_the_jobs(stranger):
    page = stranger.get("/api/v1/inference/ui", follow_redirects=True)
    document = stranger.get("/api/v1/inference/openapi.json").json()

    assert page.url.path == "/api/v1/inference/ui/"
    assert 'data-document="../openapi.json"' in page.text
    assert f"{JOBS}/{{job_id}}/result" in document["paths"]
    assert "/api/v1/models" in document["paths"]
    assert "/api/v1/status" not in document["paths"]
