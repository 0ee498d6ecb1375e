"""What the tests of builds need of other processes."""

import os
import signal
import subprocess
import sys

# A process that builds with the settings of its environment and short leases, and dies or stands still at a phase.
BUILD = """
import os, signal, sys
from truthloop.datasets import build as module
from truthloop.datasets import settle
from truthloop.settings import load_settings
from truthloop.store.connection import connect

phase, sign = sys.argv[1], sys.argv[2]
for each in (module, settle):
    each.LEASE_SECONDS, each.BEAT_SECONDS = 1.0, 0.2

def reached(at):
    print(at, flush=True)
    if at == phase:
        os.kill(os.getpid(), getattr(signal, sign))

with connect(load_settings(), create=False) as store:
    module.build(store, reached=reached)
    print("done", flush=True)
"""

PHASES = ("recorded", "stored", "written", "reported", "swapped", "built")


def start_build(phase: str = "", sign: str = "SIGKILL") -> "subprocess.Popen[str]":
    """Starts a build that sends itself a signal when it reaches a phase."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, phase, sign],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    )


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    """Waits until the process has printed a line."""
    assert process.stdout is not None
    for found in process.stdout:
        if found.strip() == line:
            return
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def killed(process: "subprocess.Popen[str]") -> bool:
    """Waits for its end; whether it was SIGKILL."""
    process.communicate(timeout=120)
    return process.returncode == -signal.SIGKILL
