from pathlib import Path

import pytest

from truthloop.errors import FileRefused
from truthloop.ingest.image_file import check
from truthloop.simulate.pictures import DrawnPictures, FolderPictures


def test_drawings_are_jpeg_and_png_files_of_several_sizes_that_ingest_takes():
    pictures = DrawnPictures(0)
    files = [pictures[number].data for number in range(len(pictures))]

    assert len(set(files)) == len(files) == len(pictures)
    assert {file[:4] for file in files} == {b"\xff\xd8\xff\xe0", b"\x89PNG"}
    checked = [check(file, max_bytes=1_000_000, max_pixels=1_000_000) for file in files]
    assert len({(each.width, each.height) for each in checked}) > 2


def test_the_same_seed_draws_the_same():
    assert DrawnPictures(3)[5] == DrawnPictures(3)[5]
    assert DrawnPictures(3)[5] != DrawnPictures(4)[5]


def test_a_face_is_found_in_some_of_the_drawings():
    import cv2
    import numpy as np

    detector = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"))
    pictures = DrawnPictures(0)
    grey = [
        cv2.imdecode(np.frombuffer(pictures[number].data, np.uint8), cv2.IMREAD_GRAYSCALE)
        for number in range(len(pictures))
    ]

    assert any(len(detector.detectMultiScale(each)) for each in grey)


def test_a_folder_without_images_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no image")

    with pytest.raises(FileRefused, match="holds no image"):
        FolderPictures(tmp_path)
    with pytest.raises(FileRefused, match="There is no folder"):
        FolderPictures(tmp_path / "nowhere")
