"""What the tests of loading need of other processes."""

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
