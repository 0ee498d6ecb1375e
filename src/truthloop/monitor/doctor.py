"""Whether the installation works and the workspace's data hold together; each finding says how to mend it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from truthloop.datasets.settle import COLLECTION as DATASETS
from truthloop.datasets.settle import DATASET, current_uuid, settle_stopped
from truthloop.errors import TruthloopError
from truthloop.events.kafka import Cluster, own_topics
from truthloop.events.relay import waiting
from truthloop.ingest.load import interrupted_loads
from truthloop.monitor import follow
from truthloop.monitor.doctor_files import files
from truthloop.monitor.doctor_jobs import queue
from truthloop.monitor.figures import Figures
from truthloop.monitor.finding import Finding, lasting
from truthloop.monitor.read import COLLECTION as IMAGE_STATES
from truthloop.monitor.read import MAX_ID_BYTES, read_states, read_written
from truthloop.monitor.recount import SOURCE_FIELDS, ranges
from truthloop.monitor.states import ImageState
from truthloop.settings import Settings
from truthloop.store import embedded
from truthloop.store.connection import Store, connect
from truthloop.store.migrations import SOURCE_INDEXES, SOURCES

OLDEST_PYTHON = (3, 11)
# mongod refuses to write when less than 500 MB are left on some platforms; warn well before.
LOW_DISK_BYTES = 1024**3
EXAMPLES = 3
_TOO_LONG = f"^.{{{MAX_ID_BYTES + 1}}}"  # by characters; one of many bytes in fewer is passed over unnamed
RECOUNT = "`truthloop status --recount` makes indexes and pre-images again and counts everything anew."
# The relay stores its position once a second; only what waits for longer is told of.
RELAY_SECONDS = 10.0
COUNTED_EVENTS = 10_000
# A workspace that is being written to may change between a count and its comparison.
ATTEMPTS = 3


def examine(
    settings: Settings,
    *,
    remove_unnamed_files: bool = False,
    progress: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> Iterator[Finding]:
    """Looks at everything, the installation first; goes on as far as it can when something is broken.

    Args:
        settings: of the workspace.
        remove_unnamed_files: whether files that no document names are set aside, and removed for good a day later.
        progress: called with what it is at, where that takes long.

    Yields:
        Each finding as soon as it's there, since proving the figures of a large workspace takes a while.
    """
    yield _python()
    yield from _mongod(settings)
    yield from _folder(settings)
    yield from _kafka(settings)
    yield from _models(settings)
    try:
        store = connect(settings, create=False)
    except TruthloopError as error:
        yield Finding(level="failure", name="MongoDB", text=str(error))
        return
    with store:
        own = settings.mongodb_uri is not None
        # The embedded one has no password in its address; others may want it for a shell or a script of theirs.
        server = "TRUTHLOOP_MONGODB_URI" if own else f"the embedded server at {store.embedded_uri}"
        with store.errors():
            version = store.client.server_info()["version"]
        yield Finding(level="ok", name="MongoDB", text=f"{server} answers, version {version}")
        looks: Mapping[str, Callable[[Store], Iterator[Finding]]] = {
            **_DATA,
            # Last, since all files are looked at, too.
            "files": partial(files, remove=remove_unnamed_files, progress=progress),
        }
        for name, look in looks.items():
            try:
                yield from look(store)
            except TruthloopError as error:
                yield Finding(level="failure", name=name, text=str(error), mend="Mend MongoDB, then look again.")


def _python() -> Finding:
    here = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < OLDEST_PYTHON:
        return Finding(level="failure", name="Python", text=f"{here} is too old", mend="Use 3.11 or newer.")
    return Finding(level="ok", name="Python", text=here)


def _mongod(settings: Settings) -> Iterator[Finding]:
    if settings.mongodb_uri is not None:
        return
    try:
        path = embedded.find_mongod()
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (TruthloopError, OSError, subprocess.TimeoutExpired) as error:
        yield Finding(
            level="failure",
            name="mongod",
            text=str(error),
            mend="Install mongod, or set TRUTHLOOP_MONGODB_URI.",
        )
        return
    if said.returncode != 0:
        yield Finding(
            level="failure",
            name="mongod",
            text=f"{path} doesn't run: {said.stderr.strip()[-300:]}",
            mend="On Debian and Ubuntu: apt-get install libcurl4 openssl",
        )
    else:
        yield Finding(level="ok", name="mongod", text=f"{said.stdout.splitlines()[0]} ({path})")


def _folder(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    if not home.is_dir():
        yield Finding(level="ok", name="workspace folder", text=f"{home} isn't there yet")
        return
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(
            level="failure",
            name="workspace folder",
            text=f"{home} can't be written",
            mend=f"Give yourself the right: chown -R $USER {home}",
        )
        return
    free = shutil.disk_usage(home).free
    low = free < LOW_DISK_BYTES
    yield Finding(
        level="warning" if low else "ok",
        name="workspace folder",
        text=f"{home}, {free / 1024**3:,.1f} GiB free",
        mend="Free some space: MongoDB stops when the disk is full." if low else "",
    )
    token = home / "token"
    if token.exists() and token.stat().st_mode & 0o077:
        yield Finding(
            level="warning",
            name="token",
            text=f"{token} can be read by others",
            mend=f"chmod 600 {token}",
        )


def _kafka(settings: Settings) -> Iterator[Finding]:
    if settings.kafka_bootstrap_servers is None:
        return
    try:
        cluster = Cluster(settings, name="truthloop-doctor").describe()
    except TruthloopError as error:
        yield Finding(level="failure", name="Kafka", text=str(error))
        return
    topics = own_topics(cluster.topics)
    yield Finding(
        level="ok",
        name="Kafka",
        text=f"{settings.kafka_bootstrap_servers} answers, brokers: {len(cluster.brokers)}, topics of ours: "
        f"{', '.join(topics) or 'none yet'}; it wakes the workers",
    )


def _models(settings: Settings) -> Iterator[Finding]:
    from truthloop.models.catalogue import Catalogue
    from truthloop.models.folders import missing_folder

    mend = "Correct the file, add the model again with `truthloop models add`, or remove it."
    try:
        unusable = Catalogue.open(settings).unusable()
    except TruthloopError as error:
        yield Finding(level="failure", name="models", text=str(error))
        return
    for bad in unusable:
        yield Finding(level="warning", name="models", text=str(bad.reason), mend=mend)
    if (missing := missing_folder(settings)) is not None:
        yield Finding(level="warning", name="models", text=missing)


def _indexes(store: Store) -> Iterator[Finding]:
    with store.errors():
        options = {entry["name"]: entry["options"] for entry in store.database.list_collections()}
        missing = [
            name
            for name, keys in SOURCE_INDEXES.items()
            if [(key, 1) for key in keys]
            not in [list(index["key"].items()) for index in store[name].list_indexes()]
        ]
    blind = [
        name
        for name in SOURCES
        if not options.get(name, {}).get("changeStreamPreAndPostImages", {}).get("enabled", False)
    ]
    if missing:
        yield Finding(level="failure", name="indexes", text=f"missing on {', '.join(missing)}", mend=RECOUNT)
    else:
        yield Finding(level="ok", name="indexes", text="all there")
    if blind:
        yield Finding(level="failure", name="pre-images", text=f"off on {', '.join(blind)}", mend=RECOUNT)
    else:
        yield Finding(level="ok", name="pre-images", text="on, so deletes are seen")


def _documents(store: Store) -> Iterator[Finding]:
    """Documents that other systems wrote in a shape that no reader can use."""
    with store.errors():
        for name in SOURCES:
            without = {"$or": [{"image_id": {"$not": {"$type": "string"}}}, {"image_id": {"$regex": _TOO_LONG}}]}
            unreadable = store[name].count_documents(without)
            if unreadable:
                one = store[name].find_one(without, {"_id": 1}) or {}
                yield Finding(
                    level="warning",
                    name=name,
                    text=f"{unreadable:,} documents have no image_id that is text of at most {MAX_ID_BYTES:,} "
                    f"bytes, such as _id {one.get('_id')}; they are counted nowhere",
                    mend="Correct or delete them.",
                )
            else:
                yield Finding(level="ok", name=name, text=f"{store[name].estimated_document_count():,} documents")
        for name, keys in (("metadata", ("image_id",)), ("bbox.model", ("image_id", "model_version"))):
            twice = _twice(store, name, keys)
            if twice:
                yield Finding(
                    level="warning",
                    name=name,
                    text=f"several documents stand for one {' and '.join(keys)}, such as {twice[0]}; the image is "
                    "counted once",
                    mend="Delete the ones that aren't wanted.",
                )


def _twice(store: Store, name: str, keys: tuple[str, ...]) -> list[Mapping[str, Any]]:
    group = {key: f"${key}" for key in keys}
    return [
        entry["_id"]
        for entry in store[name].aggregate(
            [
                {"$sort": dict.fromkeys(SOURCE_INDEXES[name], 1)},
                {"$group": {"_id": group, "count": {"$sum": 1}}},
                {"$match": {"count": {"$gt": 1}}},
                {"$limit": EXAMPLES},
            ],
            allowDiskUse=True,
            hint=dict.fromkeys(SOURCE_INDEXES[name], 1),
        )
    ]


def _figures(store: Store) -> Iterator[Finding]:
    """The proof that the figures, and each image's state behind them, equal a recount."""
    for _ in range(ATTEMPTS):
        before = follow.up_to_now(store)
        counted, differing = _compare(store)
        after = follow.up_to_now(store)
        # An image that was written to while it was compared differed for a moment; only what still does is wrong.
        wrong = sorted(_still_differing(store, differing))
        if counted == after and not wrong:
            images = sum(after.states.values())
            yield Finding(level="ok", name="figures", text=f"equal a recount of {images:,} images")
            return
        if before == after:
            break
    else:
        yield Finding(
            level="warning",
            name="figures",
            text="the data changed while they were counted, so nothing is proved",
            mend="Look again when less is written.",
        )
        return
    named = f"; such as image {', '.join(wrong[:EXAMPLES])}" if wrong else ""
    yield Finding(level="failure", name="figures", text=f"differ from a recount{named}", mend=RECOUNT)


