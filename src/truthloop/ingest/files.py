"""Which files a load reads, and where their documents go. Looks at names, never into a file."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from truthloop.errors import FileRefused
from truthloop.ingest.documents import COLLECTIONS

_ENDINGS = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class File:
    """A file to load, and where its documents go."""

    path: Path
    collection: str


def find_files(paths: Sequence[Path | str], into: str | None) -> list[File]:
    """The files behind paths, each once, metadata first.

    A file's collection is its name without its endings, perhaps with a number: `bbox.model.jsonl.gz`,
    `bbox.model-2.json`.

    Raises:
        FileRefused: a path isn't there or holds no data, or a name is that of no collection.
    """
    found: dict[Path, File] = {}
    for given in paths:
        path = Path(given)
        for each in _files_under(path):
            collection = into or _collection(each)
            if collection is None:
                raise FileRefused(
                    f"{each} is named after no collection ({', '.join(COLLECTIONS)}). "
                    "Rename it, or say where its documents go with --into."
                )
            found.setdefault(each.resolve(), File(each, collection))
    return sorted(found.values(), key=lambda file: file.collection != "metadata")


def load_command(path: Path, collection: str, *, replace: bool = False) -> str:
    """What is to be typed, in whatever folder, to load a file into a collection.

    >>> load_command(Path("/my data/notes.json"), "metadata")
    "truthloop load '/my data/notes.json' --into metadata"
    """
    told = [] if _collection(path) == collection else ["--into", collection]
    return shlex.join(["truthloop", "load", str(path), *told, *(["--replace"] if replace else [])])


def size_of(path: Path) -> int:
    """The file's size in bytes; 0 if it has gone since it was found: reading it will say so."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _files_under(path: Path) -> list[Path]:
    try:
        if path.is_dir():
            files = sorted(each for each in path.rglob("*") if _is_data_file(each) and each.is_file())
            if not files:
                raise FileRefused(
                    f"{path} holds no .json, .jsonl or .ndjson file (nor one that ends in .gz after that). "
                    "Name the files, or another folder."
                )
            return files
        if not path.exists():
            raise FileRefused(f"{path} isn't there. Check the path.")
        if not path.is_file():
            raise FileRefused(f"{path} is neither a file nor a folder. Name a regular file.")
    except OSError as error:
        raise FileRefused(f"{path} can't be read: {error.strerror}. Make it readable.") from None
    return [path]


def _is_data_file(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(_ENDINGS) and not path.name.startswith(".")


def _collection(path: Path) -> str | None:
    name = re.sub(r"[-_.]\d+$", "", _stem(path))
    return name if name in COLLECTIONS else None


def _stem(path: Path) -> str:
    """The file's name without its endings: `bbox.model` for `bbox.model.jsonl.gz`."""
    name = path.name
    for ending in (".gz", *_ENDINGS):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return name
