"""The models there are: those that ship with Truthloop, and the user's own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from truthloop.errors import FileRefused, ModelRefused, NotFound
from truthloop.models.documents import CatalogueEntry
from truthloop.models.folders import folders_of_people
from truthloop.settings import Settings

# What follows the name of a model in the name of its entry's file; other JSON files lie about in such folders.
SUFFIX = ".model.json"
MAX_ENTRY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Unusable:
    """The file of an entry that can't be used; the other models can."""

    name: str  # as the file's name has it
    path: Path
    reason: ModelRefused | FileRefused


class Catalogue:
    """The entries of all models, by name."""

    def __init__(
        self,
        entries: Sequence[CatalogueEntry],
        own: frozenset[str],
        unusable: Sequence[Unusable] = (),
    ) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._own = own
        self._unusable = tuple(unusable)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Reads the shipped entries, then those in TRUTHLOOP_MODELS, then those that the user has added.

        An entry that is invalid, has a name that another has or can't be read is left out, and is among the
        `unusable` ones: somebody may be writing it just now, and the other models work.

        Raises:
            FileRefused: a folder can't be read.
        """
        entries = {entry.name: entry for entry in shipped_entries()}
        own: dict[str, Path] = {}
        unusable = []
        for folder in folders_of_people(settings):
            for path in _entry_files(folder):
                try:
                    entry = read_entry(path)
                    if path.name != entry.name + SUFFIX:
                        raise ModelRefused(
                            f"{path} has the entry {entry.name}. Call the file {entry.name}{SUFFIX}."
                        )
                    if entries.get(entry.name, entry) != entry:
                        where = own.get(entry.name, "Truthloop's own catalogue")
                        raise ModelRefused(f"{path} has the name of an entry in {where}. Give it another name.")
                except (ModelRefused, FileRefused) as error:
                    unusable.append(Unusable(path.name.removesuffix(SUFFIX), path, error))
                    continue
                entries[entry.name] = entry
                own.setdefault(entry.name, path)
        return cls(list(entries.values()), frozenset(own), unusable)

    def entries(self) -> list[CatalogueEntry]:
        """All entries: the shipped ones first, then the user's own by name."""
        return list(self._entries.values())

    def entry(self, name: str) -> CatalogueEntry:
        """The entry of that name.

        Raises:
            NotFound: there is none; the text names those there are.
            ModelRefused, FileRefused: its file is there and can't be used.
        """
        if name in self._entries:
            return self._entries[name]
        for bad in self._unusable:
            if bad.name == name:
                raise type(bad.reason)(str(bad.reason), errors=bad.reason.errors)
        text = f"There is no model {name[:64]!r}. These there are: {', '.join(self._entries)}."
        if self._unusable:
            text += " Others can't be used; `truthloop models list` says why."
        raise NotFound(text)

    def unusable(self) -> list[Unusable]:
        """The files of entries that can't be used, each with the reason."""
        return list(self._unusable)

    def is_own(self, name: str) -> bool:
        """Whether the user has added it, and it didn't ship with Truthloop."""
        return name in self._own


@cache
def shipped_entries() -> tuple[CatalogueEntry, ...]:
    """The entries that come with Truthloop."""
    text = resources.files("truthloop.models").joinpath("catalogue.json").read_text(encoding="utf-8")
    return tuple(CatalogueEntry.model_validate(entry) for entry in json.loads(text))


def read_entry(path: Path) -> CatalogueEntry:
    """The catalogue entry in a JSON file.

    Raises:
        FileRefused: it can't be read.
        ModelRefused: it is no valid entry; the text and `errors` name the fields.
    """
    data = read_named(path, limit=MAX_ENTRY_BYTES)
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ModelRefused(f"{path} isn't valid JSON ({error}). Correct it.") from None
    except RecursionError:
        raise ModelRefused(f"{path} has values in values too deeply. Correct it.") from None
    if not isinstance(document, dict):
        raise ModelRefused(f"{path} must hold one JSON object, a model's catalogue entry.")
    return parse_entry(document, where=str(path))


def parse_entry(document: dict[str, object], *, where: str = "The entry") -> CatalogueEntry:
    """The catalogue entry that a document describes.

    Raises:
        ModelRefused: a field is missing, unknown or has a value that isn't allowed; the text and `errors` name it.
    """
    try:
        return CatalogueEntry.model_validate(document)
    except ValidationError as error:
        errors = {}
        output = document.get("output")
        decoder = output.get("decoder") if isinstance(output, dict) else None
        for fault in error.errors():
            # Pydantic puts the decoder's name into the path, though it is no field.
            parts = [str(part) for part in fault["loc"] if part != decoder]
            reason = fault["msg"].removeprefix("Value error, ")
            errors[".".join(parts)] = reason[0].lower() + reason[1:]
        told = "; ".join(f"{field}: {reason}" if field else reason for field, reason in errors.items())
        raise ModelRefused(f"{where} isn't a valid catalogue entry: {told}.", errors=errors) from None


def _entry_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FileRefused(f"{folder} can't be read: {error.strerror}. Make it readable.") from error


def read_named(path: Path, *, limit: int | None = None) -> bytes:
    """The content of a file that somebody has named.

    Raises:
        FileRefused: it can't be read, or has more bytes than `limit`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(-1 if limit is None else limit + 1)
    except OSError as error:
        raise FileRefused(f"{path} can't be read: {error.strerror}. Name a file that can be.") from error
    if limit is not None and len(data) > limit:
        raise FileRefused(f"{path} has more than {limit:,} bytes, too many for a catalogue entry.")
    return data
