"""The commands that read and fill a workspace, on a real MongoDB."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from cli.processes import Terminal, interrupt

FIGURES = {"images": 2443, "processed": 2101, "correct": 488, "incorrect": 1021, "corrected": 777}


def write(path: Path, *documents: object) -> Path:
    path.write_text("\n".join(json.dumps(document) for document in documents), encoding="utf-8")
    return path


def ids(lines: str) -> Iterator[str]:
    return (line.split("\t")[0] for line in lines.splitlines())


def test_the_real_slice_gives_the_known_figures(empty: Terminal, face_slice: Path) -> None:
    loaded = json.loads(empty.answer("load", face_slice, "--json"))
    status = json.loads(empty.answer("status", "--json"))

    assert sum(file["refused"] for file in loaded["items"]) == 0
    assert {name: _count(status[name]) for name in FIGURES} == FIGURES
    assert status["synthetic"] is False


def _count(figure: object) -> object:
    return figure["count"] if isinstance(figure, dict) else figure


def test_a_second_load_changes_nothing(empty: Terminal, tmp_path: Path) -> None:
    path = write(tmp_path / "metadata.json", {"image_id": "a"}, {"image_id": "b"})
    first = json.loads(empty.answer("load", path, "--json"))["items"][0]
    second = json.loads(empty.answer("load", path, "--json"))["items"][0]

    assert (first["new"], first["already_there"]) == (2, 0)
    assert (second["new"], second["already_there"]) == (0, 2)


def test_a_refused_document_is_named_and_fails_the_load(empty: Terminal, tmp_path: Path) -> None:
    path = write(tmp_path / "metadata.json", {"image_id": "a"}, {"capture_timestamp": 1})
    done = empty.run("load", path)

    assert done.returncode == 1
    assert "[1].image_id: missing" in done.stdout
    assert "rejects" in done.stdout
    assert json.loads(empty.answer("status", "--json"))["images"] == 1


def test_strict_loads_nothing_where_one_is_refused(empty: Terminal, tmp_path: Path) -> None:
    path = write(tmp_path / "metadata.json", {"image_id": "a"}, {"capture_timestamp": 1})
    done = empty.run("load", path, "--strict")

    assert done.returncode == 1
    assert json.loads(empty.answer("status", "--json"))["images"] == 0


def test_a_dry_run_makes_no_workspace(nowhere: Terminal, tmp_path: Path) -> None:
    path = write(tmp_path / "metadata.json", {"image_id": "a"})
    shown = nowhere.answer("load", path, "--dry-run")

    assert "nothing was stored" in shown
    assert not nowhere.home.exists()


def test_a_dry_run_stores_nothing(empty: Terminal, tmp_path: Path) -> None:
    path = write(tmp_path / "metadata.json", {"image_id": "a"})
    empty.answer("load", path)
    path = write(tmp_path / "metadata.json", {"image_id": "a"}, {"image_id": "b"})
    told = json.loads(empty.answer("load", path, "--dry-run", "--json"))["items"][0]

    assert (told["new"], told["already_there"]) == (1, 1)
    assert json.loads(empty.answer("status", "--json"))["images"] == 1


def test_status_says_what_waits_and_that_a_sample_is_none_of_yours(sampled: Terminal) -> None:
    shown = sampled.answer("status")

    assert "SYNTHETIC SAMPLE DATA" in shown
    assert "truthloop images --state unaudited" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_list_behind_a_figure_has_as_many_images(sampled: Terminal) -> None:
    status = json.loads(sampled.answer("status", "--json"))

    assert len(sampled.answer("images", "--state", "audited", "--all").splitlines()) == status["audited"]["count"]


def test_pages_of_images_join_without_gap_or_overlap(sampled: Terminal) -> None:
    everything = list(ids(sampled.answer("images", "--state", "processed", "--all")))
    first = json.loads(sampled.answer("images", "--state", "processed", "--limit", "40", "--json"))
    rest = sampled.answer("images", "--state", "processed", "--limit", "1000", "--after", first["next"])

    assert [item["image_id"] for item in first["items"]] + list(ids(rest)) == everything


def test_all_as_json_is_one_image_a_line(sampled: Terminal) -> None:
    lines = sampled.answer("images", "--state", "uncorrected", "--all", "--json").splitlines()

    assert all("uncorrected" in json.loads(line)["states"] for line in lines)
    assert lines


def test_the_next_page_of_images_is_named_as_it_is_to_be_typed(empty: Terminal, tmp_path: Path) -> None:
    empty.answer("load", write(tmp_path / "metadata.json", *({"image_id": f"a {n}"} for n in range(3))))

    listed = empty.run("images", "--state", "unprocessed", "--limit", "2")

    told = "There are more: truthloop images --after 'a 1' --state unprocessed --limit 2\n"
    assert listed.stderr == told
    command = shlex.split(told.partition(": truthloop ")[2])
    assert list(ids(empty.answer(*command))) == ["a 2"]


def test_events_are_cloudevents_one_a_line(sampled: Terminal) -> None:
    events = [json.loads(line) for line in sampled.answer("events", "--json").splitlines()]
    rest = sampled.answer("events", "--json", "--after", events[0]["id"]).splitlines()

    assert all(event["specversion"] == "1.0" for event in events)
    assert [json.loads(line)["id"] for line in rest] == [event["id"] for event in events[1:]]


def test_a_png_is_written_beside_the_answer(sampled: Terminal, tmp_path: Path) -> None:
    done = sampled.run("status", "--png", tmp_path / "status.png", "--json")

    assert (tmp_path / "status.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(done.stdout)["images"] == 300


def test_a_png_that_cant_be_written_is_a_plain_error(sampled: Terminal, tmp_path: Path) -> None:
    done = sampled.run("status", "--png", tmp_path / "missing" / "status.png")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_watch_writes_a_line_a_change_until_ctrl_c(empty: Terminal, tmp_path: Path) -> None:
    empty.answer("load", write(tmp_path / "metadata.json", {"image_id": "a"}))
    watch = empty.start("status", "--watch", "--json")
    assert watch.stdout is not None
    first = json.loads(watch.stdout.readline())
    empty.answer("load", write(tmp_path / "metadata.json", {"image_id": "b"}))
    second = json.loads(watch.stdout.readline())

    assert (first["images"], second["images"]) == (1, 2)
    assert interrupt(watch) == (130, "Interrupted.\n")


def test_follow_goes_on_with_what_happens(empty: Terminal, tmp_path: Path) -> None:
    empty.answer("load", write(tmp_path / "metadata.json", {"image_id": "a"}))
    first = json.loads(empty.answer("events", "--json").splitlines()[-1])
    follow = empty.start("events", "--follow", "--after", first["id"], "--limit", "1", "--json")
    empty.answer("load", write(tmp_path / "metadata.json", {"image_id": "b"}))
    shown, errors = follow.communicate(timeout=60)

    assert follow.returncode == 0, errors
    assert json.loads(shown)["type"] == "dev.truthloop.documents.loaded"


def test_a_sample_is_not_mixed_into_data_that_is_there(empty: Terminal, tmp_path: Path) -> None:
    empty.answer("load", write(tmp_path / "metadata.json", {"image_id": "a"}))
    empty.answer("sample", "--if-empty", "--images", "10")

    assert json.loads(empty.answer("status", "--json"))["images"] == 1


def test_doctor_finds_a_sample_healthy(sampled: Terminal) -> None:
    found = json.loads(sampled.answer("doctor", "--json"))

    assert found["healthy"] is True
    assert {"ok"} == {item["level"] for item in found["items"] if item["name"] == "figures"}


def test_nothing_is_broken_to_a_width_in_a_pipe(empty: Terminal, tmp_path: Path) -> None:
    name = f"{'a-long-name-' * 8}.json"
    path = write(tmp_path / name, {"image_id": "a" * 200, "bbox": None, "annotator": "x", "task_version": "1"})
    loaded = empty.run("load", path, "--into", "bbox.human_annotation").stdout
    path = write(tmp_path / name, {"image_id": "a" * 200, "model_version": "9." * 60 + "0", "bboxes": []})
    empty.answer("load", path, "--into", "bbox.model")
    empty.answer("load", path, "--into", "metadata")

    assert any(line.startswith(f"{name} → bbox.human_annotation ") for line in loaded.splitlines())
    assert "9." * 60 + "0" in empty.answer("status")
    assert "bbox.human_annotation " in empty.answer("doctor")


def test_one_image_is_one_image(empty: Terminal, tmp_path: Path) -> None:
    empty.answer("load", write(tmp_path / "metadata.json", {"image_id": "a"}))

    assert empty.answer("status").startswith("1 image ")


def test_a_load_that_was_cut_short_is_named_with_a_command_that_works(empty: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "my notes.json"
    path.write_text('[{"image_id": "a"}, {"image')
    empty.run("load", path, "--into", "metadata")
    (told,) = [item for item in json.loads(empty.answer("doctor", "--json"))["items"] if item["name"] == "loads"]
    path.write_text('[{"image_id": "a"}, {"image_id": "b"}]')
    empty.answer(*shlex.split(told["mend"].partition(": truthloop ")[2]))

    assert told["level"] == "warning"
    assert "none was cut short" in empty.answer("doctor")


def test_doctor_reports_on_a_workspace_that_cant_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = Terminal(tmp_path / "file").run("doctor")

    assert done.returncode == 1
    assert "failure" in done.stdout
    assert "Traceback" not in done.stderr
