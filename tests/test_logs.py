import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from truthloop import logs

TOKEN = "t0ken-of-thirty-two-characters-or-more"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = False
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    return stream


def test_a_service_logs_one_json_object_a_line(stream):
    logs.get_logger("truthloop.x").info("job_done", count=3)

    (line,) = lines(stream)
    assert (line["event"], line["count"], line["level"], line["logger"]) == ("job_done", 3, "info", "truthloop.x")
    assert line["timestamp"].endswith("Z")


def test_a_terminal_gets_readable_lines():
    stream = io.StringIO()
    logs.configure("info", json=False, stream=stream)
    logs.get_logger("truthloop.x").warning("job_done", count=3)

    assert "job_done" in stream.getvalue()
    assert "count=3" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_what_is_less_severe_than_the_level_is_left_out(stream):
    logs.get_logger("truthloop.x").debug("detail")

    assert lines(stream) == []


def test_the_lines_of_uvicorn_and_the_standard_library_look_the_same(stream):
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("somewhere").warning("careful")

    assert [line["event"] for line in lines(stream)] == ["Started server process [7]", "careful"]
    assert all(line.keys() >= {"timestamp", "level", "logger"} for line in lines(stream))


def test_uvicorns_access_log_is_off_because_its_addresses_hold_tokens(stream):
    logging.getLogger("uvicorn.access").info("GET /?token=%s", TOKEN)

    assert lines(stream) == []


def test_lines_of_structlogs_own_loggers_come_too(stream):
    structlog.get_logger("truthloop.y").info("follower_started", behind=0)

    (line,) = lines(stream)
    assert (line["event"], line["behind"]) == ("follower_started", 0)


@pytest.mark.parametrize("json_lines", [True, False])
def test_no_secret_is_ever_logged(json_lines):
    stream = io.StringIO()
    logs.configure("debug", json=json_lines, stream=stream)
    log = logs.get_logger("truthloop.x")
    log.info("start", token=TOKEN, uri=f"mongodb://user:{TOKEN}@host:27017/db")
    log.info("link", url=f"http://127.0.0.1:8080/?token={TOKEN}&x=1")
    log.info("slash", uri=f"mongodb+srv://user:a/{TOKEN}@host/")
    log.info("nested", request={"headers": [("x", f"Bearer {TOKEN}")], "password": TOKEN})
    logging.getLogger("other").error("can't reach %s", f"mongodb://u:{TOKEN}@h")
    try:
        raise ValueError(f"mongodb://u:{TOKEN}@host is wrong")
    except ValueError:
        log.exception("failed")

    assert TOKEN not in stream.getvalue()
    assert "host" in stream.getvalue()
    assert "x=1" in stream.getvalue()


def test_without_configuration_nothing_is_printed_but_warnings(capsys):
    logs.get_logger("truthloop.unconfigured").info("quiet")

    assert capsys.readouterr() == ("", "")
