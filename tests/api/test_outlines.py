"""The outline service over HTTP, as brief 5 asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.service import TOKEN, served
from hostile import ALL, encoded, picture, send
from predict.given import on_a_thread
from truthloop.api.app import create_app
from truthloop.workspace import Workspace

UPLOAD, CHECK = "/image/outline/objects", "/outline/objects/check"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def image(name: str = "cat.jpg") -> dict:
    return {"image": (name, encoded("JPEG", picture(64, 48)), "image/jpeg")}


# -- sending -------------------------------------------------------------------------------------------------


def test_an_upload_is_answered_at_once_with_an_id_and_an_absolute_url(client, address):
    sent = client.post(UPLOAD, files=image())

    assert sent.status_code == 202
    assert sent.json() == {"id": sent.json()["id"], "url": f"{address}{CHECK}/{sent.json()['id']}"}
    assert sent.headers["location"] == sent.json()["url"]
    assert client.get(sent.json()["url"]).json()["state"] == "queued"


def test_the_url_is_the_public_one_where_a_proxy_stands_before_it(workspace, settings):
    public = settings.model_copy(update={"public_url": "https://outlines.example.org/truthloop"})
    with served(create_app(workspace, token=TOKEN, settings=public)) as address:
        sent = httpx.post(f"{address}{UPLOAD}", files=image(), headers=BEARER).json()

    assert sent["url"] == f"https://outlines.example.org/truthloop{CHECK}/{sent['id']}"


def test_forwarded_headers_that_anyone_can_send_change_no_url(client, address):
    forwarded = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "Forwarded": "host=evil.example",
    }
    sent = client.post(UPLOAD, files=image(), headers=forwarded)

    assert sent.json()["url"].startswith(f"{address}/")


@pytest.mark.parametrize("media_type", [None, "image/jpeg"])
def test_a_text_in_place_of_the_file_is_told_how_to_send_it(client, media_type):
    # As the brief's own curl does: -F 'image=/path/to/an/image;type=image/jpeg' lacks the @.
    sent = client.post(UPLOAD, files={"image": (None, "/path/to/an/image", media_type)})

    assert sent.status_code == 422
    assert sent.headers["content-type"] == "application/problem+json"
    assert "send the file: -F image=@PATH" in sent.json()["detail"]


@pytest.mark.parametrize("where", ["form", "query"])
def test_model_and_tolerance_may_be_chosen_in_the_form_or_the_query(client, where):
    chosen = {"model": "selfie_segmentation", "tolerance": "2.5"}
    sent = client.post(UPLOAD, files=image(), **{"data" if where == "form" else "params": chosen})
    task = client.get(sent.json()["url"]).json()

    assert (task["model"], task["tolerance"]) == ("selfie_segmentation", 2.5)


@pytest.mark.parametrize(
    ("fields", "status", "place"),
    [
        ({"tolerance": "-1"}, 422, "tolerance"),
        ({"tolerance": "nan"}, 422, "tolerance"),
        ({"tolerance": "wide"}, 422, "tolerance"),
        ({"tolerence": "2"}, 422, "tolerence"),
        ({"model": "mobilenet_v2"}, 422, "model"),
        ({"model": "no_such_model"}, 422, "model"),
    ],
)
def test_a_wrong_field_is_named(client, workspace, fields, status, place):
    sent = client.post(UPLOAD, files=image(), data=fields)

    assert sent.status_code == status
    assert place in sent.json()["errors"]
    assert workspace.jobs.list().items == []


def test_an_upload_repeated_under_its_key_is_one_task(client, workspace):
    key = {"Idempotency-Key": "a-key"}
    first, second = (client.post(UPLOAD, files=image(), headers=key) for _ in range(2))

    assert first.json() == second.json()
    assert len(workspace.jobs.list().items) == 1


@pytest.mark.parametrize("form", [True, False], ids=["form", "body"])
def test_a_hostile_upload_is_refused_with_a_problem_and_leaves_nothing(address, workspace, tmp_path, form):
    for kind in ALL:
        answer = send(address, UPLOAD, kind, headers=BEARER, form=form)

        assert 400 <= answer.status < 500, kind
        assert answer.problem()["detail"], kind
        assert workspace.jobs.list().items == [], kind
        assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [], kind


# -- asking --------------------------------------------------------------------------------------------------


def test_a_task_that_waits_says_when_to_ask_again_and_is_304_until_it_changes(client):
    url = client.post(UPLOAD, files=image()).json()["url"]
    first = client.get(url)
    second = client.get(url, headers={"If-None-Match": first.headers["etag"]})

    assert int(first.headers["retry-after"]) >= 1
    assert second.status_code == 304


def test_an_unknown_task_and_a_job_of_the_other_api_are_404(client, workspace):
    job = workspace.jobs.submit("deeplab_v3", image=encoded("JPEG"))

    for task_id in ("no-such-task", job.id):
        answer = client.get(f"{CHECK}/{task_id}")
        assert answer.status_code == 404
        assert "no outline task" in answer.json()["detail"]


@contextmanager
def working(workspace: Workspace, models: Path) -> Iterator[None]:
    """A worker that has these models, on a thread."""
    settings = workspace.settings.model_copy(update={"models": models})
    with Workspace.open(settings, create=False) as own, on_a_thread(own.run_worker):
        yield


def test_when_it_is_done_the_url_gives_every_objects_outlines(client, workspace, shared_data):
    photograph = (shared_data / "data" / "images" / "segmentation_input_rotation0.jpg").read_bytes()
    url = client.post(UPLOAD, files={"image": ("a.jpg", photograph)}).json()["url"]
    with working(workspace, shared_data / "models"):
        answer = client.get(url, params={"wait": 50})
    done = answer.json()

    assert done["state"] == "succeeded", done
    assert "retry-after" not in answer.headers
    assert {part["label"] for part in done["classes"]} == {"person", "horse"}
    person = done["objects"][0]
    assert person.keys() == {"label", "score", "box", "area", "iou", "outlines"}
    assert (person["label"], len(person["outlines"][0]["holes"])) == ("person", 5)
    ring = person["outlines"][0]["outer"]
    assert len(ring["pixels"]) == len(ring["fractions"]) >= 3
    for (x, y), (across, down) in zip(ring["pixels"], ring["fractions"], strict=True):
        assert (x / 257, y / 257) == pytest.approx((across, down), abs=1e-4)


def test_a_task_that_failed_says_why(client, workspace, shared_data):
    sent = client.post(UPLOAD, files=image()).json()
    # What the task was to look at is gone: a worker finds that out and ends it.
    workspace.blobs.delete(workspace.store["truthloop.jobs"].find_one({"_id": sent["id"]})["image"]["blob"])
    with working(workspace, shared_data / "models"):
        task = client.get(sent["url"], params={"wait": 50}).json()

    assert (task["state"], task["objects"]) == ("failed", None)
    assert task["error"]


# -- who may ---------------------------------------------------------------------------------------------------


def test_both_paths_need_the_token(stranger, client):
    url = client.post(UPLOAD, files=image()).json()["url"]

    assert stranger.post(UPLOAD, files=image()).status_code == 401
    assert stranger.get(url).status_code == 401


@pytest.fixture
def open_address(workspace, settings) -> Iterator[str]:
    anonymous = settings.model_copy(update={"outline_anonymous": True})
    with served(create_app(workspace, token=TOKEN, settings=anonymous)) as address:
        yield address


def test_where_it_is_open_to_all_just_these_two_paths_are(open_address):
    with httpx.Client(base_url=open_address, verify=False) as stranger:
        sent = stranger.post(UPLOAD, files=image())
        assert sent.status_code == 202
        assert stranger.get(sent.json()["url"]).json()["state"] == "queued"
        for path in ("/api/v1/inference/jobs", f"/api/v1/inference/jobs/{sent.json()['id']}", "/api/v1/status"):
            assert stranger.get(path).status_code == 401
        assert stranger.get(sent.json()["url"], headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_who_comes_without_a_token_too_often_is_told_to_wait_and_who_has_one_is_not(open_address):
    def status(headers: dict[str, str]) -> int:
        return httpx.get(f"{open_address}{CHECK}/none", headers=headers).status_code

    # More than a bucket holds, faster than it fills: at some time the stranger is told to wait.
    with httpx.Client(base_url=open_address, verify=False) as stranger:
        for _ in range(10_000):
            last = stranger.get(f"{CHECK}/none")
            if last.status_code != 404:
                break
    assert last.status_code == 429
    assert int(last.headers["retry-after"]) >= 1
    assert last.json()["title"] == "Too many requests"
    assert status(BEARER) == 404


def test_a_strangers_key_finds_nobody_elses_task(open_address):
    key = {"Idempotency-Key": "a-key"}
    first = httpx.post(f"{open_address}{UPLOAD}", files=image(), headers=key | BEARER)
    second = httpx.post(f"{open_address}{UPLOAD}", files=image(), headers=key)

    assert first.status_code == second.status_code == 202
    assert first.json()["id"] != second.json()["id"]
