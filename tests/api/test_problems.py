"""Every error is a problem document, and every kind of it is explained."""

import logging
import re
from pathlib import Path

import pytest

from truthloop.api.problems import anchor, error_classes, place_of, problem_of
from truthloop.errors import DatabaseUnavailable, FiguresBehind, InputRefused, TruthloopError

ROOT = Path(__file__).parent.parent.parent
# Classes that another test file may have added to the tree.
CLASSES = [error for error in error_classes() if error.__module__ == "truthloop.errors"]


def test_each_error_has_a_title_of_its_own():
    titles = [error.__dict__.get("title") for error in CLASSES]

    assert None not in titles
    assert len({anchor(title) for title in titles}) == len(titles)


@pytest.mark.parametrize("error", CLASSES)
def test_each_error_has_a_status_that_is_an_error(error):
    assert 400 <= error.status <= 599
    assert problem_of(error("What to do.")).status == error.status


def test_each_error_has_its_heading_and_status_in_the_documentation():
    page = (ROOT / "docs" / "errors.md").read_text()
    documented = re.findall(r"^## (.+)$[^#]*?HTTP status (\d+)", page, re.MULTILINE)

    assert sorted(documented) == sorted((error.title, str(error.status)) for error in CLASSES)


@pytest.mark.parametrize("error", CLASSES)
def test_each_error_stands_in_the_tree_that_its_module_draws(error):
    import truthloop.errors

    assert re.search(rf"\b{error.__name__}\b", truthloop.errors.__doc__)


def test_the_type_of_a_problem_leads_to_its_explanation(client):
    problem = client.get("/api/v1/events", params={"after": "5"}).json()
    page, _, target = problem["type"].partition("#")

    assert f'id="{target}"' in client.get(page).text


def test_unknown_addresses_are_problems(client):
    answer = client.get("/api/v1/nowhere")

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "/docs/errors#not-found",
        "title": "Not found",
        "status": 404,
        "detail": "There is nothing at /api/v1/nowhere. /docs lists what there is.",
    }


def test_a_method_that_is_not_possible_says_which_are(client):
    answer = client.delete("/api/v1/status")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.json()["detail"] == "DELETE is not possible at /api/v1/status; allowed: GET."


def test_all_methods_of_a_path_are_named(client):
    answer = client.put("/api/v1/inference/jobs/x")

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "POST", "PATCH", "DELETE"}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/api/v1/events?limit=0", "limit"),
        ("/api/v1/events?limit=1001", "limit"),
        ("/api/v1/images?limit=many", "limit"),
        ("/api/v1/images?state=fine", "state"),
        ("/api/v1/images?after=", "after"),
        ("/api/v1/events?after=5", "after"),
        ("/api/v1/events/stream?last_event_id=5", "after"),
        ("/api/v1/images?sate=uncorrected", "sate"),
        ("/api/v1/images?limit=5&limit=6", "limit"),
        ("/api/v1/status?verbose=1", "verbose"),
    ],
)
def test_what_is_refused_is_named_by_its_place(client, path, place):
    answer = client.get(path)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"].keys() == {place}
    assert answer.json()["detail"]


def test_places_in_a_body_read_as_in_python():
    assert place_of(("body", 3, "bboxes", 0, "left")) == "[3].bboxes[0].left"


def test_a_fault_of_ours_says_nothing_about_the_inside_and_is_logged(app, client, caplog):
    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    with caplog.at_level(logging.ERROR):
        answer = client.get("/broken")

    assert answer.status_code == 500
    assert answer.json()["title"] == "Truthloop failed"
    assert "secret" not in answer.text
    reference = answer.json()["detail"].split()[-1].rstrip(".")
    (record,) = [record for record in caplog.records if record.message == "request_failed"]
    assert record.reference == reference
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize("error", [FiguresBehind, DatabaseUnavailable])
def test_who_should_try_again_is_told_when(app, client, error):
    @app.get("/behind")
    def behind() -> None:
        raise error("Later.")

    answer = client.get("/behind")

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


def test_refused_fields_of_our_own_errors_are_given(app, client):
    @app.get("/refused")
    def refused() -> None:
        raise InputRefused("No.", errors={"[3].bboxes[0].left": "not a number"})

    assert client.get("/refused").json()["errors"] == {"[3].bboxes[0].left": "not a number"}


def test_the_tree_has_one_root():
    assert all(issubclass(error, TruthloopError) for error in CLASSES)
