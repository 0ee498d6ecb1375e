"""`truthloop simulate`, as a user runs it."""

import json
import re
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from api.service import TOKEN
from cli.processes import TIMEOUT_SECONDS, Terminal, on_a_terminal, wait_for
from events.relays import relay_in_this_process
from simulate.flaky import serving
from truthloop.cli import place
from truthloop.events.record import COLLECTION
from truthloop.predict.documents import JOBS
from truthloop.settings import load_settings
from truthloop.store.connection import Store

LINE = re.compile(r"Inference job \(id: ([0-9a-f-]{36})\) (\w+): (\w+)")


def test_a_run_tells_its_figures_and_that_nothing_is_lost(terminal: Terminal):
    told = terminal.answer("simulate", "--jobs", "10", "--models", "opencv_faces")

    assert "10 jobs in" in told
    assert re.search(r"^create\+execute +\d+", told, re.MULTILINE)
    assert "Nothing is lost, nothing doubled, nothing out of order." in told
    assert max(map(len, told.splitlines())) <= 80


def test_with_follow_and_json_the_log_is_beside_the_one_object_that_is_the_answer(terminal: Terminal):
    terminal.answer("simulate", "--jobs", "10", "--models", "opencv_faces")  # whose events are not shown again

    done = terminal.run("simulate", "--jobs", "10", "--models", "opencv_faces", "--follow", "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    assert (report["lost"], report["doubled"], report["out_of_order"]) == ([], [], [])
    assert report["operations"]["create"].keys() >= {"count", "p50_ms", "p95_ms", "p99_ms"}
    lines = [LINE.fullmatch(line) for line in done.stderr.splitlines()]
    assert all(lines)
    assert len(lines) == report["events"]
    verbs = defaultdict(list)
    for line in lines:
        verbs[line[1]].append(line[2])
    assert all(told[:1] == ["created"] for told in verbs.values())
    assert len(verbs) == report["acknowledged"] == 10


def test_on_a_terminal_a_table_shows_how_far_it_is(terminal: Terminal):
    told = on_a_terminal(terminal, "simulate", "--jobs", "200", "--rate", "60", "--models", "opencv_faces")

    assert re.search(r"\d+ of 200 jobs .* a second", told)
    assert re.search(r"succeeded \d+ .*under way \d+", told)
    assert "Nothing is lost, nothing doubled, nothing out of order." in told


def test_ctrl_c_ends_with_the_summary_of_what_was_so_far(terminal: Terminal, store: Store):
    process = terminal.start("simulate", "--jobs", "9999", "--rate", "30", "--model", "opencv_faces", "--json")
    wait_for(lambda: store[JOBS].count_documents({"state": "succeeded"}) > 2, "a job")

    process.send_signal(signal.SIGINT)
    told, errors = process.communicate(timeout=TIMEOUT_SECONDS)

    assert process.returncode == 130, errors
    report = json.loads(told)
    assert report["ok"]
    assert 2 < report["jobs"] == sum(report["states"].values()) < 9999


def test_models_are_named_with_commas_or_one_by_one(terminal: Terminal, store: Store):
    terminal.answer("simulate", "--jobs", "8", "--models", "opencv_faces,opencv_people", "--model", "opencv_faces")

    assert set(store[JOBS].distinct("model")) == {"opencv_faces", "opencv_people"}


def test_what_stands_against_a_run_is_said_in_a_line(terminal: Terminal, tmp_path):
    (tmp_path / "empty").mkdir()

    def said(*arguments: str, **settings: str) -> str:
        done = terminal.run("simulate", *arguments, **settings)
        assert done.returncode in (1, 2)
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "There is no model 'cats' at the service. It has:" in said("--models", "cats")
    assert "refuses the token" in said(TRUTHLOOP_TOKEN="wrong" * 8)
    assert "No service answers at http://127.0.0.1:1" in said(TRUTHLOOP_URL="http://127.0.0.1:1")
    assert "holds no image" in said("--images", str(tmp_path / "empty"))


def test_a_broken_file_in_the_folder_is_named_with_what_to_do(terminal: Terminal, tmp_path):
    broken = tmp_path / "pictures" / "some" / "broken.png"
    broken.parent.mkdir(parents=True)
    broken.write_text("no image")

    done = terminal.run("simulate", "--jobs", "4", "--models", "opencv_faces", "--images", str(tmp_path), "--json")

    assert done.returncode == 1
    told = json.loads(done.stdout)["unexpected"]
    assert told
    for text in told:
        assert text.startswith(f"{broken}: ")
        assert text.endswith("Mend the file, or take it out of the folder.")


def test_a_url_needs_its_token(tmp_path):
    done = Terminal(tmp_path / ".truthloop", TRUTHLOOP_URL="http://127.0.0.1:8080").run("simulate")

    assert done.returncode == 2
    assert "TRUTHLOOP_TOKEN" in done.stderr
    assert not (tmp_path / ".truthloop").exists()


@contextmanager
def foreign(body: bytes) -> Iterator[tuple[str, list[str | None]]]:
    """A server that isn't Truthloop's, without a Date header; its address, and the tokens that it was sent."""
    tokens: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tokens.append(self.headers.get("Authorization"))
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as its_address:
        yield its_address, tokens


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>Welcome</html>", id="a page"),
        pytest.param(b'{"items": [{"name": "opencv_faces"}, {"name": "opencv_people"}]}', id="no Date header"),
        pytest.param(b'["opencv_faces"]', id="other JSON"),
    ],
)
def test_a_server_that_is_not_truthloop_is_told_of_in_a_line(tmp_path, body: bytes):
    with foreign(body) as (url, _):
        done = Terminal(tmp_path, TRUTHLOOP_URL=url, TRUTHLOOP_TOKEN=TOKEN).run("simulate")

    assert (done.returncode, done.stdout) == (1, "")
    assert "doesn't answer as Truthloop's service does" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_token_of_the_workspace_goes_to_no_other_service(tmp_path):
    home = tmp_path / ".truthloop"
    home.mkdir()
    (home / "token").write_text("t" * 40)
    with foreign(b"{}") as (url, tokens):
        done = Terminal(home, TRUTHLOOP_URL=url).run("simulate")

    assert done.returncode == 2
    assert "TRUTHLOOP_TOKEN" in done.stderr
    assert tokens == []


