"""Where a model's files are looked for, and that only the right ones are used."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.sources import Server, file_of, serving
from truthloop.errors import FileRefused, ModelRefused, ModelUnavailable
from truthloop.models.catalogue import Catalogue
from truthloop.models.documents import CatalogueEntry, ModelFile
from truthloop.models.files import file_states, place, read_file
from truthloop.models.folders import cache_folder, users_folder
from truthloop.models.load import load_model
from truthloop.settings import Settings

DATA, OTHER = b"the right one", b"another one"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/model.bin": DATA}) as told:
        yield told


def entry_of(settings: Settings, file: ModelFile) -> CatalogueEntry:
    """An entry with this file; what else it says doesn't matter here."""
    return Catalogue.open(settings).entry("face_short_range").model_copy(update={"name": "mine", "file": file})


def read(settings: Settings, file: ModelFile, *, fetch: bool = True) -> bytes:
    return read_file(settings, entry_of(settings, file), file, fetch=fetch)


def test_the_folder_of_the_setting_comes_first(folders: Settings, tmp_path: Path) -> None:
    settings = folders.model_copy(update={"models": tmp_path / "models"})
    place(tmp_path / "models" / "model.bin", DATA)
    place(users_folder() / "model.bin", OTHER)
    place(cache_folder() / "model.bin", OTHER)

    assert read(settings, file_of(DATA), fetch=False) == DATA


@pytest.mark.parametrize("folder", [users_folder, cache_folder])
def test_the_user_s_folder_and_the_cache_are_looked_into(folder: object, folders: Settings) -> None:
    place(folder() / "model.bin", DATA)  # type: ignore[operator]

    assert read(folders, file_of(DATA), fetch=False) == DATA


def test_a_file_is_fetched_once(folders: Settings, server: Server) -> None:
    file = file_of(DATA, url=f"{server.url}/model.bin")

    assert [read(folders, file) for _ in range(3)] == [DATA] * 3
    assert server.asked == ["/model.bin"]
    assert (cache_folder() / "model.bin").read_bytes() == DATA


def test_processes_that_want_a_file_at_once_fetch_it_once(folders: Settings, server: Server) -> None:
    server.may_answer.clear()
    program = f"""
from truthloop.models.documents import ModelFile
from truthloop.models.files import read_file
from truthloop.models.catalogue import Catalogue
from truthloop.settings import load_settings
settings = load_settings()
file = ModelFile.model_validate({file_of(DATA, url=f"{server.url}/model.bin").model_dump()!r})
print("ready", flush=True)
print(read_file(settings, Catalogue.open(settings).entries()[0], file, fetch=True).decode())
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    server.may_answer.set()

    assert [process.communicate(timeout=60)[0] for process in processes] == ["the right one\n"] * 3
    assert server.asked == ["/model.bin"]


def test_a_wrong_file_that_somebody_put_there_is_named_and_not_used(folders: Settings, server: Server) -> None:
    place(users_folder() / "model.bin", OTHER)

    with pytest.raises(ModelRefused, match=r"models/model\.bin has the SHA-256 .* It isn't used\. Replace it"):
        read(folders, file_of(DATA, url=f"{server.url}/model.bin"))
    assert server.asked == []


def test_a_damaged_file_in_the_cache_is_fetched_again(folders: Settings, server: Server) -> None:
    place(cache_folder() / "model.bin", OTHER)

    assert read(folders, file_of(DATA, url=f"{server.url}/model.bin")) == DATA
    assert (cache_folder() / "model.bin").read_bytes() == DATA


def test_what_was_fetched_wrong_never_gets_into_the_cache(folders: Settings, server: Server) -> None:
    server.files["/model.bin"] = OTHER

    with pytest.raises(ModelUnavailable, match="gave another file"):
        read(folders, file_of(DATA, url=f"{server.url}/model.bin"))
    assert not (cache_folder() / "model.bin").exists()


def test_a_fetch_that_fails_names_the_folder_and_the_models_that_work(folders: Settings, server: Server) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        read(folders, file_of(DATA, url=f"{server.url}/gone.bin"))

    text = str(caught.value)
    place = f"{cache_folder()}, or into a folder that TRUTHLOOP_MODELS names."
    name = entry_of(folders, file_of(DATA)).name
    assert f"Put model.bin (`truthloop models show {name}` says where from) into {place}" in text
    assert text.endswith("These models work without: opencv_faces, opencv_people.")


def test_the_folder_that_is_named_is_the_setting_s_and_all_missing_files_are(
    folders: Settings, tmp_path: Path
) -> None:
    settings = folders.model_copy(update={"models": tmp_path / "models"})

    with pytest.raises(ModelUnavailable, match="truthloop models pull mobilenet_v2") as caught:
        load_model(settings, Catalogue.open(settings).entry("mobilenet_v2"), fetch=False)

    place = f"into {tmp_path / 'models'}, the folder of TRUTHLOOP_MODELS"
    assert f"{place}, which isn't there yet." in str(caught.value)
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelUnavailable, match=f"{place}. These models work"):
        load_model(settings, Catalogue.open(settings).entry("mobilenet_v2"), fetch=False)
    assert "mobilenet_v2_1.0_224_quant.tflite and imagenet_labels.txt (`truth" in str(caught.value)


def test_the_error_of_a_file_that_can_t_be_had_is_short(folders: Settings, server: Server) -> None:
    long = f"{server.url}/{'x' * 300}/model.bin"

    with pytest.raises(ModelUnavailable) as caught:
        read(folders, file_of(DATA, url=long))

    text = str(caught.value)
    assert "127.0.0.1" in text
    assert "x" * 300 not in text
    assert file_of(DATA).sha256 not in text
    assert len(text) - len(str(cache_folder())) < 400


def test_without_leave_nothing_is_fetched(folders: Settings, server: Server) -> None:
    with pytest.raises(ModelUnavailable):
        read(folders, file_of(DATA, url=f"{server.url}/model.bin"), fetch=False)

    assert server.asked == []


def test_states_say_where_files_are_and_which_is_wrong(folders: Settings) -> None:
    entry = Catalogue.open(folders).entry("mobilenet_v2")
    assert [state.state for state in file_states(folders, entry)] == ["missing", "missing"]

    place(cache_folder() / "imagenet_labels.txt", OTHER)

    assert [state.state for state in file_states(folders, entry)] == ["missing", "wrong"]


def test_a_folder_that_cannot_be_made_is_named(folders: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(FileRefused, match=r"file/models/model\.bin can't be written"):
        place(tmp_path / "file" / "models" / "model.bin", DATA)
