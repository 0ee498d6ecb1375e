"""Exports: whole, compared, stable, and never over anything that is there."""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datasets.documents import BOX, OTHER_BOX, annotation, audit, prediction
from truthloop.datasets import entries as files
from truthloop.datasets import export as module
from truthloop.datasets.build import build
from truthloop.datasets.export import FORMATS, export
from truthloop.datasets.show import file_of, find_built
from truthloop.errors import Conflict, FileRefused, InputRefused, NotFound
from truthloop.store.connection import Store


@pytest.fixture
def built(store: Store) -> Store:
    names = [f"a{number:03}" for number in range(120)]
    store["metadata"].insert_many([{"image_id": name} for name in names])
    store["bbox.model"].insert_many(
        [
            prediction(name, *[BOX | {"label": "face"}, OTHER_BOX][: number % 3])
            for number, name in enumerate(names)
        ]
    )
    store["bbox.human_annotation"].insert_many([annotation(name, BOX, timestamp=2.5) for name in names[::7]])
    store["bbox.human_audit"].insert_many([audit(name, number % 2 == 0) for number, name in enumerate(names[::5])])
    build(store)
    return store


def rows(folder: Path, ending: str) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for part in ("train", "val", "test"):
        path = folder / f"{part}.{ending}"
        if ending == "jsonl":
            found[part] = [json.loads(line) for line in path.read_text().splitlines()]
        else:
            found[part] = pq.read_table(path).to_pylist()
    return found


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_export_holds_every_entry_once(built, tmp_path, kind):
    report = export(built, out=tmp_path / "out", format=kind)
    parts = rows(tmp_path / "out", kind)
    stored = {
        entry["image_id"]: entry for entry in built["bbox_dataset"].find({}, {"_id": 0, "dataset_version": 0})
    }

    found = {row["image_id"]: row for part in parts.values() for row in part}
    assert sum(len(part) for part in parts.values()) == len(found) == report.images == 120
    if kind == "parquet":
        for row in found.values():
            row["bboxes"] = [{k: v for k, v in box.items() if v is not None} for box in row["bboxes"]]
    assert found == stored
    assert {part.part: part.images for part in report.parts} == {name: len(part) for name, part in parts.items()}
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == report.model_dump(mode="json")


def test_images_without_a_box_are_exported(built, tmp_path):
    export(built, out=tmp_path / "out")

    assert any(row["bboxes"] == [] for part in rows(tmp_path / "out", "jsonl").values() for row in part)


def test_an_image_keeps_its_part_as_the_set_grows(built, tmp_path):
    export(built, out=tmp_path / "before")
    built["metadata"].insert_many([{"image_id": f"b{number}"} for number in range(50)])
    built["bbox.model"].insert_many([prediction(f"b{number}", BOX) for number in range(50)])
    build(built)
    export(built, out=tmp_path / "after")

    before, after = rows(tmp_path / "before", "jsonl"), rows(tmp_path / "after", "jsonl")
    for part, found in before.items():
        assert {row["image_id"] for row in found} <= {row["image_id"] for row in after[part]}


def test_an_earlier_version_is_exported_as_it_was(built, tmp_path):
    export(built, 1, out=tmp_path / "one")
    built["bbox.human_annotation"].delete_many({})
    build(built)
    export(built, 1, out=tmp_path / "again")

    assert rows(tmp_path / "one", "jsonl") == rows(tmp_path / "again", "jsonl")


def test_a_folder_that_is_there_is_refused_and_left_alone(built, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(Conflict):
        export(built, out=tmp_path / "out")

    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_what_a_killed_export_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(built, tmp_path):
    killed, living = (tmp_path / f".out.{name}.exporting" for name in ("00000001", "00000002"))
    killed.mkdir()
    living.mkdir()
    held = os.open(living, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)

    export(built, out=tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, "out"]
    os.close(held)


def test_what_reads_back_differently_is_refused_and_removed(built, tmp_path, monkeypatch):
    class Wrong(module._JsonLines):
        def add(self, row: dict[str, Any]) -> None:
            if row["image_id"] != "a050":
                super().add(row)

    monkeypatch.setitem(module._WRITERS, "jsonl", Wrong)
    with pytest.raises(FileRefused, match="reads back differently"):
        export(built, out=tmp_path / "out")

    assert list(tmp_path.iterdir()) == []


def test_one_line_too_many_is_noticed_too(built, tmp_path, monkeypatch):
    class Wrong(module._JsonLines):
        def __exit__(self, *error: object) -> None:
            self.add({"image_id": "one too many"})
            super().__exit__(*error)

    monkeypatch.setitem(module._WRITERS, "jsonl", Wrong)
    with pytest.raises(FileRefused, match="reads back differently"):
        export(built, out=tmp_path / "out")


def test_a_version_whose_file_was_changed_is_not_exported(built, tmp_path):
    path = file_of(built, find_built(built, 1), files.ENTRIES)
    path.write_bytes(path.read_bytes() + b"x")

    with pytest.raises(Conflict, match="SHA-256"):
        export(built, out=tmp_path / "out")


def test_a_version_whose_files_are_elsewhere_says_so(built, tmp_path):
    shutil.rmtree(file_of(built, find_built(built, 1), files.ENTRIES).parent)

    with pytest.raises(FileRefused, match="another workspace folder"):
        export(built, out=tmp_path / "out")


def test_what_is_none_is_refused(built, tmp_path):
    with pytest.raises(NotFound):
        export(built, 9, out=tmp_path / "out")
    with pytest.raises(InputRefused):
        export(built, out=tmp_path / "out", format="coco")  # type: ignore[arg-type]
    with pytest.raises(InputRefused):
        export(built, out=tmp_path / "out", split="1/1/1")


def test_a_folder_that_cannot_be_made_is_refused(built, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(FileRefused):
        export(built, out=tmp_path / "file" / "out")


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_that_the_disk_damaged_is_refused_and_removed(built, tmp_path, monkeypatch, kind):
    compare = module._compare

    def damage_then_compare(source, folder, *rest):
        path = folder / f"train.{kind}"
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 3] = b"\x00\x01\x02"
        path.write_bytes(data)
        compare(source, folder, *rest)

    monkeypatch.setattr(module, "_compare", damage_then_compare)

    with pytest.raises(FileRefused, match="reads back differently"):
        export(built, out=tmp_path / "out", format=kind)

    assert list(tmp_path.iterdir()) == []
