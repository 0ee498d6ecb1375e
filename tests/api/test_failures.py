"""The failures of an image over HTTP."""

from urllib.parse import quote

import pytest

FACE = {"left": 0.2, "top": 0.2, "right": 0.4, "bottom": 0.4}
FAR = {"left": 0.8, "top": 0.8, "right": 0.9, "bottom": 0.9}


@pytest.fixture
def image_id(workspace) -> str:
    image_id = "a/b c"
    workspace.store["metadata"].insert_many([{"image_id": image_id}, {"image_id": "alone"}])
    workspace.store["bbox.model"].insert_one(
        {"image_id": image_id, "model_version": "1.0.0", "bboxes": [FACE, FAR]}
    )
    workspace.store["bbox.human_annotation"].insert_one(
        {"image_id": image_id, "bbox": FACE, "annotator": "x", "task_version": "2.0.0", "timestamp": 1}
    )
    return image_id


def test_the_answer_is_the_stage_s(client, workspace, image_id):
    answer = client.get(f"/api/v1/images/{quote(image_id, safe='')}/failures")

    assert answer.status_code == 200
    assert answer.json() == workspace.failures(image_id).model_dump(mode="json")
    assert [item["kind"] for item in answer.json()["items"]] == ["match", "spurious"]


def test_items_are_chosen_and_pairs_forbidden_by_different_parameters(client, image_id):
    chosen = client.get(f"/api/v1/images/{image_id}/failures", params={"kind": ["spurious", "missed"]}).json()
    at_most = client.get(f"/api/v1/images/{image_id}/failures", params={"iou_below": 0.9}).json()
    unpaired = client.get("/api/v1/images/alone/failures", params={"min_iou": 1}).json()

    assert [item["kind"] for item in chosen["items"]] == ["spurious"]
    assert at_most["items"] == []
    assert unpaired == {"image_id": "alone", "state": "not_predicted", "predictions": [], "invalid": []}


def test_an_image_that_is_not_annotated_answers_with_its_predictions(client, workspace, image_id):
    workspace.store["bbox.model"].insert_one({"image_id": "alone", "model_version": "1.0.0", "bboxes": [FACE]})

    answer = client.get("/api/v1/images/alone/failures").json()

    assert answer == {
        "image_id": "alone",
        "state": "not_annotated",
        "predictions": [{"model_version": "1.0.0", "verdict": None, "boxes": [FACE]}],
        "invalid": [],
    }


def test_a_range_that_nothing_can_match_is_refused(client, image_id):
    answer = client.get(f"/api/v1/images/{image_id}/failures", params={"iou_at_least": 0.5, "iou_below": 0.2})

    assert (answer.status_code, list(answer.json()["errors"])) == (422, ["iou_below"])


def test_an_id_that_no_image_has_is_404(client, image_id):
    answer = client.get("/api/v1/images/b/failures")

    assert (answer.status_code, answer.json()["title"]) == (404, "Not found")


@pytest.mark.parametrize(
    ("parameters", "place"),
    [({"min_iou": 2}, "min_iou"), ({"kind": "wrong"}, "kind[0]"), ({"size": "huge"}, "size[0]")],
)
def test_what_there_is_not_is_refused_with_its_place(client, image_id, parameters, place):
    answer = client.get(f"/api/v1/images/{image_id}/failures", params=parameters)

    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == [place]
