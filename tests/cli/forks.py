"""Runs `truthloop` in forks of a process that has imported it: the imports take longer than most commands.

A fork is a process of its own in every other way: arguments, environment, pipes, signals, exit code.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_MESSAGE_BYTES = 1 << 20


class Forks:
    """The process that has imported everything; started with the first command, and ended with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """One command, to its end and that of all who hold its pipes, as `subprocess.run` does it.

        Raises:
            subprocess.TimeoutExpired: it was killed after so many seconds.
        """
        outputs = [os.pipe() for _ in range(2)]
        report, told = socket.socketpair()
        with Path(os.devnull).open() as nothing, report:
            job = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
            writers = [write for _, write in outputs]
            with told:
                try:
                    socket.send_fds(
                        self._connected(), [json.dumps(job).encode()], [nothing.fileno(), *writers, told.fileno()]
                    )
                finally:
                    for write in writers:
                        os.close(write)
            read = [b"", b""]

            def follow(number: int) -> None:
                with os.fdopen(outputs[number][0], "rb") as pipe:
                    read[number] = pipe.read()

            readers = [threading.Thread(target=follow, args=(number,), daemon=True) for number in range(2)]
            for reader in readers:
                reader.start()
            report.settimeout(timeout)
            pid = int(report.recv(100))
            try:
                code = int(report.recv(100))
                for reader in readers:
                    reader.join(timeout)
                    if reader.is_alive():
                        raise TimeoutError
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None
        out, err = (text.decode(errors="replace") for text in read)
        return subprocess.CompletedProcess(list(arguments), code, out, err)

    def _connected(self) -> socket.socket:
        with self._lock:
            if self._channel is None:
                self._channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with far:
                    # It is better forked without threads. One stays, Arrow's allocator's, which knows of forks.
                    process = subprocess.Popen(
                        [
                            sys.executable,
                            "-W",
                            "ignore:This process:DeprecationWarning",
                            __file__,
                            str(far.fileno()),
                        ],
                        pass_fds=[far.fileno()],
                        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )
                atexit.register(process.wait)
                atexit.register(self._channel.close)  # the other side ends with it
            return self._channel


def wait_for_jobs(channel: socket.socket) -> list[str]:
    """Forks for each job; returns in the fork, which is to run what this gives."""
    # What most commands import, and of what others do that which takes longest.
    import matplotlib.backends.backend_agg  # noqa: F401
    import scipy.optimize
    import scipy.sparse.csgraph  # noqa: F401

    import truthloop.cli.main
    import truthloop.workspace  # noqa: F401

    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):  # those that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    channel.close()
    report = socket.socket(fileno=descriptors.pop())
    if (pid := os.fork()) != 0:
        report.send(f"{pid}\n".encode())
        for descriptor in descriptors:
            os.close(descriptor)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        report.send(f"{code}".encode())
        os._exit(0)
    report.close()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    job = json.loads(message)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    arguments: list[str] = job["arguments"]
    return arguments


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())  # as `python -m` has it
    sys.argv[1:] = wait_for_jobs(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("truthloop", run_name="__main__", alter_sys=True)
