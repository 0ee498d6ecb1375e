"""The image of deploy/Dockerfile, built without an engine by Debian's buildah, and run by it.

Its base is Debian by debootstrap, with Debian's Python, under the name that stands in `FROM`: the same Debian and
the same Python as in the image of that name. How packages are reached here, pip's settings and the certificates,
is lent to the build and isn't part of the image. What the two make is kept for the next time, in the user's cache.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import platformdirs
import pytest

from deploy.compose import ROOT, need
from deploy.stack import Service

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
NAME = "localhost/truthloop:test"
TIMEOUT_SECONDS = 1500
CERTIFICATES = Path("/etc/ssl/certs")


class Buildah:
    """Buildah with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = need("buildah", "which builds the image without an engine")
        self._debootstrap = need("debootstrap", "which makes the base of the image")
        if os.geteuid() != 0:
            reason = "debootstrap needs root"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)

    def command(self, *arguments: str) -> list[str]:
        """A command of buildah, with the store."""
        places = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]
        return [self._program, *places, "--storage-driver", "vfs", *arguments]

    def run(self, *arguments: str) -> str:
        """Runs it to its end; what it says, without the space around."""
        return _run(self.command(*arguments))

    def build(self) -> None:
        """Builds the image."""
        self.run("rm", "--all")  # what a run that was killed has left
        base = base_name()
        if subprocess.run(self.command("inspect", "--type", "image", base), capture_output=True).returncode != 0:
            self._make_base(base)
        packages = self.folder / "pip"  # so that the next build fetches only what is new
        packages.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as name:
            settings = Path(name, "pip.conf")
            settings.write_text(_pip_settings())
            lent = [f"{settings}:/etc/pip.conf:ro", f"{packages}:/root/.cache/pip"]
            if CERTIFICATES.is_dir():
                lent.append(f"{CERTIFICATES}:{CERTIFICATES}:ro")
            volumes = [part for volume in lent for part in ("--volume", volume)]
            self.run(
                *("bud", "--isolation", "chroot", "--pull-never", *volumes),
                *("--file", str(DOCKERFILE), "--tag", NAME, str(ROOT)),
            )
        self.run("rmi", "--prune")  # the image of the last run has no name any more

    def _make_base(self, base: str) -> None:
        codename = base.rpartition("-")[2]
        with TemporaryDirectory(prefix="truthloop-base-") as name:
            include = "--include=python3,python3-venv,ca-certificates"
            _run([self._debootstrap, "--variant=minbase", include, codename, name, *_mirror(codename)])
            for rest in ("var/cache/apt/archives", "var/lib/apt/lists"):
                shutil.rmtree(Path(name, rest), ignore_errors=True)
            container = self.run("from", "scratch")
            self.run("add", "--quiet", container, name, "/")
            self.run("commit", "--quiet", "--rm", container, base)


class InImage:
    """Runs processes of ours in the image: in one container, each with its own volumes and /tmp.

    Args:
        buildah: the store that has the image.
        container: a container of it.
    """

    def __init__(self, buildah: Buildah, container: str) -> None:
        self._buildah, self._container = buildah, container

    def command(self, service: Service, arguments: Sequence[str]) -> list[str]:
        volumes = [f"--volume={folder}:{path}" for path, folder in service.volumes.items()]
        settings = [f"--env={name}={value}" for name, value in service.settings.items()]
        # Not by the image's entry point, which `buildah run` passes over; the test looks at it.
        return self._buildah.command(
            *("run", "--isolation", "chroot", *volumes, *settings, self._container, "--", *arguments)
        )

    def environment(self, service: Service) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("TRUTHLOOP_")}

    def map_paths(self, volumes: Mapping[str, Path], text: str) -> str:
        return text

    def signal(self, process: "subprocess.Popen[bytes]", number: int) -> None:
        # Buildah passes no signal on: it goes to the process in the container, as an engine's does.
        os.kill(_last_child(process.pid), number)


@contextmanager
def container(buildah: Buildah) -> Iterator[tuple[str, Path]]:
    """A container of the image, and the folder that is its root."""
    name = buildah.run("from", "--pull-never", NAME)
    try:
        yield name, Path(buildah.run("mount", name))
    finally:
        buildah.run("rm", name)


def base_name() -> str:
    """The image that the Dockerfile builds upon, with the registry that an engine would ask for it."""
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert found is not None
    return f"docker.io/library/{found[1]}"


def store() -> Path:
    """Where buildah's images and pip's packages are kept from one run of the tests to the next."""
    return platformdirs.user_cache_path("truthloop-tests")


def _pip_settings() -> str:
    """This machine's settings of pip, of whatever origin, as a file."""
    given = _run(["python3", "-m", "pip", "config", "list"]).splitlines()
    pairs = [line.partition("=") for line in given]
    # A folder of this machine isn't in the build.
    chosen = {name.rpartition(".")[2]: value.strip("'\"") for name, _, value in pairs if "find-links" not in name}
    return "\n".join(["[global]", *(f"{name} = {value}" for name, value in chosen.items()), ""])


def _mirror(codename: str) -> list[str]:
    """Where this machine takes Debian's packages from, if it has that Debian."""
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {codename}", "Component: main"]
    found = _run(targets).split() if shutil.which("apt-get") else []
    return found[:1]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def _last_child(pid: int) -> int:
    """The process at the end of the line of children that a process has."""
    # Each thread has its own list.
    while children := "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split():
        pid = int(children[-1])
    return pid
