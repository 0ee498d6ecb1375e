"""Truthloop: a data engine for computer-vision teams.

Importing it starts nothing and connects to nothing; `truthloop.open()` gives a `Workspace`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from truthloop.workspace import Workspace

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(home: "str | Path | None" = None, *, create: bool = True) -> "Workspace":  # noqa: A001
    """Opens a workspace.

    Args:
        home: its folder; by default TRUTHLOOP_HOME, else `.truthloop` here or in the nearest parent folder that
            has one.
        create: whether it is made where there is none.

    Raises:
        WorkspaceNotFound: there is none, and `create` is false.
        SettingRefused, DatabaseUnavailable, DatabaseRefused, EmbeddedServerFailed, DiskFull: as their texts say.
    """
    from truthloop.settings import load_settings
    from truthloop.workspace import Workspace

    return Workspace.open(load_settings(home), create=create)
