"""What the tests of loading need of other processes."""

import time
from collections.abc import Callable

# A process that loads the file that it is given, with the settings of its environment, in small batches.
LOAD_AGAIN = """
import sys
from pathlib import Path
from truthloop.ingest import batches, load
from truthloop.settings import load_settings
from truthloop.store.connection import connect

batches.BATCH_DOCUMENTS = 500
with connect(load_settings(), create=True) as store:
    assert load.load(store, [Path(sys.argv[1])]).ok
"""


def wait_until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Returns when the condition holds; fails if it doesn't in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.005)
