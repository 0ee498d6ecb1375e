"""Whether a workspace holds made-up data; made-up and real documents never stand in one workspace.

`truthloop.workspace` has one document that says what the workspace holds. Whoever stores something first puts it
there, atomically: of a load and a sample that begin at the same moment, one is refused. `truthloop.samples` says
which samples were begun, and how far each was made.
"""

from contextlib import suppress
from typing import Literal, TypeAlias

from pymongo.errors import DuplicateKeyError

from truthloop.errors import Conflict
from truthloop.store.connection import Store
from truthloop.store.migrations import SOURCES

Kind: TypeAlias = Literal["real", "synthetic"]

SAMPLES = "truthloop.samples"
WORKSPACE = "truthloop.workspace"
KIND_ID = "kind"


def is_synthetic(store: Store) -> bool:
    """Whether a sample was made here, wholly or in part."""
    with store.errors():
        return store[SAMPLES].find_one({}, {"_id": 1}) is not None


def holds_documents(store: Store) -> bool:
    """Whether there is anything in the four collections."""
    with store.errors():
        return any(store[name].find_one({}, {"_id": 1}) is not None for name in SOURCES)


def refuse_real(store: Store) -> None:
    """Called before real documents are looked at.

    Raises:
        Conflict: the workspace holds made-up ones.
    """
    _check(store, "real", _kind(store))


def claim_real(store: Store) -> None:
    """Called before real documents are stored.

    Raises:
        Conflict: the workspace holds made-up ones.
    """
    _claim(store, "real")


def begin_sample(store: Store, *, images: int, seed: int) -> None:
    """Called before made-up documents are stored, so that the figures are labelled from the first one on.

    Raises:
        Conflict: the workspace holds real ones.
    """
    _claim(store, "synthetic")
    with store.errors():
        store[SAMPLES].update_one(
            {"_id": str(seed)}, {"$set": {"seed": seed}, "$max": {"images": images}}, upsert=True
        )


def end_sample(store: Store, *, images: int, seed: int) -> None:
    """Called when all of a sample is stored."""
    with store.errors():
        store[SAMPLES].update_one({"_id": str(seed)}, {"$max": {"made": images}})


def unfinished_sample(store: Store) -> tuple[int, int] | None:
    """A sample that was begun and isn't all there, as its number of images and its seed."""
    with store.errors():
        found = store[SAMPLES].find_one({"$expr": {"$lt": [{"$ifNull": ["$made", 0]}, "$images"]}})
    return (int(found["images"]), int(found["seed"])) if found is not None else None


def _kind(store: Store) -> Kind | None:
    """What the workspace holds; None while it holds nothing."""
    if (said := _said(store)) is not None:
        return said
    # Nobody has said so: other systems store documents without asking.
    if is_synthetic(store):
        return "synthetic"
    return "real" if holds_documents(store) else None


def _said(store: Store) -> Kind | None:
    with store.errors():
        found = store[WORKSPACE].find_one({"_id": KIND_ID})
    return found["kind"] if found is not None else None


def _claim(store: Store, wanted: Kind) -> None:
    if _said(store) == wanted:
        return
    _check(store, wanted, _kind(store))
    with store.errors(), suppress(DuplicateKeyError):  # of two at once, one was quicker
        store[WORKSPACE].update_one({"_id": KIND_ID}, {"$setOnInsert": {"kind": wanted}}, upsert=True)
    _check(store, wanted, _said(store))


def _check(store: Store, wanted: Kind, held: Kind | None) -> None:
    if held is None or held == wanted:
        return
    if wanted == "real":
        raise Conflict(
            "This workspace holds made-up sample data, which must not be mixed with yours. Name "
            "another folder for it in TRUTHLOOP_HOME (or another TRUTHLOOP_DATABASE), or remove this one: "
            f"truthloop down && rm -r {store.settings.home}"
        )
    raise Conflict(
        "This workspace holds documents of your own; made-up ones would spoil their figures. Make the sample in "
        "another folder: TRUTHLOOP_HOME=FOLDER truthloop sample"
    )
