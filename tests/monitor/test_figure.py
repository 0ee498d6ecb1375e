import io
from datetime import UTC, datetime

import pytest
from PIL import Image

from truthloop.monitor.figure import draw
from truthloop.monitor.figures import Figures
from truthloop.monitor.states import ImageState


@pytest.mark.parametrize("versions", [0, 1, 12])
def test_the_picture_is_a_png_of_the_promised_width_whatever_there_is_to_draw(versions: int):
    figures = Figures()
    for number in range(versions):
        figures.add(ImageState(known=True, predicted=(f"{number}.0.0",), incorrect=(f"{number}.0.0",)))

    picture = draw(figures.status(as_of=datetime(2026, 1, 1, tzinfo=UTC), synthetic=True))

    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "PNG"
        assert image.width == 1440


def test_a_greater_share_has_a_longer_bar():
    def blue(processed: int) -> int:
        figures = Figures()
        figures.add(ImageState(known=True, predicted=("1.0.0",)), processed)
        figures.add(ImageState(known=True), 10 - processed)
        status = figures.status(as_of=datetime(2026, 1, 1, tzinfo=UTC), synthetic=False)
        with Image.open(io.BytesIO(draw(status))) as image:
            counts = image.convert("RGB").getcolors(1 << 20)
        return {colour: count for count, colour in counts or []}.get((0x3B, 0x6F, 0xD4), 0)

    assert 0 == blue(0) < blue(3) < blue(9)
