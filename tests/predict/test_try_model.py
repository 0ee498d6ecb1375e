"""What the package itself offers for one image, without a workspace."""

from importlib import resources
from pathlib import Path

import pytest

import truthloop
from truthloop.errors import ImageRefused, NotFound
from truthloop.models.documents import Boxes

PORTRAIT = resources.files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"


@pytest.fixture(autouse=True)
def no_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRUTHLOOP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_model_is_tried_without_a_workspace(no_workspace: Path) -> None:
    found = truthloop.try_model("opencv_faces", PORTRAIT.read_bytes())

    assert isinstance(found, Boxes)
    assert [box.label for box in found.boxes] == ["face"]
    assert not no_workspace.exists()


def test_objects_are_outlined_without_a_workspace(
    no_workspace: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUTHLOOP_MODELS", str(shared_data / "models"))

    found = truthloop.outline((shared_data / "data" / "images" / "cow.jpg").read_bytes(), tolerance=3)

    assert (found.objects[0].label, found.tolerance) == ("cow", 3)
    assert not no_workspace.exists()


def test_what_is_no_model_or_no_image_is_refused() -> None:
    with pytest.raises(NotFound, match="opencv_faces"):
        truthloop.try_model("nobody", PORTRAIT.read_bytes())
    with pytest.raises(ImageRefused):
        truthloop.try_model("opencv_faces", b"no image")
