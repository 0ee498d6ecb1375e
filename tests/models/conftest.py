"""Settings with folders of models of their own, and the real models and images."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from truthloop.ingest.image_file import decode
from truthloop.models.documents import Pixels
from truthloop.settings import Settings, load_settings


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a user who has no models yet: empty folders, and TRUTHLOOP_MODELS not set."""
    for name in list(os.environ):
        if name.startswith("TRUTHLOOP_") and not name.startswith("TRUTHLOOP_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TRUTHLOOP_HOME", str(tmp_path / ".truthloop"))
    return load_settings()


@pytest.fixture
def with_models(folders: Settings, shared_data: Path) -> Settings:
    """The same, with the real models in TRUTHLOOP_MODELS."""
    return folders.model_copy(update={"models": shared_data / "models"})


@pytest.fixture
def photograph(shared_data: Path) -> Callable[[str], Pixels]:
    """The pixels of a real image, by its name."""

    def read(name: str) -> Pixels:
        return decode((shared_data / "data" / "images" / name).read_bytes(), max_pixels=10_000_000)

    return read
