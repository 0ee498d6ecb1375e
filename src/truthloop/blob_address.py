"""What TRUTHLOOP_BLOBS may be: a folder, or a bucket of an object store. Pure."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

# As obstore names them: Amazon S3 and what speaks like it, Google's, and Microsoft's.
SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
# Theirs is CONTAINER@ACCOUNT.dfs.core.windows.net, so what stands before the @ is no user.
_WITH_CONTAINER = ("abfs", "abfss")
ALLOWED = (
    "give a folder's whole path, file:///FOLDER, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER"
)


def blob_folder(address: str) -> Path | None:
    """The folder that an address means; None where it is one of an object store.

    >>> blob_folder("file:///data/my%20blobs"), blob_folder("s3://bucket/blobs")
    (PosixPath('/data/my blobs'), None)

    Raises:
        ValueError: it is neither, with what is allowed.
    """
    if "://" not in address:
        folder = Path(address)
    else:
        parts = urlsplit(address)
        if parts.query or parts.fragment:
            raise ValueError(f"must have no ? and no #; {ALLOWED}")
        if parts.scheme in SCHEMES:
            if parts.password is not None or (parts.username is not None and parts.scheme not in _WITH_CONTAINER):
                raise ValueError(
                    "must hold no key and no password: leave them to the environment, as AWS_SECRET_ACCESS_KEY "
                    "and the like"
                )
            if not parts.hostname:
                raise ValueError(f"names no bucket; {ALLOWED}")
            return None
        if parts.scheme != "file":
            raise ValueError(f"is of no kind that is known; {ALLOWED}")
        if parts.netloc not in ("", "localhost"):
            raise ValueError(f"must have three slashes, file:///FOLDER; {ALLOWED}")
        folder = Path(unquote(parts.path))
    if not folder.is_absolute() or "\x00" in str(folder):
        raise ValueError(f"is no whole path; {ALLOWED}")
    return folder