def _compare(store: Store) -> tuple[Figures, list[str]]:
    counted, wrong = Figures(), list[str]()
    with store.errors():
        for which in ranges(store, (*SOURCE_FIELDS, (IMAGE_STATES, "_id"))):
            new, old = read_states(store, which), read_written(store, which)
            for state in new.values():
                counted.add(state)
            wrong += _differing(old, new)
    return counted, wrong


def _still_differing(store: Store, image_ids: list[str]) -> Iterator[str]:
    for start in range(0, len(image_ids), follow.STEP_EVENTS):
        which = {"$in": image_ids[start : start + follow.STEP_EVENTS]}
        with store.errors():
            yield from _differing(read_written(store, which), read_states(store, which))


def _differing(old: Mapping[str, ImageState], new: Mapping[str, ImageState]) -> list[str]:
    return [image_id for image_id in old.keys() | new.keys() if old.get(image_id) != new.get(image_id)]


def _loads(store: Store) -> Iterator[Finding]:
    stopped = interrupted_loads(store)
    if not stopped:
        yield Finding(level="ok", name="loads", text="none was cut short")
    for load in stopped:
        yield Finding(
            level="warning",
            name="loads",
            text=f"what `{load.command}` brings into {load.collection} was cut short",
            mend=f"Run it again, what is there already is skipped: {load.command}",
        )


