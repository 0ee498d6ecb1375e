"""Status and images over HTTP: they wait for figures that are behind without holding up anyone."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.service import BEARER
from truthloop.api import waiting
from truthloop.errors import DatabaseUnavailable, FiguresBehind
from truthloop.monitor.documents import ImagePage, Status


@pytest.fixture
def counted(workspace) -> Status:
    """Two images, one of them processed, and figures that know them."""
    workspace.store["metadata"].insert_many(
        [{"image_id": "a", "capture_timestamp": 1}, {"image_id": "b", "capture_timestamp": 2}]
    )
    workspace.store["bbox.model"].insert_one({"image_id": "a", "model_version": "1.0.0", "bboxes": []})
    return workspace.status(catch_up=True)


@pytest.fixture
def current(workspace, counted, monkeypatch) -> None:
    """As if a follower kept the figures current."""
    page = workspace.images(None, limit=100, after=None, catch_up=True)
    monkeypatch.setattr(workspace, "status", lambda **_: counted)
    monkeypatch.setattr(workspace, "images", lambda *_, **__: page)


def test_the_status_over_http_is_that_of_python(client, current, counted):
    answer = client.get("/api/v1/status")

    assert answer.status_code == 200
    assert Status.model_validate(answer.json()) == counted
    assert answer.json()["processed"] == {"count": 1, "fraction": 0.5}
    assert answer.headers["cache-control"] == "no-store"


def test_the_images_over_http_are_those_of_python(client, current):
    page = ImagePage.model_validate(client.get("/api/v1/images").json())

    assert [item.image_id for item in page.items] == ["a", "b"]


def test_figures_that_are_behind_are_waited_for(client, workspace, counted, monkeypatch):
    asked = []

    def status(*, catch_up: bool) -> Status:
        asked.append(catch_up)
        if len(asked) < 5:
            raise FiguresBehind("Later.")
        return counted

    monkeypatch.setattr(workspace, "status", status)

    assert client.get("/api/v1/status").status_code == 200
    assert set(asked) == {False}


def test_a_hundred_who_wait_leave_others_their_threads(client, stranger, workspace, counted, monkeypatch):
    current = threading.Event()

    def status(*, catch_up: bool) -> Status:
        if not current.is_set():
            raise FiguresBehind("Later.")
        return counted

    monkeypatch.setattr(workspace, "status", status)
    with ThreadPoolExecutor(100) as waiting_ones:
        answers = [waiting_ones.submit(client.get, "/api/v1/status") for _ in range(100)]
        # By another client: the first one's connections are all waiting.
        assert stranger.get("/api/v1/events", headers=BEARER).status_code == 200
        assert stranger.get("/readyz").status_code == 200
        assert not any(answer.done() for answer in answers)
        current.set()

        assert {answer.result(timeout=60).status_code for answer in answers} == {200}


def test_figures_that_stay_behind_are_a_problem_with_a_time_to_come_back(client, workspace, monkeypatch):
    monkeypatch.setattr(waiting, "MAX_WAIT_SECONDS", 0.1)

    def behind(*_, **__) -> ImagePage:
        raise FiguresBehind("The figures are being brought up to date.")

    monkeypatch.setattr(workspace, "images", behind)
    monkeypatch.setattr(workspace, "status", behind)
    answer = client.get("/api/v1/images")

    assert answer.status_code == 503
    assert answer.json()["type"] == "/docs/errors#figures-are-catching-up"
    assert int(answer.headers["retry-after"]) > 0


def test_an_error_that_comes_while_waiting_is_the_answer(client, workspace, monkeypatch, caplog):
    asked = []

    def status(**_) -> Status:
        asked.append(1)
        raise FiguresBehind("Later.") if len(asked) == 1 else ZeroDivisionError

    monkeypatch.setattr(workspace, "status", status)

    assert client.get("/api/v1/status").status_code == 500
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_without_mongodb_the_process_lives_and_is_not_ready(client, workspace, monkeypatch):
    def gone() -> None:
        raise DatabaseUnavailable("No answer from mongodb://somewhere:27017.")

    monkeypatch.setattr(workspace.store, "errors", gone)
    answer = client.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["title"] == "MongoDB unavailable"
    assert "somewhere" not in answer.text
    assert client.get("/healthz").json() == {"status": "ok"}
