"""What a transaction sees of those before it, also of one that didn't wait until nothing could undo it."""

import threading
from pathlib import Path

from pymongo import WriteConcern

from store.embedded_users import end_at_once, kill_mongod
from truthloop.errors import DatabaseUnavailable
from truthloop.settings import Settings
from truthloop.store.connection import Store, connect

TRIES = 150


def add(store: Store, number: int, *, is_lasting: bool) -> None:
    store.transaction(
        lambda session: store["numbers"].insert_one({"_id": number}, session=session), is_lasting=is_lasting
    )


def is_there(store: Store, number: int) -> bool:
    return (
        store.transaction(lambda session: store["numbers"].find_one({"_id": number}, session=session)) is not None
    )


def test_a_transaction_sees_an_earlier_one_that_did_not_wait_while_others_write(store: Store):
    store["numbers"].insert_one({"_id": -1})
    stop = threading.Event()

    def write(number: int) -> None:
        busy = store[f"busy-{number}"].with_options(write_concern=WriteConcern(1))
        while not stop.is_set():
            busy.insert_many([{} for _ in range(50)])

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    try:
        missed = []
        for number in range(TRIES):
            add(store, number, is_lasting=False)
            if not is_there(store, number):
                missed.append(number)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert missed == []


def test_a_transaction_that_a_crash_has_undone_keeps_nobody_waiting(tmp_path: Path, settings: Settings):
    home = tmp_path / "home"
    try:
        with connect(settings.model_copy(update={"home": home}), create=True) as store:
            add(store, 1, is_lasting=True)
            add(store, 2, is_lasting=False)
            assert kill_mongod(home) is not None
            try:
                add(store, 3, is_lasting=True)
            except DatabaseUnavailable:  # it runs again now
                add(store, 3, is_lasting=True)
            assert is_there(store, 1)
            assert is_there(store, 3)
    finally:
        end_at_once(home)
