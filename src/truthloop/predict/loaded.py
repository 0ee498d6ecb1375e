"""The models that a worker has loaded."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from truthloop.errors import NotFound

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

    def get(self, name: str, version: str) -> "Model":
        """The model of that name and version.

        Raises:
            NotFound: the catalogue has no such model, or another version of it.
            ModelRefused: its file or its entry can't be used.
            ModelUnavailable: its file isn't there and can't be fetched.
        """
        with self._lock:
            if (name, version) in self._models:
                self._models.move_to_end((name, version))
                return self._models[name, version]
            entry = self._entry(name)
            if entry.version != version:
                raise NotFound(
                    f"The catalogue here has {name} {entry.version}, not {version}. Make a new job for it."
                )
            model = self._models[name, version] = self._load(entry)
            while len(self._models) > MAX_LOADED:
                self._models.popitem(last=False)
            return model
