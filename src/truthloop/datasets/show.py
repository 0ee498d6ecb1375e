"""The verbs `list` and `show`, and finding a version's files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from truthloop.datasets import entries as files
from truthloop.datasets.documents import DatasetItem, DatasetPage, DatasetReport, LeftOutImage
from truthloop.datasets.settle import COLLECTION, current_uuid, report_of
from truthloop.errors import FileRefused, InputRefused, NotFound
from truthloop.store.connection import Store

MAX_LIMIT = 1000
# MongoDB's integers have 64 bits.
MAX_VERSION = 2**63 - 1


def list_datasets(store: Store, *, limit: int = 100, after: int | None = None) -> DatasetPage:
    """A page of the versions that were built, the newest first.

    Args:
        store: the workspace.
        limit: at most so many, up to 1000.
        after: the `next` of the page before.

    Raises:
        InputRefused: the limit isn't between 1 and 1000.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InputRefused(
            f"limit is {limit}; it must be between 1 and {MAX_LIMIT}.", errors={"limit": "out of range"}
        )
    query: dict[str, Any] = {"state": "built"}
    if after is not None:
        query["_id"] = {"$lt": after}
    current = current_uuid(store)
    with store.errors():
        found = list(store[COLLECTION].find(query).sort("_id", -1).limit(limit + 1))
    return DatasetPage(
        items=[_item(each, current) for each in found[:limit]],
        next=found[limit - 1]["_id"] if len(found) > limit else None,
    )


def show_dataset(store: Store, version: int | None = None) -> DatasetReport:
    """The report of a version, by default of the newest.

    Raises:
        NotFound: there is no such version.
    """
    return report_of(find_built(store, version))


def left_out(store: Store, version: int | None = None) -> Iterator[LeftOutImage]:
    """The images that a version (by default the newest) left out, all of them, in the order of their ids.

    Raises:
        NotFound: there is no such version.
        FileRefused: its files aren't in this workspace folder.
    """
    for row in files.read_left_out(file_of(store, find_built(store, version), files.LEFT_OUT)):
        yield LeftOutImage.model_validate(row)


def find_built(store: Store, version: int | None) -> dict[str, Any]:
    """The record of a version that was built, by default of the newest.

    Raises:
        InputRefused: it can't be a version's number.
        NotFound: there is no such version.
    """
    if version is not None and not (type(version) is int and 1 <= version <= MAX_VERSION):
        raise InputRefused(
            f"version is {version!r}; it must be a whole number from 1 on.",
            errors={"version": "must be 1 or more"},
        )
    query = {"state": "built"} if version is None else {"state": "built", "_id": version}
    with store.errors():
        found = store[COLLECTION].find_one(query, sort=[("_id", -1)])
    if found is None:
        what = "There is no dataset yet." if version is None else f"There is no dataset version {version}."
        raise NotFound(
            f"{what} `truthloop dataset list` names those that there are, `truthloop dataset build` makes one."
        )
    return found


def file_of(store: Store, found: dict[str, Any], name: str) -> Path:
    """One of the files of a version, given its record.

    Raises:
        FileRefused: it isn't in this workspace folder.
    """
    path = files.folder_of(store.settings.home, found["folder"]) / name
    if not path.is_file():
        raise FileRefused(
            f"{path} isn't there: version {found['_id']} was built from another workspace folder, or its "
            "files were removed. Copy them from there, or build a new version with `truthloop dataset build`."
        )
    return path


def _item(found: dict[str, Any], current: Any) -> DatasetItem:
    report = report_of(found)
    assert report.version is not None and report.built_at is not None
    return DatasetItem(
        version=report.version,
        built_at=report.built_at,
        as_of=report.as_of,
        without_incorrect=report.without_incorrect,
        images=report.images,
        entries=report.entries,
        human=report.human.images,
        model=report.model.images,
        seen_fraction=report.seen_fraction,
        current=found["collection_uuid"] == current,
    )
