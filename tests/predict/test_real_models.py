"""Jobs with models of the catalogue on real photographs."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from predict.given import on_a_thread
from truthloop.ingest.images import store_image
from truthloop.predict.documents import JobState
from truthloop.store.connection import Store
from truthloop.workspace import Workspace


@pytest.fixture
def workspace(store: Store, shared_data: Path, tmp_path: Path) -> Iterator[Workspace]:
    """A workspace with a worker."""
    store.settings = store.settings.model_copy(
        update={"blobs": f"file://{tmp_path / 'blobs'}", "models": shared_data / "models"}
    )
    workspace = Workspace(store)
    with on_a_thread(workspace.run_worker):
        yield workspace


def test_each_kind_of_model_answers_in_its_own_way_and_can_be_drawn(
    workspace: Workspace, shared_data: Path
) -> None:
    images = shared_data / "data" / "images"
    asked = {
        "mobilenet_v2": ("labels", "burger.jpg"),
        "opencv_faces": ("boxes", "face.jpg"),
        "deeplab_v3": ("objects", "bird_segmentation.jpg"),
    }
    jobs = {}
    for model, (_, name) in asked.items():
        image = store_image(workspace.blobs, workspace.settings, (images / name).read_bytes())
        jobs[model] = workspace.jobs.submit(model, image=image)

    for model, (kind, _) in asked.items():
        ended = workspace.jobs.wait(jobs[model].id, seconds=120)
        assert ended.state == JobState.SUCCEEDED, ended.error
        found = workspace.jobs.result(jobs[model].id).model_dump(exclude_none=True)
        assert found[kind]
        assert ("classes" in found) == (kind == "objects")
        drawn = cv2.imdecode(np.frombuffer(workspace.jobs.picture(jobs[model].id), np.uint8), cv2.IMREAD_COLOR)
        assert drawn is not None
    labels = workspace.jobs.result(jobs["mobilenet_v2"].id).labels
    assert labels is not None
    assert "burger" in labels[0].label.lower()
    classes = workspace.jobs.result(jobs["deeplab_v3"].id).classes
    assert classes is not None
    assert classes[0].label == "bird"


def test_the_outlines_of_a_job_follow_its_tolerance(workspace: Workspace, shared_data: Path) -> None:
    data = (shared_data / "data" / "images" / "bird_segmentation.jpg").read_bytes()
    image = store_image(workspace.blobs, workspace.settings, data)

    def vertices(tolerance: float) -> int:
        job = workspace.jobs.submit("deeplab_v3", image=image, options={"tolerance": tolerance})
        workspace.jobs.wait(job.id, seconds=120)
        objects = workspace.jobs.result(job.id).objects
        assert objects
        return sum(len(part.outer.pixels) for each in objects for part in each.outlines)

    assert vertices(20.0) < vertices(1.0)
