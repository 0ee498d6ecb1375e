"""The folders in which models' entries and files are."""

from pathlib import Path

import platformdirs

from truthloop.settings import Settings

APP = "truthloop"


def users_folder() -> Path:
    """Where the user's own entries and their files are."""
    return platformdirs.user_data_path(APP) / "models"


def cache_folder() -> Path:
    """Where fetched files are, for all of the user's processes."""
    return platformdirs.user_cache_path(APP) / "models"


def folders_of_people(settings: Settings) -> list[Path]:
    """Where people put entries and files, in the order of looking; fetched files are in the cache."""
    return [folder for folder in (settings.models, users_folder()) if folder is not None]


def folder_for(settings: Settings) -> Path:
    """The folder that errors name as the place for a file: TRUTHLOOP_MODELS where it is set, else the cache."""
    return settings.models or cache_folder()


def missing_folder(settings: Settings) -> str | None:
    """What is to be said where TRUTHLOOP_MODELS names a folder that isn't there; else None."""
    if settings.models is None or settings.models.is_dir():
        return None
    return (
        f"TRUTHLOOP_MODELS is {settings.models}, which is no folder. Make it and put the models' files there, or "
        "unset it."
    )
