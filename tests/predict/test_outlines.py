"""Outlines of real images by real models, at once and as a task."""

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from predict.given import on_a_thread, wait_until
from truthloop.contours import objects_of
from truthloop.errors import ImageRefused, InputRefused, NotFound
from truthloop.models.catalogue import Catalogue
from truthloop.models.load import load_model
from truthloop.polygons import cells_of
from truthloop.predict.documents import JobState
from truthloop.predict.outline_picture import draw
from truthloop.predict.outlines import outline
from truthloop.settings import Settings
from truthloop.workspace import Workspace

# What the models' own projects see, as in manifest.json.
SEEN = [
    ("deeplab_v3", "bird_segmentation.jpg", {"bird": 0.205}),
    ("deeplab_v3", "segmentation_input_rotation0.jpg", {"horse": 0.286, "person": 0.335}),
    ("deeplab_v3", "cat_720p.jpg", {"cat": 0.362}),
    ("deeplab_v3", "cow.jpg", {"cow": 0.362}),
    ("selfie_segmentation", "grace_hopper.jpg", {"foreground": 0.578}),
    ("selfie_segmentation", "face.jpg", {"foreground": 0.584}),
]


@pytest.fixture
def with_models(settings: Settings, shared_data: Path) -> Settings:
    return settings.model_copy(update={"models": shared_data / "models"})


def photograph(shared_data: Path, name: str) -> bytes:
    return (shared_data / "data" / "images" / name).read_bytes()


@pytest.mark.parametrize(("model", "name", "seen"), SEEN)
def test_fractions_and_the_areas_of_the_objects_are_what_the_models_project_sees(
    with_models, shared_data, model, name, seen
):
    found = outline(with_models, photograph(shared_data, name), model=model).outlines
    areas = {label: sum(each.area for each in found.objects if each.label == label) for label in seen}

    assert {part.label: part.fraction for part in found.classes} == pytest.approx(seen, abs=0.002)
    assert areas == pytest.approx(seen, abs=0.002)


def test_filled_outlines_agree_with_the_golden_class_map(with_models, shared_data):
    golden = cv2.imread(
        str(shared_data / "data" / "images" / "segmentation_golden_rotation0.png"), cv2.IMREAD_GRAYSCALE
    )
    image = photograph(shared_data, "segmentation_input_rotation0.jpg")
    # Exact: what is left is the model's. By default: what the simplification loses comes on top.
    for tolerance, agreement in ((0, 0.999), (None, 0.97)):
        found = outline(with_models, image, tolerance=tolerance)
        filled = np.zeros(golden.shape, np.uint8)
        for each in found.outlines.objects:
            rings = [ring for part in each.outlines for ring in (part.outer, *part.holes)]
            inside = cells_of([np.array(ring.pixels) for ring in rings], *golden.shape)
            filled[inside] = 10 * (found.labels.index(each.label) + 1)
        assert (filled == golden).mean() >= agreement


def test_outlines_of_a_photograph_keep_most_of_it_with_few_vertices(with_models, shared_data):
    image = photograph(shared_data, "cat_720p.jpg")
    exact, found = (outline(with_models, image, tolerance=tolerance).outlines for tolerance in (0, None))
    vertices = [len(each.objects[0].outlines[0].outer.pixels) for each in (exact, found)]

    assert found.tolerance == pytest.approx(1280 / 257, abs=0.01)
    assert found.objects[0].iou > 0.98
    assert vertices[1] < vertices[0] / 4


def test_an_image_that_exif_turns_is_outlined_upright(with_models, shared_data):
    upright = Image.open(io.BytesIO(photograph(shared_data, "cow.jpg")))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    found = outline(with_models, file.getvalue()).outlines

    assert (found.width, found.height) == upright.size
    assert found.objects[0].label == "cow"
    assert found.objects[0].area == pytest.approx(0.362, abs=0.005)


def test_a_model_that_knows_no_outlines_is_refused_naming_those_that_do(with_models, shared_data):
    with pytest.raises(InputRefused, match="deeplab_v3, selfie_segmentation"):
        outline(with_models, photograph(shared_data, "cow.jpg"), model="mobilenet_v2")


def test_what_is_no_image_is_refused(settings):
    with pytest.raises(ImageRefused):
        outline(settings, b"no image", model="deeplab_v3")


