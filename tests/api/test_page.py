"""The status page in a real browser, where there is one."""

import os
import re
import shutil
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from api.service import TOKEN

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DEADLINE_MS = 60_000


@pytest.fixture(scope="module")
def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium is installed; install the package chromium")
        pytest.skip("needs a browser: no Chromium is installed (package chromium)")
    return path


@pytest.fixture
def complaints() -> list[str]:
    """What the browser had to say: errors, refusals of the security policy, requests to elsewhere."""
    return []


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """A page that shares nothing with those before it: cookies and what is kept are its own."""
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(DEADLINE_MS)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if is_foreign(request.url) else None)
        yield page


def is_foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


@pytest.fixture
def counted(workspace):
    """Three images: one correct, one incorrect and corrected, one without a prediction."""
    store = workspace.store
    store["metadata"].insert_many([{"image_id": name, "capture_timestamp": 1} for name in "abc"])
    store["bbox.model"].insert_many([{"image_id": name, "model_version": "1.0.0", "bboxes": []} for name in "ab"])
    store["bbox.human_audit"].insert_many(
        [
            {
                "image_id": name,
                "model_version": "1.0.0",
                "bbox_correct": name == "a",
                "auditor": "x",
                "task_version": "1.0.0",
                "timestamp": 1,
            }
            for name in "ab"
        ]
    )
    store["bbox.human_annotation"].insert_one(
        {"image_id": "b", "bbox": None, "annotator": "x", "task_version": "1.0.0", "timestamp": 1}
    )
    return workspace.status(catch_up=True)


@pytest.fixture
def current(workspace, monkeypatch):
    """As if a follower kept the figures current."""
    status = workspace.status
    monkeypatch.setattr(workspace, "status", lambda **_: status(catch_up=True))


def test_the_page_shows_the_figures_and_follows_them(page, address, workspace, counted, current, complaints):
    page.goto(f"{address}/?token={TOKEN}")

    assert "token" not in page.url
    expect(page.locator("#processed-fraction")).to_have_text("66.7%", timeout=DEADLINE_MS)
    expect(page.locator("#correct-fraction")).to_have_text("33.3%")
    expect(page.locator("#corrected-fraction")).to_have_text("100.0%")
    expect(page.locator("#correct-bar")).to_have_attribute("aria-label", "33.3 % correct, 33.3 % incorrect")
    expect(page.locator("#versions tr")).to_have_count(1)
    expect(page.locator("#waiting li").first).to_contain_text("1")

    workspace.store["metadata"].insert_one({"image_id": "d", "capture_timestamp": 1})
    expect(page.locator("#processed-fraction")).to_have_text("50.0%", timeout=DEADLINE_MS)
    assert complaints == []


def test_when_the_service_does_not_answer_the_figures_stay_and_the_page_says_so(page, address, counted, current):
    page.goto(f"{address}/?token={TOKEN}")
    expect(page.locator("#processed-fraction")).to_have_text("66.7%", timeout=DEADLINE_MS)

    page.route("**/api/v1/status", lambda route: route.abort())
    expect(page.locator("#live")).to_have_attribute("data-state", "stale", timeout=DEADLINE_MS)
    expect(page.locator("#live")).to_contain_text("No answer from the service")
    expect(page.locator("#processed-fraction")).to_have_text("66.7%")

    page.unroute("**/api/v1/status")
    expect(page.locator("#live")).to_have_attribute("data-state", "live", timeout=DEADLINE_MS)


def test_a_problem_is_named_on_the_page(page, address, counted, current):
    def refuse(route: Route) -> None:
        route.fulfill(status=503, json={"title": "MongoDB unavailable"})

    page.route("**/api/v1/status", refuse)
    page.goto(f"{address}/?token={TOKEN}")

    expect(page.locator("#live")).to_contain_text("MongoDB unavailable", timeout=DEADLINE_MS)


def test_a_fraction_is_never_rounded_to_all_or_nothing(page, address, current):
    page.goto(f"{address}/?token={TOKEN}")
    cases = {"–": None, "0.0": 0, "< 0.1": 0.0001, "50.0": 0.5, "99.9": 0.99999, "100.0": 1}
    shown = page.evaluate(
        "async (fractions) => fractions.map((await import('./pages/status.js')).percent)", list(cases.values())
    )

    assert shown == list(cases)


def test_an_empty_workspace_says_how_to_fill_it(page, address, current):
    page.goto(f"{address}/?token={TOKEN}")

    expect(page.locator("#empty")).to_contain_text("truthloop load PATH", timeout=DEADLINE_MS)
    expect(page.locator("#figures")).to_be_hidden()


def test_all_links_are_reached_by_the_keyboard(page, address, counted, current):
    page.goto(f"{address}/?token={TOKEN}")
    expect(page.locator("#live")).to_have_attribute("data-state", "live", timeout=DEADLINE_MS)
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim()"))

    assert reached[:4] == ["Skip to the figures", "Truthloop", "API", "Problems"]
    assert re.search("Version", reached[4])


@pytest.mark.parametrize(
    ("place", "document"),
    [("/docs", "/openapi.json"), ("/api/v1/inference/ui/", "/api/v1/inference/openapi.json")],
)
def test_the_documentation_of_the_api_works_offline_and_under_the_policy(
    page, address, complaints, place, document
):
    paths = httpx.get(f"{address}{document}", timeout=60).json()["paths"].values()
    operations = sum(len(path) for path in paths)

    page.goto(f"{address}{place}")

    expect(page.locator(".opblock")).to_have_count(operations, timeout=DEADLINE_MS)
    assert operations > 0
    assert complaints == []
