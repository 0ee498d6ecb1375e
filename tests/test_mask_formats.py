"""Objects in COCO's formats and as SVG, read back by others' readers."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from truthloop.contours import ObjectOutline, objects_of
from truthloop.mask_formats import (
    COLOURS,
    coco_of,
    coco_polygons,
    colours_of,
    compressed_counts,
    counts_of,
    rle_of,
    svg_of,
)
from truthloop.polygons import cells_of

# pycocotools' own array isn't up to NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LABELS = ("cat", "dog", "cow")
SVG = "{http://www.w3.org/2000/svg}"
RING = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 2]], np.uint8)
class_maps = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 3))
)


def found_in(classes: np.ndarray, labels=LABELS, size: int = 1) -> list[ObjectOutline]:
    """Exact outlines; a cell has `size` pixels on a side."""
    rows, columns = classes.shape
    scores = np.ones(classes.shape, np.float32)
    return objects_of(classes, scores, labels, width=size * columns, height=size * rows, tolerance=0)


def cells(found: ObjectOutline, rows: int, columns: int) -> np.ndarray:
    outlines = [ring for outline in found.outlines for ring in (outline.outer, *outline.holes)]
    return cells_of([np.array(ring.pixels) for ring in outlines], rows, columns)


# -- RLE -----------------------------------------------------------------------------------------------------


@given(class_maps)
def test_compressed_rle_is_byte_for_byte_that_of_pycocotools(classes):
    rows, columns = classes.shape
    for found in found_in(classes):
        theirs = coco_mask.encode(np.asfortranarray(cells(found, rows, columns).astype(np.uint8)))
        ours = rle_of(found, width=columns, height=rows)
        assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}


@given(class_maps)
def test_uncompressed_rle_is_read_by_pycocotools_as_the_same_mask(classes):
    rows, columns = classes.shape
    for found in found_in(classes):
        ours = rle_of(found, width=columns, height=rows, compressed=False)
        mask = coco_mask.decode(coco_mask.frPyObjects(ours, rows, columns))
        assert np.array_equal(mask, cells(found, rows, columns))


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=8))
def test_any_run_lengths_come_back_from_the_compressed_text(counts):
    assert decompressed(compressed_counts(counts)) == counts


def decompressed(text: str) -> list[int]:
    """As `rleFrString` in the COCO API's maskApi.c."""
    counts: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        more = True
        while more:
            bits = ord(text[at]) - 48
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            at += 1
            shift += 5
            if not more and bits & 0x10:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def test_runs_go_down_the_columns_and_begin_outside():
    ring, _ = found_in(RING)

    assert counts_of(ring, width=4, height=3) == [0, 4, 1, 4, 3]


def test_a_mask_has_the_images_size_and_not_the_models():
    ring, _ = found_in(RING, size=10)
    mask = coco_mask.decode(rle_of(ring, width=40, height=30))

    assert np.array_equal(mask, np.kron(RING == 1, np.ones((10, 10), np.uint8)))


# -- COCO ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rle", [True, False])
def test_pycocotools_reads_the_file_and_its_masks(rle, tmp_path: Path, capsys):
    document = coco_of(
        found_in(RING, size=10), LABELS, file_name="a.jpg", width=40, height=30, rle=rle, description="test"
    )
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    coco = COCO(str(path))
    ring, dot = (coco.loadAnns(number)[0] for number in (1, 2))

    assert [coco.loadCats(each["category_id"])[0]["name"] for each in (ring, dot)] == ["cat", "dog"]
    assert ring["bbox"] == [0, 0, 30, 30]
    # Polygons know no holes.
    assert (ring["area"], coco.annToMask(ring).sum()) == ((800, 800) if rle else (900, 900))
    assert coco.annToMask(dot)[20:, 30:].all()


def test_every_class_of_the_model_is_a_category_so_that_ids_are_the_same_in_all_files():
    document = coco_of([], LABELS, file_name="a.jpg", width=4, height=3, rle=False, description="")

    assert document["categories"] == [{"id": n, "name": name} for n, name in enumerate(LABELS, start=1)]


def test_an_object_of_two_parts_has_two_polygons():
    (found,) = found_in(np.eye(2, dtype=np.uint8))

    assert sorted(len(polygon) for polygon in coco_polygons(found)) == [8, 8]


# -- SVG -----------------------------------------------------------------------------------------------------


def test_a_drawing_has_the_images_size_and_leaves_holes_open():
    drawing = ET.fromstring(svg_of(found_in(RING, size=10), width=40, height=30))
    ring, dot = drawing.findall(f"{SVG}path")

    assert drawing.get("viewBox") == "0 0 40 30"
    assert ring.get("fill-rule") == "evenodd"
    assert [path.get("d").count("M") for path in (ring, dot)] == [2, 1]
    assert [text.text for text in drawing.findall(f"{SVG}text")] == ["cat 100%", "dog 100%"]


def test_a_label_can_bring_neither_tags_nor_characters_that_xml_forbids():
    hostile = '</text><script>alert("1" & 2)</script>\x00\x1b'
    text = svg_of(found_in(np.ones((1, 1), np.uint8), (hostile,)), width=1, height=1)
    drawing = ET.fromstring(text)

    assert {element.tag for element in drawing.iter()} == {
        f"{SVG}{tag}" for tag in ("svg", "path", "title", "text")
    }
    assert drawing.find(f"{SVG}text").text == '</text><script>alert("1" & 2)</script> 100%'


def test_no_two_classes_of_a_picture_have_one_colour():
    labels = [f"class {number}" for number in range(len(COLOURS))]

    assert len(set(colours_of(labels).values())) == len(COLOURS)