def test_the_token_of_the_workspace_goes_to_its_own_service_at_its_url(tmp_path):
    home = tmp_path / ".truthloop"
    home.mkdir()
    (home / "token").write_text("t" * 40)
    # Whoever holds the place of the workspace's service is it.
    with foreign(b"{}") as (url, tokens), place.claim(home, url):
        Terminal(home, TRUTHLOOP_URL=url).run("simulate")

    assert tokens == ["Bearer " + "t" * 40]


def test_nothing_is_made_where_there_is_no_workspace(tmp_path):
    done = Terminal(tmp_path / ".truthloop").run("simulate")

    assert done.returncode == 1
    assert "truthloop up" in done.stderr
    assert TOKEN not in done.stderr
    assert not (tmp_path / ".truthloop").exists()


def test_where_kafka_is_set_the_log_beside_the_run_comes_from_there(terminal: Terminal, store: Store, kafka):
    kafka.needs_all()  # the mock cluster finds no place by a time
    servers = {"TRUTHLOOP_KAFKA_BOOTSTRAP_SERVERS": kafka.servers}
    asked = ("simulate", "--jobs", "5", "--models", "opencv_faces", "--follow", "--json")
    with relay_in_this_process(load_settings()):
        with_relay = terminal.run(*asked, **servers)
    without = terminal.run(*asked, "--patience", "3", **servers)

    report = json.loads(with_relay.stdout)
    assert report["ok"], with_relay.stderr
    assert report["events_in_kafka"] == report["events"]
    logged = store[COLLECTION].find({"subject": {"$in": [job for job, _, _ in LINE.findall(with_relay.stderr)]}})
    assert sorted((job, verb) for job, verb, _ in LINE.findall(with_relay.stderr)) == sorted(
        (event["subject"], event["type"].rpartition(".")[2]) for event in logged
    )
    assert (without.returncode, LINE.findall(without.stderr)) == (1, [])
