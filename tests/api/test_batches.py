"""Batches and models over HTTP, with a worker and a model that needs no file."""

import httpx
import pytest

from api.given_jobs import FACES, encoded
from cli.processes import wait_for
from truthloop.models.show import ModelFacts, ModelList, list_models, show_model

BATCHES = "/api/v1/inference/batches"


@pytest.fixture
def images(workspace, portrait) -> list[str]:
    """Three images of the workspace: one of a face, two of nothing."""
    files = [portrait, encoded("PNG", (64, 48)), encoded("PNG", (48, 64))]
    return [workspace.ingest_image(file).image_id for file in files]


def ended(client: httpx.Client, batch: httpx.Response) -> dict:
    """The batch once it has ended."""

    def state() -> str:
        return client.get(batch.headers["location"]).json()["state"]

    wait_for(lambda: state() not in ("queued", "running"), "the batch to end")
    return client.get(batch.headers["location"]).json()


def test_the_images_without_a_prediction_get_theirs(client, workspace, worker, images):
    workspace.store["bbox.model"].insert_one({"image_id": images[1], "model_version": "1.0.0", "bboxes": []})

    batch = client.post(BATCHES, json={"model": FACES, "query": "unprocessed", "record_as": "auto"})

    assert (batch.status_code, batch.json()["total"]) == (202, 2)
    assert batch.headers["location"] == f"{BATCHES}/{batch.json()['id']}"
    assert int(batch.headers["retry-after"]) > 0
    done = ended(client, batch)
    assert (done["state"], done["done"], done["predicted"], done["record_as"]) == ("succeeded", 2, 2, "2.0.0")
    recorded = {
        found["image_id"]: len(found["bboxes"])
        for found in workspace.store["bbox.model"].find({"model_version": "2.0.0"})
    }
    assert recorded == {images[0]: 1, images[2]: 0}


def test_a_list_of_images_has_its_results_and_names_what_it_refused(client, worker, images):
    batch = client.post(BATCHES, json={"model": FACES, "image_ids": [*images[:2], "nobody"]})
    done = ended(client, batch)

    assert (done["state"], done["predicted"], done["refused"]) == ("succeeded", 2, 1)
    assert [refusal["image_id"] for refusal in done["refusals"]] == ["nobody"]
    place, found, after = f"{batch.headers['location']}/results", [], None
    while True:
        page = client.get(place, params={"limit": 2} | ({"after": after} if after else {})).json()
        found += page["items"]
        after = page["next"]
        if after is None:
            break
    assert [item["image_id"] for item in found] == sorted([*images[:2], "nobody"])
    by_id = {item["image_id"]: item for item in found}
    assert (len(by_id[images[0]]["boxes"]), by_id[images[1]]["boxes"]) == (1, [])
    assert by_id["nobody"]["error"]


def test_a_batch_is_cancelled_and_resumed(client, images):
    batch = client.post(BATCHES, json={"model": FACES, "query": "all"})
    place = batch.headers["location"]

    cancelled = client.post(f"{place}/cancel")
    again = client.post(f"{place}/cancel")
    resumed = client.post(f"{place}/resume")

    assert (cancelled.status_code, cancelled.json()["state"], again.status_code) == (200, "cancelled", 409)
    assert (resumed.status_code, resumed.json()["state"]) == (202, "queued")
    assert resumed.headers["location"] == place
    assert client.post(f"{place}/resume").status_code == 202


def test_what_was_cancelled_and_resumed_comes_to_its_end(client, images, request):
    batch = client.post(BATCHES, json={"model": FACES, "query": "all"})
    client.post(f"{batch.headers['location']}/cancel")
    client.post(f"{batch.headers['location']}/resume")

    request.getfixturevalue("worker")

    assert ended(client, batch)["done"] == 3


def test_batches_page_the_newest_first_by_state(client, images):
    ids = [client.post(BATCHES, json={"model": FACES, "query": "all"}).json()["id"] for _ in range(3)]
    client.post(f"{BATCHES}/{ids[0]}/cancel")

    first = client.get(BATCHES, params={"limit": 2}).json()
    second = client.get(BATCHES, params={"limit": 2, "after": first["next"]}).json()
    cancelled = client.get(BATCHES, params={"state": "cancelled"}).json()

    assert [batch["id"] for batch in first["items"] + second["items"]] == ids[::-1]
    assert [batch["id"] for batch in cancelled["items"]] == [ids[0]]


def test_progress_is_polled_without_its_body(client, images):
    place = client.post(BATCHES, json={"model": FACES, "query": "all"}).headers["location"]
    tag = client.get(place).headers["etag"]

    assert client.get(place, headers={"If-None-Match": tag}).status_code == 304


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": FACES}, "image_ids"),
        ({"model": FACES, "query": "all", "image_ids": ["a"]}, "image_ids"),
        ({"model": FACES, "image_ids": []}, "image_ids"),
        ({"model": FACES, "query": "some"}, "query"),
        ({"model": "mobilenet_v2", "query": "all", "record_as": "auto"}, "record_as"),
        ({"model": FACES, "query": "all", "record_as": "banana"}, "record_as"),
        ({"model": FACES, "query": "all", "record_as": ""}, "record_as"),
        ({"model": FACES, "query": "all", "images": []}, "images"),
        ({"model": "nobody", "query": "all"}, "model"),
    ],
)
def test_a_batch_that_means_nothing_is_refused(client, body, field):
    answer = client.post(BATCHES, json=body)

    assert (answer.status_code, [*answer.json()["errors"]]) == (422, [field])
    assert answer.headers["content-type"] == "application/problem+json"
    assert client.get(BATCHES).json()["items"] == []


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("POST", "/resume")]
)
def test_a_batch_that_is_not_there_is_not_found(client, method, path):
    assert client.request(method, f"{BATCHES}/nobody{path}").status_code == 404


def test_the_models_over_http_are_those_of_python(client, workspace):
    models = ModelList.model_validate(client.get("/api/v1/models").json())
    facts = ModelFacts.model_validate(client.get("/api/v1/models/deeplab_v3").json())

    assert models == list_models(workspace.settings)
    assert {item.name: item.state for item in models.items}[FACES] == "built_in"
    assert facts == show_model(workspace.settings, "deeplab_v3")
    assert client.get("/api/v1/models/nobody").status_code == 404


@pytest.mark.parametrize("path", ["models", "models/opencv_faces", "inference/batches", "inference/batches/x"])
def test_a_stranger_sees_nothing(stranger, path):
    assert stranger.get(f"/api/v1/{path}").status_code == 401
