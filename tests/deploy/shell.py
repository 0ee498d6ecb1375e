"""MongoDB's own shell, which the health check of its container runs: from npm, as its lock file says."""

import fcntl
import subprocess
from pathlib import Path

from deploy.compose import need

FOLDER = Path(__file__).parent / "mongosh"
TIMEOUT_SECONDS = 600


def programs() -> Path:
    """The folder that holds `mongosh`, which is installed where it isn't or where the lock file is newer."""
    npm = need("npm", "which brings mongosh, the program of MongoDB's health check")
    need("node", "which runs mongosh, the program of MongoDB's health check")
    with (FOLDER / "package.json").open() as lock:  # two processes of one test run may come here at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed, locked = FOLDER / "node_modules" / "installed", FOLDER / "package-lock.json"
        if not installed.exists() or installed.read_bytes() != locked.read_bytes():
            # Its scripts build what it has a plain form of; what is optional is encryption, which isn't used.
            command = [npm, "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"]
            done = subprocess.run(
                command, cwd=FOLDER, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
            )
            assert done.returncode == 0, done.stderr
            installed.write_bytes(locked.read_bytes())
    return FOLDER / "node_modules" / ".bin"
