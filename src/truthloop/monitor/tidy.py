"""What the service removes by itself once its time is over."""

import threading
from collections.abc import Callable

from truthloop.blobs import Blobs
from truthloop.errors import TruthloopError
from truthloop.logs import get_logger
from truthloop.monitor.unnamed_files import AnotherIsAtIt, forget_old
from truthloop.predict.outlines import OutlineVerbs
from truthloop.store.connection import Store

log = get_logger(__name__)

EVERY_SECONDS = 600.0


def tidy(store: Store, blobs: Callable[[], Blobs], outlines: OutlineVerbs, stop: threading.Event) -> None:
    """Looks every ten minutes until `stop` is set.

    Tasks of the outline service go a day after their upload, and files a day after they were set aside. Files that
    nobody names are looked for only by `truthloop doctor`, when a person says so: to it an image whose document a
    customer's own system is about to write anew looks the same as one that is gone.
    """
    while not stop.is_set():
        try:
            tasks = outlines.remove_old(stop)
            files = forget_old(store, blobs(), stop=stop)
            if tasks or files.files:
                log.info("tidied", outline_tasks=tasks, files=files.files, bytes=files.bytes)
        except AnotherIsAtIt:
            pass
        except TruthloopError as error:
            log.warning("tidy_waits", error=str(error))
        except Exception:
            log.exception("tidy_failed")  # the next look may do better, and the service goes on
        stop.wait(EVERY_SECONDS)
