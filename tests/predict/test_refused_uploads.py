"""An image that comes with a job that is refused leaves no file behind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from truthloop.errors import Conflict, InputRefused, NotFound, QueueFull, TruthloopError
from truthloop.settings import Settings
from truthloop.workspace import Workspace


def noise(seed: int) -> bytes:
    """An image that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def full(settings: Settings, blobs: Path) -> Iterator[Workspace]:
    """A workspace in whose queue there is no room."""
    settings = settings.model_copy(update={"blobs": blobs.as_uri(), "max_queued_jobs": 1})
    with Workspace.open(settings, create=True) as workspace:
        workspace.jobs.submit("opencv_faces", image=noise(0))
        yield workspace
        workspace.store.client.drop_database(settings.database)


def executed(workspace: Workspace, *, cancelled: bool = False) -> None:
    job = workspace.jobs.create("opencv_faces")
    if cancelled:
        workspace.jobs.cancel(job.id)
    workspace.jobs.execute(job.id, image=noise(1))


@pytest.mark.parametrize(
    ("ask", "refusal"),
    [
        (lambda full: full.jobs.submit("opencv_faces", image=noise(1)), QueueFull),
        (lambda full: full.outlines.submit(noise(1), model="selfie_segmentation"), QueueFull),
        (executed, QueueFull),
        (lambda full: executed(full, cancelled=True), Conflict),
        (lambda full: full.jobs.execute("no-such-job", image=noise(1)), NotFound),
        (lambda full: full.jobs.submit("no_such_model", image=noise(1)), InputRefused),
        (lambda full: full.jobs.create("opencv_faces", image=noise(1), deadline_seconds=-1), InputRefused),
        (lambda full: full.jobs.submit("opencv_faces", image=noise(1), options={"x": 1}), InputRefused),
    ],
)
def test_a_refused_job_s_image_is_not_stored(
    full: Workspace, blobs: Path, ask: Callable[[Workspace], object], refusal: type[TruthloopError]
) -> None:
    before = sorted(blobs.rglob("*"))

    with pytest.raises(refusal):
        ask(full)

    assert sorted(blobs.rglob("*")) == before
