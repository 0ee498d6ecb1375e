"""Files by their content: a blob's key is the SHA-256 of its bytes, in a local folder or an object store."""

import hashlib
import re
from pathlib import Path
from typing import Self

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from truthloop.blob_address import blob_folder
from truthloop.errors import NotFound, SettingRefused, StorageUnavailable
from truthloop.settings import Settings


class Blobs:
    """The blob store of a workspace. Its methods may be called from several threads.

    Each raises `StorageUnavailable` where the store can't be reached, read or written.
    """

    def __init__(self, store: ObjectStore, *, place: str) -> None:
        self._store = store
        self._place = place

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The store that TRUTHLOOP_BLOBS names, by default the folder `blobs` of the workspace.

        Raises:
            SettingRefused: the address can't be understood.
        """
        if settings.blobs is None:
            return cls._in_folder(settings.home / "blobs")
        try:
            folder = blob_folder(settings.blobs)
        except ValueError as error:
            raise SettingRefused(f"TRUTHLOOP_BLOBS is {settings.blobs!r}: {error}.") from None
        if folder is not None:
            return cls._in_folder(folder)
        try:
            return cls(from_url(settings.blobs), place="TRUTHLOOP_BLOBS")
        except (BaseError, ValueError) as error:
            raise SettingRefused(
                f"TRUTHLOOP_BLOBS is {settings.blobs!r}, which can't be used: {_said(error)}."
            ) from None

    @classmethod
    def _in_folder(cls, folder: Path) -> Self:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageUnavailable(f"{folder} can't be made: {error.strerror}. Make it writable.") from error
        # obstore writes to a file of another name and links it, so a reader never sees half a blob.
        return cls(LocalStore(prefix=folder), place=str(folder))

    def put(self, data: bytes) -> str:
        """Stores the bytes, unless they are there; returns their key, 64 hexadecimal digits."""
        key = hashlib.sha256(data).hexdigest()
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
        try:
            return obstore.get(self._store, self._path(key)).bytes().to_bytes()
        except (NotFoundError, FileNotFoundError) as error:
            raise NotFound(f"The blob {key} isn't in {self._place}.") from error
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error

    def has(self, key: str) -> bool:
        """Whether there is a blob of this key."""
        try:
            obstore.head(self._store, self._path(key))
        except (NotFound, NotFoundError, FileNotFoundError):
            return False
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error
        return True

    def delete(self, key: str) -> None:
        """Removes a blob; one that isn't there is no error."""
        try:
            obstore.delete(self._store, self._path(key))
        except (NotFound, NotFoundError, FileNotFoundError):
            pass
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from error

    def _path(self, key: str) -> str:
        # Keys are read from documents that others write, so one is a key only if it looks like one.
        if not is_key(key):
            raise NotFound(f"{key[:100]!r} is no key of a blob, so there is none in {self._place}.")
        # Two levels, so that a million files don't lie in one folder.
        return f"{key[:2]}/{key[2:4]}/{key}"

    def _unavailable(self, error: Exception) -> StorageUnavailable:
        return StorageUnavailable(f"{self._place} can't be used ({_said(error)}). Check the place and its rights.")


def _said(error: Exception) -> str:
    """An error of obstore's in one line, without its inside."""
    return " ".join(str(error).partition("Debug source:")[0].split())[:300].rstrip(".")


def is_key(text: object) -> bool:
    """Whether it is a blob's key: 64 hexadecimal digits, in lower case.

    >>> is_key("../../etc/passwd")
    False
    """
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) is not None
