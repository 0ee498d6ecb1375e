"""The pictures: of the right size whatever there is to draw, and with what they promise."""

import io
from random import Random
from typing import Any

import pytest
from PIL import Image, ImageChops

from truthloop.cli.failures_report import _number
from truthloop.failures.against import against
from truthloop.failures.documents import FailureSummary, ImageFailures
from truthloop.failures.failures import answer
from truthloop.failures.figure import _short
from truthloop.failures.figure import draw as draw_summary
from truthloop.failures.plot import MAX_TITLE, _signed, _without_middle, draw
from truthloop.failures.read import ImageDocuments
from truthloop.failures.selection import Selection
from truthloop.failures.summary import Tally

FACE = {"left": 0.2, "top": 0.2, "right": 0.4, "bottom": 0.4}
FAR = {"left": 0.8, "top": 0.8, "right": 0.9, "bottom": 0.9}
SWAPPED = {"left": 0.4, "top": 0.2, "right": 0.2, "bottom": 0.4}
ORANGE, BLUE, LILAC = (0xC2, 0x50, 0x1F), (0x1D, 0x4F, 0xA8), (0xE0, 0xD7, 0xF3)


def crowd(number: int) -> list[dict[str, float]]:
    rng = Random(number)
    corners = [(rng.uniform(-0.1, 0.9), rng.uniform(-0.1, 0.9)) for _ in range(number)]
    return [{"left": x, "top": y, "right": x + 0.1, "bottom": y + 0.1} for x, y in corners]


def documents(predicted: dict[str, list[Any]], annotated: list[Any], image_id: str = "a") -> ImageDocuments:
    return ImageDocuments(
        image_id=image_id,
        predictions=[{"model_version": version, "bboxes": bboxes} for version, bboxes in predicted.items()],
        annotations=[{"bbox": bbox, "task_version": "1.0.0", "timestamp": n} for n, bbox in enumerate(annotated)],
    )


def failures(*given: Any, **more: Any) -> ImageFailures:
    [image] = against([documents(*given, **more)])
    return answer(image, Selection())


def opened(picture: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG"
    return image.convert("RGB")


def colours(picture: bytes) -> dict[Any, int]:
    return {colour: count for count, colour in opened(picture).getcolors(1 << 24) or []}


@pytest.mark.parametrize(
    "shown",
    [
        failures({}, []),
        failures({"1.0.0": [FACE]}, []),
        failures({"1.0.0": []}, [None]),
        failures({"1.0.0": [FACE]}, [SWAPPED]),
        failures({"1.0.0": [], "2.0.0": crowd(40)}, []),
        failures({"1.0.0\x1b": [FACE]}, [FACE], image_id="tab\there \x07 木"),
        failures({"1.0.0": [FACE]}, [FAR]),
        failures({f"{n}.0.0-a-very-long-version-name": [FACE, FACE] for n in range(7)}, [FACE]),
        failures({"1.0.0": crowd(40)}, crowd(30), image_id="$x$/" + "é" * 200),
        failures({"1.0.0": [{"left": -900, "top": 10, "right": 900, "bottom": 1e30}]}, [FACE]),
    ],
    ids=[
        "nothing",
        "alone",
        "empty",
        "refused",
        "unjudged",
        "control",
        "pair",
        "versions",
        "crowd",
        "far outside",
    ],
)
def test_the_picture_of_an_image_has_the_promised_width_whatever_there_is_to_draw(shown: ImageFailures) -> None:
    assert opened(draw(shown)).width == 1690


def test_each_side_has_its_colour() -> None:
    predicted_only = colours(draw(failures({"1.0.0": [FACE]}, [None])))
    both = colours(draw(failures({"1.0.0": [FACE]}, [FACE])))

    assert predicted_only[ORANGE] > 1000
    assert both[BLUE] > predicted_only[BLUE] + 1000  # beside the sample of the line in the legend


def test_the_picture_of_made_up_data_says_that_they_are() -> None:
    shown = failures({"1.0.0": [FACE]}, [FACE])
    assert (255, 237, 213) in colours(draw(shown, synthetic=True))  # the ground of the label
    assert (255, 237, 213) not in colours(draw(shown))


def test_the_predictions_of_an_image_that_is_not_annotated_are_drawn() -> None:
    assert colours(draw(failures({"1.0.0": [FACE]}, [])))[ORANGE] > 1000
    assert BLUE not in colours(draw(failures({"1.0.0": [FACE]}, [])))


@pytest.mark.parametrize("value", [0.0, -0.00001, 0.0975, -0.26152, 0.44])
def test_a_delta_is_written_as_the_terminal_writes_it(value: float) -> None:
    assert _signed(value).replace("\N{MINUS SIGN}", "-") == _number(value, signed=True)


def test_a_kind_that_no_box_is_of_has_no_place_in_the_legend() -> None:
    drawn = {}
    for name, boxes in (("duplicate", [FACE, FACE]), ("none", [FACE, FAR])):
        tally = Tally()
        for image in against([documents({"1.0.0": boxes}, [FACE])]):
            tally.add(image)
        drawn[name] = colours(draw_summary(tally.summary(synthetic=False, min_iou=0.0)))

    assert LILAC in drawn["duplicate"]
    assert LILAC not in drawn["none"]


def test_a_version_is_written_as_it_is() -> None:
    assert (_short("2.0.0"), _short("a\tb")) == ("2.0.0", "a\\tb")


def summary(versions: int) -> FailureSummary:
    tally = Tally()
    for version in range(versions):
        for image in against([documents({f"{version}.0.0-rc.123456": crowd(20)}, crowd(25))]):
            tally.add(image)
    return tally.summary(synthetic=True, min_iou=0.1)


@pytest.mark.parametrize("versions", [0, 1, 2, 7])
def test_the_figure_of_a_summary_has_the_promised_width_whatever_there_is_to_draw(versions: int) -> None:
    assert opened(draw_summary(summary(versions))).width == 1440


def test_a_version_without_a_pair_can_be_drawn() -> None:
    tally = Tally()
    for image in against([documents({"1.0.0": []}, [None])]):
        tally.add(image)

    assert opened(draw_summary(tally.summary(synthetic=False, min_iou=0.0))).width == 1440


def test_of_a_sha256_in_the_title_nothing_is_left_out_and_it_has_room() -> None:
    image_id = "d" * 60 + "1234"
    short, long = (opened(draw(failures({}, [], image_id=each))) for each in ("d" * 60, image_id))

    assert _without_middle(image_id, MAX_TITLE) == image_id
    ends = [ImageChops.invert(each.crop((0, 0, each.width, 75)).convert("L")).getbbox() for each in (short, long)]
    assert all(end is not None and end[2] < short.width - 100 for end in ends)
    assert _without_middle("a" * 50 + "b" * 50, 11) == "aaaaa…bbbbb"
