"""Adding a model: its entry and its files, tried before they are taken."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from truthloop.errors import Conflict, ModelRefused
from truthloop.models.catalogue import SUFFIX, Catalogue, read_named
from truthloop.models.documents import CatalogueEntry
from truthloop.models.files import is_file_there, place, read_file
from truthloop.models.folders import users_folder
from truthloop.models.load import assemble
from truthloop.settings import Settings


def add_model(settings: Settings, entry: CatalogueEntry, files: Sequence[Path] = ()) -> Path:
    """Puts an entry and its files into the user's folder.

    Args:
        settings: of this process.
        entry: what describes the model.
        files: its files, in any order, each known by its SHA-256. One that is left out must be found or
            fetched when the model is used.

    Returns:
        The entry's file in the user's folder.

    Raises:
        Conflict: a model has that name already, or a file has the name of another model's.
        ModelRefused: a file isn't one of the entry's, one is missing and the entry says no source, or the
            model doesn't run as the entry says; the text names the field.
        FileRefused: a file can't be read.
    """
    entries = {known.name: known for known in Catalogue.open(settings).entries()}
    known = entries.get(entry.name)
    if known is not None and known != entry:
        raise Conflict(f"There is a model {entry.name} already. Give this one another name.")
    for other in entries.values():
        for file in other.files:
            if any(file.name == mine.name and file.sha256 != mine.sha256 for mine in entry.files):
                raise Conflict(f"{other.name} has another file {file.name}. Give this one another name.")
    contents = _sorted_out(entry, files)
    for file in entry.files:
        has_source = file.url is not None or file.wheel is not None
        if file.name not in contents and not has_source and not is_file_there(settings, file):
            raise ModelRefused(
                f"The entry's file {file.name} is missing. Name it with --file, or add a url to the entry."
            )
    _try(settings, entry, contents)
    folder = users_folder()
    for name, data in contents.items():
        place(folder / name, data)
    path = folder / (entry.name + SUFFIX)
    # Last, so that an entry that is there has its files.
    place(path, (entry.model_dump_json(indent=2, exclude_defaults=True) + "\n").encode())
    return path


def _sorted_out(entry: CatalogueEntry, files: Sequence[Path]) -> dict[str, bytes]:
    """The content of each file under the name that the entry gives it."""
    names = {file.sha256: file.name for file in entry.files}
    contents = {}
    for path in files:
        data = read_named(path)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in names:
            wanted = " or ".join(f"{file.sha256} ({file.name})" for file in entry.files) or "no file at all"
            raise ModelRefused(
                f"{path} has the SHA-256 {sha256}, but the entry {entry.name} names {wanted}. "
                "Name the right file, or correct the entry."
            )
        contents[names[sha256]] = data
    return contents


def _try(settings: Settings, entry: CatalogueEntry, contents: Mapping[str, bytes]) -> None:
    """Runs a model once, on a batch of nothing, where all its files are here: a wrong entry shows at once."""
    whole = dict(contents)
    for file in entry.files:
        if file.name not in whole:
            if not is_file_there(settings, file):
                return
            whole[file.name] = read_file(settings, entry, file, fetch=False)
    model = assemble(entry, whole)
    model.run([model.prepare(np.zeros((48, 64, 3), np.uint8))] * model.batch_size)