def _datasets(store: Store) -> Iterator[Finding]:
    """Finishes or undoes builds that stopped in between, and holds `bbox_dataset` against its version."""
    settled, building = settle_stopped(store)
    for one in settled:
        yield Finding(
            level="warning",
            name="datasets",
            text=f"the build of version {one.version} had been cut short; it is {one.outcome} now",
            mend="Build again: truthloop dataset build" if one.outcome == "undone" else "",
        )
    if building:
        yield Finding(level="ok", name="datasets", text="one is being built, or was until 10 seconds ago")
        return
    with store.errors():
        uuid = current_uuid(store)
        newest = store[DATASETS].find_one({"state": "built"}, sort=[("_id", -1)])
        found = store[DATASET].count_documents({}) if uuid is not None else 0
    if newest is None:
        yield Finding(level="ok", name="datasets", text="none was built yet")
        return
    version, entries = newest["_id"], newest["report"]["entries"]
    if newest["collection_uuid"] != uuid or found != entries:
        yield Finding(
            level="warning",
            name="datasets",
            text=f"{DATASET} isn't version {version}, the newest, any more: somebody else wrote into it",
            mend="Build it again: truthloop dataset build",
        )
    else:
        yield Finding(
            level="ok", name="datasets", text=f"{DATASET} is version {version}, all {entries:,} entries of it"
        )


def _relay(store: Store) -> Iterator[Finding]:
    if store.settings.kafka_bootstrap_servers is None:
        return
    number, seconds = waiting(store, limit=COUNTED_EVENTS)
    if seconds > RELAY_SECONDS:
        more = " or more" if number == COUNTED_EVENTS else ""
        yield Finding(
            level="warning",
            name="relay",
            text=f"{number:,}{more} {'event is' if number == 1 else 'events are'} not in Kafka yet, "
            f"the first for {lasting(seconds)}",
            mend="Start `truthloop relay`, or see what it logs.",
        )
    else:
        yield Finding(level="ok", name="relay", text="no event waits for Kafka")


_DATA: Mapping[str, Callable[[Store], Iterator[Finding]]] = {
    "indexes": _indexes,
    "documents": _documents,
    "loads": _loads,
    "datasets": _datasets,
    "relay": _relay,
    "queue": queue,
    "figures": _figures,
}
