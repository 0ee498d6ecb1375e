"""A model's files: where they are looked for, and how they get there."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from truthloop.errors import FileRefused, ModelRefused, ModelUnavailable
from truthloop.models.catalogue import Catalogue
from truthloop.models.documents import CatalogueEntry, ModelFile
from truthloop.models.fetch import FetchFailed, Progress, fetch_file, quiet
from truthloop.models.folders import cache_folder, folders_of_people
from truthloop.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """A file of a model and where it stands."""

    file: ModelFile
    path: Path | None  # where it was found
    state: Literal["there", "missing", "wrong"]  # wrong: its SHA-256 isn't the catalogue's


def file_states(settings: Settings, entry: CatalogueEntry) -> list[FileState]:
    """How each file of a model stands; nothing is fetched."""
    return [_state(settings, file) for file in entry.files]


def is_file_there(settings: Settings, file: ModelFile) -> bool:
    """Whether the very file is in one of the folders."""
    return _state(settings, file).state == "there"


def is_there(settings: Settings, entry: CatalogueEntry) -> bool:
    """Whether a model works as it stands, without fetching anything."""
    return all(is_file_there(settings, file) for file in entry.files)


def read_file(
    settings: Settings, entry: CatalogueEntry, file: ModelFile, *, fetch: bool, progress: Progress = quiet
) -> bytes:
    """The verified bytes of a model's file.

    It is looked for in TRUTHLOOP_MODELS, in the user's folder and in the cache, then fetched into the cache.

    Args:
        settings: of this process.
        entry: the model.
        file: one of its files.
        fetch: whether it may be fetched.
        progress: called with the bytes fetched so far and their number, where it is known.

    Raises:
        ModelRefused: a file of that name was put into a folder, but has another SHA-256.
        ModelUnavailable: it isn't there, and can't or mustn't be fetched.
        FileRefused: it can't be read.
    """
    found = _verified(settings, file)
    if found is not None:
        return found
    if not fetch:
        raise _unavailable(settings, entry, file, f"isn't there. Run `truthloop models pull {entry.name}`, or put")
    try:
        with _one_at_a_time(file):
            # Another process may have fetched it meanwhile.
            found = _verified(settings, file)
            if found is None:
                found = fetch_file(file, progress=progress)
                place(cache_folder() / file.name, found)
            return found
    except FetchFailed as error:
        raise _unavailable(settings, entry, file, f"can't be fetched: {error} Put") from error


def place(path: Path, data: bytes) -> None:
    """Writes a file so that nobody ever sees a part of it; one that is there is replaced.

    Raises:
        FileRefused: it can't be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise FileRefused(f"{path} can't be written: {error.strerror}. Make its folder writable.") from error


def _state(settings: Settings, file: ModelFile) -> FileState:
    for folder in [*folders_of_people(settings), cache_folder()]:
        path = folder / file.name
        data = _read(path)
        if data is not None:
            is_right = hashlib.sha256(data).hexdigest() == file.sha256
            return FileState(file=file, path=path, state="there" if is_right else "wrong")
    return FileState(file=file, path=None, state="missing")


def _verified(settings: Settings, file: ModelFile) -> bytes | None:
    """The bytes, where the file is in one of the folders."""
    for folder in folders_of_people(settings):
        data = _read(folder / file.name)
        if data is not None:
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 != file.sha256:
                # Somebody put it there, and would wonder why another one is used.
                raise ModelRefused(
                    f"{folder / file.name} has the SHA-256 {sha256} instead of {file.sha256}: it is damaged, or "
                    "another version. It isn't used. Replace it, or remove it to have it fetched."
                )
            return data
    data = _read(cache_folder() / file.name)
    # One that is damaged in the cache is fetched again.
    return data if data is not None and hashlib.sha256(data).hexdigest() == file.sha256 else None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FileRefused(f"{path} can't be read: {error.strerror}. Make it readable.") from error


def _unavailable(settings: Settings, entry: CatalogueEntry, file: ModelFile, what: str) -> ModelUnavailable:
    """The error that names the folder where the missing files may be put, and the models that work without.

    It stands in jobs and events and on many screens, so SHA-256s and addresses are left to `models show`.
    """
    missing = [each.name for each in entry.files if not is_file_there(settings, each)]
    others = [
        other.name
        for other in Catalogue.open(settings).entries()
        if other.name != entry.name and is_there(settings, other)
    ]
    if settings.models is None:
        where = f"{cache_folder()}, or into a folder that TRUTHLOOP_MODELS names"
    else:
        where = f"{settings.models}, the folder of TRUTHLOOP_MODELS"
        if not settings.models.is_dir():
            where += ", which isn't there yet"
    return ModelUnavailable(
        f"{file.name} of the model {entry.name} {what} {' and '.join(missing)} "
        f"(`truthloop models show {entry.name}` says where from) into {where}. "
        f"These models work without: {', '.join(others)}."
    )


@contextmanager
def _one_at_a_time(file: ModelFile) -> Iterator[None]:
    """Lets one process fetch a file while the others wait for it."""
    folder = cache_folder()
    path = folder / f".{file.name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FileRefused(f"{path} can't be made: {error.strerror}. Make its folder writable.") from error
    try:
        # Of the open file and not of the process, so that two threads of one process wait for each other, too.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # and with it the lock
