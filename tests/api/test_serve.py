"""Listening and stopping."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from api.service import DEADLINE_SECONDS, SERVICE, served, stream
from truthloop.api.serve import check_reach, listen, serve
from truthloop.errors import AlreadyRunning, SettingRefused


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_open_streams_end_and_serve_returns(store, number):
    with subprocess.Popen([sys.executable, "-c", SERVICE, "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            with stream(process.stdout.readline().strip()) as sent:
                os.kill(process.pid, number)

                assert list(sent) == []
            assert process.stdout.readline() == "returned\n"
            assert process.wait(DEADLINE_SECONDS) == 0
        finally:
            process.kill()


def test_a_port_that_is_taken_is_a_clear_error(app):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AlreadyRunning, match=f"{port} is taken .* TRUTHLOOP_PORT"):
            serve(app, host="127.0.0.1", port=port)


@pytest.mark.parametrize("host", ["no such host", "203.0.113.7"])
def test_a_host_that_is_not_this_machine_is_a_clear_error(host):
    with pytest.raises(SettingRefused, match="TRUTHLOOP_HOST"):
        listen(host, 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "data.example"])
def test_beyond_loopback_it_listens_only_with_a_token_of_the_operators(app, host):
    with pytest.raises(SettingRefused, match="TRUTHLOOP_TOKEN"):
        serve(app, host=host, port=0)
    check_reach(host, has_own_token=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_loopback_any_token_will_do(host):
    check_reach(host, has_own_token=False)


def test_serving_in_a_thread_leaves_signals_alone(app):
    assert threading.current_thread() is threading.main_thread()
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with served(app):
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
