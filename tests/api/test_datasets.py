"""The training sets and an image's story over HTTP."""

import pytest

from truthloop.datasets.documents import DatasetPage, DatasetReport
from truthloop.datasets.why import Story


@pytest.fixture
def built(workspace) -> None:
    workspace.store["metadata"].insert_many([{"image_id": "a/b"}, {"image_id": "c"}])
    workspace.store["bbox.model"].insert_one({"image_id": "a/b", "model_version": "1.0.0", "bboxes": []})
    for _ in range(3):
        workspace.dataset.build()


def test_the_versions_over_http_are_those_of_python(client, workspace, built):
    page = DatasetPage.model_validate(client.get("/api/v1/datasets").json())

    assert page == workspace.dataset.list()
    assert [item.version for item in page.items] == [3, 2, 1]


def test_versions_page_by_cursor(client, built):
    first = client.get("/api/v1/datasets", params={"limit": 2}).json()
    second = client.get("/api/v1/datasets", params={"limit": 2, "after": first["next"]}).json()

    assert [item["version"] for item in first["items"] + second["items"]] == [3, 2, 1]
    assert second["next"] is None


def test_the_report_over_http_is_that_of_python(client, workspace, built):
    report = DatasetReport.model_validate(client.get("/api/v1/datasets/1").json())

    assert report == workspace.dataset.show(1)
    assert (report.images, report.entries) == (2, 1)


@pytest.mark.parametrize(("path", "status"), [("9", 404), ("0", 422), ("x", 422), ("9223372036854775808", 422)])
def test_a_version_that_is_not_there_is_a_problem(client, built, path, status):
    answer = client.get(f"/api/v1/datasets/{path}")

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_story_over_http_is_that_of_python(client, workspace, built):
    story = Story.model_validate(client.get("/api/v1/images/a/b/why").json())

    assert story == workspace.why("a/b")
    assert client.get("/api/v1/images/nobody/why").status_code == 404


@pytest.mark.parametrize("path", ["datasets", "datasets/1", "images/c/why"])
def test_a_stranger_sees_nothing(stranger, built, path):
    assert stranger.get(f"/api/v1/{path}").status_code == 401
