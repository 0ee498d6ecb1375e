"""The catalogue: what ships, and what a user adds."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest

from models.sources import file_of
from truthloop.errors import Conflict, FileRefused, ModelRefused, NotFound
from truthloop.models.add import add_model
from truthloop.models.catalogue import Catalogue, parse_entry, read_entry, shipped_entries
from truthloop.models.files import place
from truthloop.models.folders import users_folder
from truthloop.models.load import load_model
from truthloop.settings import Settings

EYES = Path(cv2.__file__).parent / "data" / "haarcascade_eye.xml"


def eyes(**fields: Any) -> dict[str, Any]:
    """An entry of a user's own: OpenCV's cascade for eyes, which no shipped entry has."""
    return {
        "name": "eyes",
        "version": "1.0.0",
        "task": "detection",
        "runtime": "opencv",
        "file": {"name": EYES.name, "sha256": hashlib.sha256(EYES.read_bytes()).hexdigest()},
        "labels": ["eye"],
        "licence": "BSD-3-Clause",
        "input": {"max_side": 800, "colour": "grey", "dtype": "uint8"},
        "output": {"decoder": "opencv_cascade", "min_neighbours": 4},
        **fields,
    }


def test_the_shipped_models_are_these(folders: Settings) -> None:
    assert [entry.name for entry in Catalogue.open(folders).entries()] == [
        "mobilenet_v2",
        "ssd_mobilenet_v1_coco",
        "deeplab_v3",
        "ultraface_rfb_320",
        "face_short_range",
        "selfie_segmentation",
        "opencv_faces",
        "opencv_people",
    ]


def test_the_shipped_entries_are_as_the_classes_would_write_them() -> None:
    for entry in shipped_entries():
        assert parse_entry(json.loads(entry.model_dump_json(exclude_defaults=True))) == entry
        assert all(file.url or file.wheel for file in entry.files)


def test_an_unknown_name_gets_those_there_are(folders: Settings) -> None:
    with pytest.raises(NotFound, match=r"no model 'nope'\. These there are: mobilenet_v2, .*opencv_people"):
        Catalogue.open(folders).entry("nope")


def test_an_added_model_is_there_for_the_next_process_and_works(folders: Settings, photograph: Any) -> None:
    add_model(folders, parse_entry(eyes()), [EYES])

    catalogue = Catalogue.open(folders)
    found = load_model(folders, catalogue.entry("eyes"), fetch=False).predict(photograph("face.jpg"))

    assert [box.label for box in found.boxes][:1] == ["eye"]
    assert catalogue.is_own("eyes")
    assert not catalogue.is_own("opencv_faces")


def test_an_entry_may_lie_in_the_folder_of_the_setting(folders: Settings, tmp_path: Path) -> None:
    settings = folders.model_copy(update={"models": tmp_path / "models"})
    place(tmp_path / "models" / "eyes.model.json", json.dumps(eyes()).encode())
    place(tmp_path / "models" / "notes.json", b"[]")

    assert Catalogue.open(settings).entry("eyes") == parse_entry(eyes())


def test_adding_the_same_again_changes_nothing(folders: Settings) -> None:
    first = add_model(folders, parse_entry(eyes()), [EYES])

    assert add_model(folders, parse_entry(eyes()), [EYES]) == first
    assert len(Catalogue.open(folders).entries()) == len(shipped_entries()) + 1


def test_a_name_is_one_model(folders: Settings) -> None:
    with pytest.raises(Conflict, match="There is a model opencv_faces already"):
        add_model(folders, parse_entry(eyes(name="opencv_faces")), [EYES])


def test_a_file_s_name_is_one_file(folders: Settings) -> None:
    name = "face_detection_short_range.tflite"
    entry = parse_entry(eyes(file=file_of(EYES.read_bytes(), name=name).model_dump()))

    with pytest.raises(Conflict, match=f"face_short_range has another file {name}"):
        add_model(folders, entry, [EYES])


def test_a_file_that_is_not_the_entry_s_is_refused_by_name(folders: Settings, tmp_path: Path) -> None:
    (tmp_path / "other.xml").write_text("<other/>")

    with pytest.raises(ModelRefused, match=r"other\.xml has the SHA-256 [0-9a-f]+, but the entry eyes names"):
        add_model(folders, parse_entry(eyes()), [tmp_path / "other.xml"])


def test_a_missing_file_without_a_source_is_refused(folders: Settings) -> None:
    with pytest.raises(ModelRefused, match=f"The entry's file {EYES.name} is missing. Name it with --file"):
        add_model(folders, parse_entry(eyes()))


def test_a_model_that_does_not_run_as_the_entry_says_is_not_added(folders: Settings, shared_data: Path) -> None:
    path = shared_data / "models" / "selfie_segmentation.tflite"
    shipped = next(entry for entry in shipped_entries() if entry.name == "selfie_segmentation")
    wrong = shipped.model_copy(
        update={"name": "mine", "input": shipped.input.model_copy(update={"width": 128, "height": 128})}
    )

    with pytest.raises(ModelRefused, match=r"^input: the model mine takes images of shape 256×256×3"):
        add_model(folders, wrong, [path])
    assert not users_folder().exists()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": "No Name"}, "name: "),
        ({"task": "detecting"}, "task: "),
        ({"licence": ""}, "licence: "),
        ({"threshold": 0.5}, "threshold: extra inputs"),
        ({"file": {"name": "../up", "sha256": "0" * 64}}, "file.name: "),
        ({"file": {"name": "eyes.xml", "sha256": "short"}}, "file.sha256: "),
        ({"file": {"name": "e.xml", "sha256": "0" * 64, "url": "file:///etc/passwd"}}, "file.url: "),
        (
            {"file": {"name": "e.xml", "sha256": "0" * 64, "wheel": "a==1"}},
            "file: wheel and member belong together",
        ),
        ({"file": {"name": "e.xml", "sha256": "0" * 64, "wheel": "--pre", "member": "m"}}, "file.wheel: "),
        ({"input": {"width": 8}}, "input: width and height belong together"),
        ({"input": {"max_side": 800, "colour": "pink"}}, "input.colour: "),
        ({"input": {"max_side": 800, "divisor": [0]}}, "input: divisor must not be 0"),
        ({"output": {"decoder": "guessing"}}, "output: "),
        ({"output": {"decoder": "opencv_cascade", "scale_factor": 1.0}}, "output.scale_factor: "),
        ({"output": "x"}, "output: "),
        ({"output": ["x"]}, "output: "),
        ({"output": {"decoder": ["x"]}}, "output: "),
        ({"file": {"name": "a/b.xml", "sha256": "0" * 64}}, "file.name: "),
        *(
            (
                {"file": {"name": "e.xml", "sha256": "0" * 64, "wheel": "a==1", "member": member}},
                "file: member must be a path within the wheel",
            )
            for member in ("/etc/passwd", "../up", "a/../../up", "..", "..\\up", "a\x00")
        ),
        ({"output": {"decoder": "ultraface"}}, "runtime is opencv, whose output the decoder ultraface can't read"),
        ({"task": "classification"}, "task is classification, but the decoder opencv_cascade is for detection"),
        ({"runtime": "onnx"}, "runtime is onnx"),
        ({"labels": []}, "labels or labels_file must be given"),
        ({"labels": ["eye", "ear"]}, "labels must name the one class"),
    ],
)
def test_an_invalid_entry_names_the_field(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelRefused) as caught:
        parse_entry(eyes(**fields))

    assert f"isn't a valid catalogue entry: {told}" in str(caught.value)
    assert caught.value.errors


@pytest.mark.parametrize("text", ["{", "[]", "\x00", "[" * 100_000, '{"name":' * 100_000])
def test_a_file_without_an_entry_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "entry.json").write_text(text)

    with pytest.raises(ModelRefused, match=r"entry\.json "):
        read_entry(tmp_path / "entry.json")


def test_an_entry_s_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match=r"entry\.json can't be read: No such file"):
        read_entry(tmp_path / "entry.json")


def test_an_entry_in_a_file_of_another_name_is_refused(folders: Settings) -> None:
    place(users_folder() / "ears.model.json", json.dumps(eyes()).encode())

    with pytest.raises(
        ModelRefused, match=r"ears\.model\.json has the entry eyes\. Call the file eyes\.model\.json"
    ):
        Catalogue.open(folders).entry("ears")
    with pytest.raises(NotFound, match=r"no model 'eyes'.*Others can't be used; `truthloop models list` says why"):
        Catalogue.open(folders).entry("eyes")


@pytest.mark.parametrize("text", ['{"name": "x", "output": "y"}', '{"name": "x"}', '{"na', "[" * 100_000, ""])
def test_an_entry_that_can_t_be_used_keeps_no_other_model_from_working(
    text: str, folders: Settings, photograph: Any
) -> None:
    place(users_folder() / "x.model.json", text.encode())
    (users_folder() / "y.model.json").mkdir()
    catalogue = Catalogue.open(folders)

    assert [(bad.name, bad.path.name) for bad in catalogue.unusable()] == [
        ("x", "x.model.json"),
        ("y", "y.model.json"),
    ]
    assert catalogue.entries() == list(shipped_entries())
    assert load_model(folders, catalogue.entry("opencv_faces"), fetch=False).predict(photograph("face.jpg"))
    with pytest.raises(ModelRefused, match=r"x\.model\.json "):
        catalogue.entry("x")
    with pytest.raises(FileRefused, match=r"y\.model\.json can't be read"):
        catalogue.entry("y")


def test_an_entry_with_a_shipped_name_changes_nothing_and_is_told(folders: Settings) -> None:
    place(users_folder() / "opencv_faces.model.json", json.dumps(eyes(name="opencv_faces")).encode())
    catalogue = Catalogue.open(folders)

    assert catalogue.entry("opencv_faces") in shipped_entries()
    (bad,) = catalogue.unusable()
    assert "has the name of an entry in Truthloop's own catalogue" in str(bad.reason)


def test_adding_a_model_mends_its_broken_entry(folders: Settings) -> None:
    place(users_folder() / "eyes.model.json", b"{")
    add_model(folders, parse_entry(eyes()), [EYES])

    catalogue = Catalogue.open(folders)
    assert catalogue.unusable() == []
    assert catalogue.entry("eyes").name == "eyes"


def test_the_documented_example_is_a_valid_entry_that_works(folders: Settings) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)

    entry = parse_entry(json.loads(example))

    assert add_model(folders, entry, [EYES]).name == "eyes.model.json"
