"""Truthloop: a data engine for computer-vision teams.

Importing it starts nothing and connects to nothing; `truthloop.open()` gives a `Workspace`. `try_model` and
`outline` need none.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from truthloop.models.answer import PredictionAnswer
    from truthloop.predict.outlines import Outlines
    from truthloop.workspace import Workspace

__version__ = "0.1.0"
__all__ = ["__version__", "open", "outline", "try_model"]


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


def try_model(model: str, image: bytes) -> "PredictionAnswer":
    """What a model of the catalogue says of an image file; nothing is stored.

    See `truthloop.predict.try_model.try_model`.
    """
    from truthloop.predict.try_model import try_model as on_image
    from truthloop.settings import load_settings

    return on_image(load_settings(), model, image)


def outline(image: bytes, *, model: str = "deeplab_v3", tolerance: float | None = None) -> "Outlines":
    """The objects in an image file and their outlines; nothing is stored.

    See `truthloop.predict.outlines.outline`.
    """
    from truthloop.predict.outlines import outline as of_image
    from truthloop.settings import load_settings

    return of_image(load_settings(), image, model=model, tolerance=tolerance).outlines
