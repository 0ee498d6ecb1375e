"""Files by their content: a blob's key is the SHA-256 of its bytes, in a local folder or an object store.

A file that nobody names any more is set aside first, and is removed for good only a day later. Whoever has stored
the same bytes in between, and so relies on that file, still finds it: it is read from there, and put back as soon
as it is seen that a document names it. No lock could do that, since an object store has none.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from truthloop.blob_address import blob_folder
from truthloop.errors import NotFound, SettingRefused, StorageUnavailable
from truthloop.settings import Settings

if TYPE_CHECKING:
    from obstore import ObjectMeta

# Beside the files: those that are set aside, and a mark of each workspace that keeps its files here.
ASIDE, MARKS = "aside", "workspaces"
_DIGITS = re.compile("[0-9a-f]+")
# How many files a listing gives at once.
PAGE = 1000


class StoredFile(NamedTuple):
    """A file as a listing tells of it."""

    key: str
    size: int  # bytes
    modified: datetime  # by the store's clock: when it was stored, or set aside


class Blobs:
    """The blob store of a workspace. Its methods may be called from several threads.

    Each raises `StorageUnavailable` where the store can't be reached, read or written.

    Args:
        store: where the files are.
        place: what people call it.
        folder: the folder that it is, if it is one.
        owner: the id of the workspace whose files these are; asked for when the first one is stored. Without it no
            mark is left, and nothing keeps another workspace from removing the files.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        place: str,
        folder: Path | None = None,
        owner: Callable[[], str] | None = None,
    ) -> None:
        self._store, self.place, self._folder = store, place, folder
        self._owner, self._is_marked = owner, owner is None

    @classmethod
    def open(cls, settings: Settings, *, owner: Callable[[], str] | None = None) -> Self:
        """The store that TRUTHLOOP_BLOBS names, by default the folder `blobs` of the workspace.

        Raises:
            SettingRefused: the address can't be understood.
        """
        if settings.blobs is None:
            return cls._in_folder(settings.home / "blobs", owner)
        try:
            folder = blob_folder(settings.blobs)
        except ValueError as error:
            raise SettingRefused(f"TRUTHLOOP_BLOBS is {settings.blobs!r}: {error}.") from None
        if folder is not None:
            return cls._in_folder(folder, owner)
        try:
            return cls(from_url(settings.blobs), place="TRUTHLOOP_BLOBS", owner=owner)
        except (BaseError, ValueError) as error:
            raise SettingRefused(
                f"TRUTHLOOP_BLOBS is {settings.blobs!r}, which can't be used: {_said(error)}."
            ) from None

    @classmethod
    def _in_folder(cls, folder: Path, owner: Callable[[], str] | None) -> Self:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageUnavailable(f"{folder} can't be made: {error.strerror}. Make it writable.") from error
        # obstore writes to a file of another name and links it, so a reader never sees half a blob.
        return cls(LocalStore(prefix=folder), place=str(folder), folder=folder, owner=owner)

    def put(self, data: bytes) -> str:
        """Stores the bytes, unless they are there; returns their key, 64 hexadecimal digits."""
        key = hashlib.sha256(data).hexdigest()
        if not self._is_marked:
            self.mark()
        try:
            obstore.put(self._store, self._path(key), data, mode="create")
        except AlreadyExistsError:
            pass
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error
        return key

    def get(self, key: str) -> bytes:
        """The bytes of a key.

        Raises:
            NotFound: there is no such blob, or the key is none.
        """
        path = self._path(key)
        # Between the first two looks it may have been put back.
        for place in (path, f"{ASIDE}/{path}", path):
            try:
                if self._folder is not None:
                    # Past obstore, whose own threads would take longer than the reading of a photograph.
                    return (self._folder / place).read_bytes()
                return obstore.get(self._store, place).bytes().to_bytes()
            except (NotFoundError, FileNotFoundError):
                continue
            except (BaseError, OSError) as error:
                raise self._unavailable(error) from error
        raise NotFound(f"The blob {key} isn't in {self.place}.")

    def has(self, key: str) -> bool:
        """Whether there is a blob of this key."""
        return is_key(key) and self._is_at(self._path(key))

    def is_kept(self, key: str) -> bool:
        """Whether `get` would find it: in its place, or set aside."""
        # Between the first two looks it may have been put back.
        return is_key(key) and (self.has(key) or self._is_at(f"{ASIDE}/{self._path(key)}") or self.has(key))

    def delete(self, key: str) -> None:
        """Removes a blob at once; one that isn't there is no error."""
        with suppress(NotFound):
            self._delete(self._path(key))

    # -- files that nobody names

    def mark(self) -> datetime:
        """Leaves the owner's mark; returns the time, by the store's clock.

        Without an owner the mark is nobody's, and is left to tell the time alone.
        """
        now = self._written(self._owner() if self._owner is not None else "none")
        self._is_marked = True
        return now

    def now(self) -> datetime:
        """The time, by the store's clock; unlike `mark` it claims nothing, as in a place that is the wrong one."""
        return self._written("none")

    def others(self) -> list[str]:
        """The ids of other workspaces that keep their files here."""
        mine = self._owner() if self._owner is not None else "none"
        names = [each["path"].rpartition("/")[2] for page in self._list(MARKS) for each in page]
        return sorted({*names} - {mine, "none"})

    def files(self) -> Iterator[list[StoredFile]]:
        """All files but those set aside, 1 to `PAGE` at once.

        In the order of their keys, but for an object store that lists in none, as S3's directory buckets do.
        """
        yield from self._files("")

    def files_aside(self) -> Iterator[list[StoredFile]]:
        """The files that are set aside, as `files`; `modified` is when."""
        yield from self._files(f"{ASIDE}/")

    def set_aside(self, key: str) -> None:
        """Takes a file out of use, for `forget` or `put_back`; one that isn't there is no error."""
        path = self._path(key)
        if self._folder is not None:  # an object store writes the time of the move by itself
            with suppress(OSError):
                os.utime(self._folder / path)
        self._move(path, f"{ASIDE}/{path}")

    def put_back(self, key: str) -> None:
        """Takes a file that was set aside into use again; one that isn't there is no error."""
        path = self._path(key)
        self._move(f"{ASIDE}/{path}", path)

    def forget(self, key: str) -> None:
        """Removes a file for good that was set aside; one that isn't there is no error."""
        self._delete(f"{ASIDE}/{self._path(key)}")

    def torn(self, before: datetime) -> Iterator[StoredFile]:
        """What is left of files whose writer was killed in the middle, in a folder; an object store keeps none.

        Args:
            before: of those that were written to since then somebody may still be at work.
        """
        if self._folder is None:
            return
        for path in self._folder.rglob("*#*"):
            if not re.fullmatch(r"[0-9a-f]{64}#\d+", path.name):
                continue
            with suppress(OSError):  # it is done, or gone
                found = path.stat()
                modified = datetime.fromtimestamp(found.st_mtime, before.tzinfo)
                if modified < before:
                    yield StoredFile(path.name, found.st_size, modified)

    def remove_torn(self, name: str) -> None:
        """Removes what `torn` named."""
        if self._folder is not None and re.fullmatch(r"[0-9a-f]{64}#\d+", name):
            with suppress(OSError):
                (self._folder / name[:2] / name[2:4] / name).unlink()

    def _written(self, name: str) -> datetime:
        path = f"{MARKS}/{name}"
        try:
            obstore.put(self._store, path, b"")
            return obstore.head(self._store, path)["last_modified"]
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error

    def _is_at(self, path: str) -> bool:
        try:
            obstore.head(self._store, path)
        except (NotFoundError, FileNotFoundError):
            return False
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error
        return True

    def _files(self, place: str) -> Iterator[list[StoredFile]]:
        if self._folder is not None:
            in_order = self._in_order(self._folder / place)
            while some := [*islice(in_order, PAGE)]:
                yield some
            return
        # What lies elsewhere is in the listing, too: one for each folder alone would be 256 requests at least.
        for page in self._list(place.rstrip("/") or None):
            found = [(each, each["path"].rpartition("/")[2]) for each in page]
            files = [
                StoredFile(name, each["size"], each["last_modified"])
                for each, name in found
                if is_key(name) and each["path"] == place + self._path(name)
            ]
            if files:
                yield files

    def _in_order(self, folder: Path) -> Iterator[StoredFile]:
        """A folder's files, which obstore lists in no order."""
        for first in self._entries(folder, 2):
            for second in self._entries(first, 2):
                for file in self._entries(second, 64):
                    if not file.name.startswith(first.name + second.name):
                        continue
                    try:
                        found = file.stat()
                    except FileNotFoundError:  # gone in between
                        continue
                    except OSError as error:
                        raise self._unavailable(error) from error
                    yield StoredFile(file.name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def _entries(self, folder: str | os.PathLike[str], digits: int) -> "list[os.DirEntry[str]]":
        """What has a name of so many hexadecimal digits, in order; nothing where there is no such folder."""
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if len(entry.name) == digits and _DIGITS.fullmatch(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._unavailable(error) from error
        return sorted(found, key=lambda entry: entry.name)

    def _list(self, prefix: str | None) -> "Iterator[Sequence[ObjectMeta]]":
        pages = iter(obstore.list(self._store, prefix=prefix, chunk_size=PAGE))
        while True:
            try:
                page = next(pages, None)
            except (BaseError, OSError) as error:
                raise self._unavailable(error) from error
            if page is None:
                return
            yield page

    def _move(self, path: str, to: str) -> None:
        try:
            obstore.rename(self._store, path, to)
        except (NotFoundError, FileNotFoundError):
            pass
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error

    def _delete(self, path: str) -> None:
        try:
            obstore.delete(self._store, path)
        except (NotFoundError, FileNotFoundError):
            pass
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error

    def _path(self, key: str) -> str:
        # Keys are read from documents that others write, so one is a key only if it looks like one.
        if not is_key(key):
            raise NotFound(f"{key[:100]!r} is no key of a blob, so there is none in {self.place}.")
        # Two levels, so that a million files don't lie in one folder.
        return f"{key[:2]}/{key[2:4]}/{key}"

    def _unavailable(self, error: Exception) -> StorageUnavailable:
        return StorageUnavailable(f"{self.place} can't be used ({_said(error)}). Check the place and its rights.")


def _said(error: Exception) -> str:
    """An error of obstore's in one line, without its inside."""
    return " ".join(str(error).partition("Debug source:")[0].split())[:300].rstrip(".")


def is_key(text: object) -> bool:
    """Whether it is a blob's key: 64 hexadecimal digits, in lower case.

    >>> is_key("../../etc/passwd")
    False
    """
    return isinstance(text, str) and len(text) == 64 and _DIGITS.fullmatch(text) is not None
