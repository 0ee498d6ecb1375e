"""The models that a worker has loaded."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from truthloop.errors import NotFound
from truthloop.predict.record import provenance

if TYPE_CHECKING:
    from truthloop.models.documents import CatalogueEntry
    from truthloop.models.load import Model

# A model takes up to some hundred megabytes; the one used longest ago goes.
MAX_LOADED = 8


class LoadedModels:
    """Loads each model once and keeps it. May be called from several threads.

    Args:
        entry: finds a catalogue entry by name.
        load: loads the model of an entry.
    """

    def __init__(
        self, entry: "Callable[[str], CatalogueEntry]", load: "Callable[[CatalogueEntry], Model]"
    ) -> None:
        self._entry, self._load = entry, load
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[str, str], Model] = OrderedDict()

    def has(self, name: str, version: str) -> bool:
        """Whether it's loaded; doesn't wait for another that is being loaded."""
        return (name, version) in self._models

    def get(self, name: str, version: str, wanted: Mapping[str, Any] | None = None) -> "Model":
        """The model of that name and version.

        Args:
            name: as in the catalogue.
            version: as in the catalogue.
            wanted: which file of that version it must be, as `provenance` gives it; None for the one there is.

        Raises:
            NotFound: the catalogue has no such model, another version of it, or another file.
            ModelRefused: its file or its entry can't be used.
            ModelUnavailable: its file isn't there and can't be fetched.
        """
        with self._lock:
            model = self._models.get((name, version))
            if model is not None and wanted in (None, provenance(model.entry)):
                self._models.move_to_end((name, version))
                return model
            entry = self._entry(name)
            if entry.version != version:
                raise NotFound(
                    f"The catalogue here has {name} {entry.version}, not {version}. Make a new job or batch."
                )
            if wanted not in (None, provenance(entry)):
                raise NotFound(
                    f"The catalogue here has another file under the same version, {name} {version}. Make a new "
                    "job or batch."
                )
            model = self._models[name, version] = self._load(entry)
            self._models.move_to_end((name, version))
            while len(self._models) > MAX_LOADED:
                self._models.popitem(last=False)
            return model