def test_a_tolerance_out_of_range_is_refused(settings):
    for tolerance in (-1, 1001, float("nan")):
        with pytest.raises(InputRefused, match="tolerance"):
            outline(settings, b"", tolerance=tolerance)


def test_the_picture_shows_the_whole_image_and_needs_no_object(with_models, shared_data):
    for name, ratio in (("cat_720p.jpg", 1280 / 720), ("table.jpg", 640 / 480)):
        found = outline(with_models, photograph(shared_data, name))
        picture = Image.open(io.BytesIO(draw(found.pixels, found.outlines)))
        assert max(picture.size) >= 1170
        assert picture.width / (picture.height - 0.62 * 130) == pytest.approx(ratio, rel=0.01)
    strip = np.zeros((1, 900, 3), np.uint8)
    nothing = found.outlines.model_copy(update={"objects": [], "classes": [], "width": 900, "height": 1})
    assert Image.open(io.BytesIO(draw(strip, nothing))).width == 1170


# -- tasks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def workspace(store, with_models, tmp_path) -> Iterator[Workspace]:
    own = with_models.model_copy(update={"blobs": f"file://{tmp_path}/blobs"})
    with Workspace.open(own, create=True) as workspace:
        yield workspace


@pytest.fixture
def worker(workspace) -> Iterator[None]:
    with on_a_thread(workspace.run_worker):
        yield


def test_a_task_finds_what_the_function_finds(workspace, worker, shared_data):
    image = photograph(shared_data, "segmentation_input_rotation0.jpg")
    job = workspace.outlines.submit(image, tolerance=2.0)
    wait_until(lambda: workspace.jobs.get(job.id).state.is_final)
    task = workspace.outlines.get(job.id)
    here = outline(workspace.settings, image, tolerance=2.0).outlines

    assert task.state is JobState.SUCCEEDED, task.error
    assert (task.width, task.height, task.tolerance) == (257, 257, 2.0)
    assert (task.classes, task.objects) == (here.classes, here.objects)


def test_a_task_without_a_chosen_tolerance_tells_the_one_that_was_used(workspace, worker, shared_data):
    image = photograph(shared_data, "segmentation_input_rotation0.jpg")
    job = workspace.outlines.submit(image)
    assert workspace.outlines.get(job.id).tolerance is None or workspace.jobs.get(job.id).state.is_final
    wait_until(lambda: workspace.jobs.get(job.id).state.is_final)

    assert workspace.outlines.get(job.id).tolerance == 1.0
    assert workspace.jobs.result(job.id).tolerance == outline(workspace.settings, image).outlines.tolerance == 1.0


def test_a_task_that_waits_has_no_objects_yet(workspace, shared_data):
    job = workspace.outlines.submit(photograph(shared_data, "cow.jpg"))
    task = workspace.outlines.get(job.id)

    assert (job.source, task.state, task.objects) == ("outline", JobState.QUEUED, None)


def test_a_job_that_was_made_elsewhere_is_no_task(workspace, shared_data):
    job = workspace.jobs.submit("deeplab_v3", image=photograph(shared_data, "cow.jpg"))

    for task_id in (job.id, "no-such-task"):
        with pytest.raises(NotFound, match="no outline task"):
            workspace.outlines.get(task_id)


def test_what_is_refused_leaves_neither_a_job_nor_a_file(workspace, shared_data, tmp_path):
    for image, more in (
        (b"no image", {}),
        (photograph(shared_data, "cow.jpg"), {"model": "mobilenet_v2"}),
        (photograph(shared_data, "cow.jpg"), {"tolerance": -1}),
        (photograph(shared_data, "cow.jpg"), {"model": "no_such_model"}),
    ):
        with pytest.raises(InputRefused):
            workspace.outlines.submit(image, **more)

    assert workspace.jobs.list().items == []
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_a_map_of_many_specks_is_still_answered(with_models):
    specks = (np.indices((257, 257)).sum(axis=0) % 2).astype(np.uint8)
    (found,) = objects_of(specks, np.ones(specks.shape, np.float32), ["cat"], width=257, height=257)

    assert len(found.outlines) == specks.sum()


def test_the_catalogue_has_both_segmentation_models(with_models):
    for name in ("deeplab_v3", "selfie_segmentation"):
        assert (
            load_model(with_models, Catalogue.open(with_models).entry(name), fetch=False).entry.task
            == "segmentation"
        )
