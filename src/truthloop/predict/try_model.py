"""Running a model of the catalogue on one image, here and now; nothing is stored, and no workspace is needed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truthloop.models.answer import PredictionAnswer
    from truthloop.settings import Settings


def try_model(settings: "Settings", model: str, data: bytes, *, fetch: bool = True) -> "PredictionAnswer":
    """What a model says of an image, as `truthloop models try` tells it.

    Args:
        settings: of this process.
        model: its name in the catalogue.
        data: an image file.
        fetch: whether the model's files may be fetched.

    Returns:
        `labels`, or `boxes`, or `classes` with their `objects`, as the model's task is.

    Raises:
        ImageRefused: the file is no image that is taken.
        NotFound: there is no such model.
        ModelUnavailable, ModelRefused, FileRefused: as their texts say.
    """
    from truthloop.ingest.image_file import check, decode
    from truthloop.models.answer import answer_of
    from truthloop.models.catalogue import Catalogue
    from truthloop.models.load import load_model

    entry = Catalogue.open(settings).entry(model)
    checked = check(data, max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    pixels = decode(checked.upright, max_pixels=settings.max_image_pixels)
    prediction = load_model(settings, entry, fetch=fetch).predict(pixels)
    return answer_of(prediction, width=checked.width, height=checked.height)
