"""The catalogue as it is answered: each model, and whether its files are here."""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from pydantic import Field

from truthloop.answers import Answer
from truthloop.models.catalogue import Catalogue
from truthloop.models.documents import CatalogueEntry, RuntimeName, Task
from truthloop.models.files import file_states
from truthloop.models.folders import folder_for, missing_folder
from truthloop.settings import Settings

State: TypeAlias = Literal["built_in", "there", "missing", "wrong"]


class ModelItem(Answer):
    """A model of the catalogue."""

    name: str = Field(description="What commands and requests call it.", examples=["mobilenet_v2"])
    version: str = Field(examples=["1.0.0"])
    task: Task
    runtime: RuntimeName
    licence: str = Field(description="An SPDX name.", examples=["Apache-2.0"])
    source: str = Field(description="The project that it comes from.")
    own: bool = Field(description="Whether somebody added it here, and it didn't ship with Truthloop.")
    state: State = Field(
        description="`built_in` needs no file; `missing` is fetched when it is pulled or tried; of a `wrong` "
        "file the SHA-256 isn't the catalogue's."
    )


class UnusableItem(Answer):
    """A file with a catalogue entry that can't be used."""

    name: str = Field(description="The model's name, as the file's name has it.", examples=["eyes"])
    path: str = Field(description="Where the file is.", examples=["/home/ada/models/eyes.model.json"])
    reason: str = Field(description="What is wrong with it.")


class ModelList(Answer):
    """All models."""

    items: list[ModelItem]
    unusable: list[UnusableItem] = Field(
        default=[], description="Entries of this installation that can't be used; the other models can."
    )
    warning: str | None = Field(
        default=None, description="What is wrong with the folder of TRUTHLOOP_MODELS; null where nothing is."
    )
    next: str | None = Field(default=None, description="Always null: the catalogue is one page.")


class FileItem(Answer):
    """A file of a model."""

    name: str
    state: Literal["there", "missing", "wrong"]
    path: str | None = Field(description="Where it is.")
    sha256: str
    bytes: int | None
    url: str | None
    wheel: str | None
    member: str | None


class ModelFacts(ModelItem):
    """All that the catalogue says of a model."""

    files: list[FileItem]
    folder: str = Field(description="Where a file that can't be fetched may be put.")
    labels: list[str] = Field(description="The classes, where the entry itself names them.")
    input: dict[str, Any]
    output: dict[str, Any]


def list_models(settings: Settings) -> ModelList:
    """All models of the catalogue, the shipped ones first; nothing is loaded or fetched."""
    catalogue = Catalogue.open(settings)
    return ModelList(
        items=[ModelItem(**_item(settings, catalogue, entry)) for entry in catalogue.entries()],
        unusable=[
            UnusableItem(name=bad.name, path=str(bad.path), reason=str(bad.reason)) for bad in catalogue.unusable()
        ],
        warning=missing_folder(settings),
    )


def show_model(settings: Settings, name: str) -> ModelFacts:
    """All that the catalogue says of a model, and where its files are.

    Raises:
        NotFound: there is none of that name.
    """
    catalogue = Catalogue.open(settings)
    entry = catalogue.entry(name)
    files = [
        FileItem(
            **state.file.model_dump(), state=state.state, path=None if state.path is None else str(state.path)
        )
        for state in file_states(settings, entry)
    ]
    return ModelFacts(
        **_item(settings, catalogue, entry),
        files=files,
        folder=str(folder_for(settings)),
        labels=list(entry.labels),
        input=entry.input.model_dump(mode="json", exclude_none=True),
        output=entry.output.model_dump(mode="json"),
    )


def _item(settings: Settings, catalogue: Catalogue, entry: CatalogueEntry) -> dict[str, Any]:
    said = entry.model_dump(include={"name", "version", "task", "runtime", "licence", "source"})
    states = [state.state for state in file_states(settings, entry)]
    return {**said, "own": catalogue.is_own(entry.name), "state": _worst(states)}


def _worst(states: Iterable[Literal["there", "missing", "wrong"]]) -> State:
    found = set(states)
    if not found:
        return "built_in"
    return "wrong" if "wrong" in found else "missing" if "missing" in found else "there"
