"""The end of a build: its last step, also of one that had stopped, or its undoing where it never got that far.

How the two are told apart stands in build.py.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pymongo import ReturnDocument
from pymongo.client_session import ClientSession

from truthloop.datasets import entries as files
from truthloop.datasets.documents import DatasetReport, Settled
from truthloop.errors import LeaseLost
from truthloop.events.record import record
from truthloop.store import lease as leases
from truthloop.store.connection import Store

COLLECTION = "truthloop.datasets"
DATASET = "bbox_dataset"
TEMPORARY = "truthloop.dataset_building_"
LEASE_NAME = "datasets"
# A build that was killed keeps the next one waiting for as long.
LEASE_SECONDS, BEAT_SECONDS = 10.0, 2.0


def settle_stopped(store: Store) -> tuple[list[Settled], bool]:
    """Finishes or undoes the builds that stopped in between, unless one is running.

    Returns:
        What became of them, and whether a build is running (or has stopped so lately that it may be).
    """
    holder = f"settle-{uuid4().hex}"
    lease = leases.acquire(store, LEASE_NAME, holder=holder, seconds=LEASE_SECONDS)
    if lease is None:
        return [], True
    with leases.held(store, lease, every_seconds=BEAT_SECONDS):
        return settle_all(store), False


def settle_all(store: Store) -> list[Settled]:
    """The same for whoever holds the lease of the builds."""
    with store.errors():
        stopped = [found["_id"] for found in store[COLLECTION].find({"state": "building"}, {"_id": 1})]
        settled = [settle(store, version) for version in sorted(stopped)]
        # What a builder that was taken for dead left behind when it woke up.
        for name in store.database.list_collection_names(filter={"name": {"$regex": f"^{TEMPORARY}"}}):
            store.database.drop_collection(name)
    return settled


def settle(store: Store, version: int) -> Settled:
    """Finishes a build that had swapped, undoes one that hadn't; its builder can't go on afterwards."""
    with store.errors():
        found = store[COLLECTION].find_one({"_id": version}) or {}
        # First, so that its builder, if it lives, can't swap once this has looked whether it did.
        store.database.drop_collection(f"{TEMPORARY}{version}")
        swapped = "collection_uuid" in found and uuid_of(store, DATASET) == found["collection_uuid"]
    if found.get("state") == "built" or swapped:
        finish(store, version)
        return Settled(version=version, outcome="finished")
    if "folder" in found:  # before the record says so, else who is killed in between leaves it for ever
        files.remove_folder(files.folder_of(store.settings.home, found["folder"]))
    with store.errors():
        store[COLLECTION].update_one(
            {"_id": version, "state": "building"},
            {"$set": {"state": "undone"}, "$unset": {"report": "", "collection_uuid": "", "sha256": ""}},
        )
    return Settled(version=version, outcome="undone")


def finish(store: Store, version: int, *, swap_seconds: float | None = None) -> DatasetReport:
    """The last step: the record says `built` and the log has the event, once, whoever does it.

    Args:
        store: the workspace.
        version: whose collection is in place.
        swap_seconds: how long that took, where it is known.

    Raises:
        LeaseLost: the version was undone.
    """

    def work(session: ClientSession) -> dict[str, Any] | None:
        built = store[COLLECTION].find_one_and_update(
            {"_id": version, "state": "building"},
            {
                "$set": {"state": "built", "built": datetime.now(UTC), "report.seconds.swap": swap_seconds},
                "$inc": {"revision": 1},
            },
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if built is None:  # somebody else was quicker
            return store[COLLECTION].find_one({"_id": version, "state": "built"}, session=session)
        said = built["report"]
        record(
            store,
            session,
            type="dataset.built",
            subject=str(version),
            source="/datasets",
            sequence=int(built["revision"]),
            data={
                "state": "built",
                "images": said["images"],
                "entries": said["entries"],
                "human": said["human"]["images"],
                "model": said["model"]["images"],
                "unseen": said["left_out"]["unseen"],
                "refused": said["left_out"]["refused"],
                "audited_incorrect": said["left_out"]["audited_incorrect"],
                "without_incorrect": said["without_incorrect"],
            },
        )
        return built

    built = store.transaction(work)
    if built is None:
        raise taken_over(version)
    return report_of(built)


def report_of(found: dict[str, Any]) -> DatasetReport:
    """The report in a record."""
    return DatasetReport.model_validate({**found["report"], "built_at": found["built"]})


def uuid_of(store: Store, name: str) -> Any:
    """The identity of a collection; None if there is none of that name."""
    with store.errors():
        found = list(store.database.list_collections(filter={"name": name}))
    return found[0]["info"]["uuid"] if found else None


def current_uuid(store: Store) -> Any:
    """The identity of `bbox_dataset`; None if there is none."""
    return uuid_of(store, DATASET)


def taken_over(version: int) -> LeaseLost:
    """The error for a builder whose version was undone."""
    return LeaseLost(
        f"The build of version {version} stood still for so long that it was taken for dead and undone. "
        "Build again."
    )
