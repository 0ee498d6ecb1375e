"""The figures against a real MongoDB that other systems write into."""

import itertools
import json
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor import reference
from monitor.written import annotation, assert_proved, audit, counts, current, metadata, prediction, read_all
from truthloop.errors import (
    CursorRefused,
    FiguresBehind,
    InputRefused,
)
from truthloop.monitor import follow, recount
from truthloop.monitor.documents import State
from truthloop.monitor.status import images, status
from truthloop.store.connection import Store
from truthloop.store.migrations import SOURCES


def test_the_real_slice_has_the_figures_of_the_design(store: Store, face_slice: Path):
    for name in SOURCES:
        store[name].insert_many(json.loads((face_slice / f"{name}.json").read_text()))

    found = status(store)

    assert found.images == 2443
    assert found.processed.count == 2101
    assert (found.correct.count, found.incorrect.count, found.audited.count) == (488, 1021, 1509)
    assert found.corrected.count == 777
    assert found.processed.fraction == 2101 / 2443
    assert found.corrected.fraction == 777 / 2443
    assert found.corrected.fraction_of_incorrect == 777 / 1021
    assert found.waiting.unprocessed == 342
    assert found.waiting.uncorrected == 1021 - 777
    assert counts(found) == reference.count(read_all(store))


def test_an_empty_workspace_has_a_status(store: Store):
    found = status(store)

    assert found.images == 0
    assert found.processed.fraction is None


def test_other_systems_inserts_updates_and_deletes_are_counted(store: Store):
    store["metadata"].insert_many([metadata("a"), metadata("b")])
    assert current(store).images == 2

    store["bbox.model"].insert_one(prediction("a"))
    store["bbox.human_audit"].insert_one(audit("a", correct=True))
    assert counts(current(store)) | {"images": 2, "processed": 1, "correct": 1} == counts(current(store))

    store["bbox.human_audit"].update_one({"image_id": "a"}, {"$set": {"bbox_correct": False}})
    store["bbox.human_annotation"].insert_one(annotation("a"))
    assert current(store).corrected.count == 1

    store["bbox.human_annotation"].delete_many({})
    assert current(store).waiting.uncorrected == 1

    store["bbox.human_audit"].replace_one({"image_id": "a"}, audit("b", correct=True))
    found = current(store)
    assert (found.correct.count, found.incorrect.count, found.waiting.unaudited) == (1, 0, 1)

    store["metadata"].delete_one({"image_id": "a"})
    assert current(store).not_in_metadata == 1
    assert_proved(store)


def test_without_a_service_a_status_has_all_that_was_written_before_it(store: Store):
    for number in range(3):
        store["metadata"].insert_one(metadata(f"{number}"))
        assert status(store).images == number + 1
        assert len(images(store).items) == number + 1


def test_a_document_that_moves_to_another_image_changes_both(store: Store):
    store["metadata"].insert_many([metadata("a"), metadata("b")])
    store["bbox.model"].insert_one(prediction("a"))
    assert current(store).processed.count == 1

    store["bbox.model"].update_one({}, {"$set": {"image_id": "b"}})

    current(store)
    assert [item.image_id for item in images(store, State.PROCESSED).items] == ["b"]
    assert_proved(store)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"image_id": None},
        {"image_id": 7},
        {"image_id": ["a"]},
        {"image_id": {"a": 1}},
    ],
)
def test_documents_in_a_shape_that_no_reader_can_use_are_counted_nowhere_and_stop_nothing(
    store: Store, document: dict[str, Any]
):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    for name in SOURCES:
        store[name].insert_one(dict(document))
    store["bbox.human_audit"].insert_one({"image_id": "a", "bbox_correct": "yes"})
    store["bbox.model"].insert_one({"image_id": "a", "model_version": 3})

    found = current(store)

    assert (found.images, found.processed.count, found.audited.count) == (1, 0, 0)
    for name in SOURCES:
        store[name].delete_many({})
    assert current(store).images == 0


def test_several_metadata_documents_for_one_image_are_one_image(store: Store):
    store["metadata"].insert_many([metadata("a"), metadata("a")])
    assert current(store).images == 1

    store["metadata"].delete_one({"image_id": "a"})
    assert current(store).images == 1


@pytest.mark.parametrize("name", SOURCES)
def test_a_dropped_collection_is_counted_as_empty_and_followed_again(store: Store, name: str):
    store["metadata"].insert_one(metadata("a"))
    store["bbox.model"].insert_one(prediction("a"))
    current(store)

    store[name].drop()
    assert_proved(store)

    documents = {"metadata": metadata, "bbox.model": prediction, "bbox.human_annotation": annotation}
    store[name].insert_one(documents.get(name, lambda image_id: audit(image_id, correct=True))("b"))
    assert_proved(store)
    store[name].delete_one({"image_id": "b"})  # seen only if its pre-images are on again
    assert_proved(store)


def test_a_renamed_collection_is_counted(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    store["staging"].insert_many([metadata("b"), metadata("c")])

    store["staging"].rename("metadata", dropTarget=True)

    assert current(store).images == 2
    assert_proved(store)


def test_deletes_are_counted_though_somebody_switched_the_pre_images_off(store: Store):
    store["metadata"].insert_many([metadata("a"), metadata("b")])
    current(store)
    store.database.command({"collMod": "metadata", "changeStreamPreAndPostImages": {"enabled": False}})

    store["metadata"].delete_one({"image_id": "a"})

    assert current(store).images == 1
    store["metadata"].delete_one({"image_id": "b"})
    assert current(store).images == 0


def test_a_dropped_index_is_made_again(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    store["metadata"].drop_indexes()
    store["metadata"].insert_one(metadata("b"))

    assert current(store).images == 2


def test_a_resume_token_that_is_gone_means_a_recount(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    store[follow.COLLECTION].update_one({}, {"$set": {"token": {"_data": "8200000000"}}})
    store["metadata"].insert_one(metadata("b"))

    assert current(store).images == 2


def test_a_recount_that_was_stopped_half_way_is_done_again(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recount, "RANGE", 10)
    store["metadata"].insert_many([metadata(f"{n:03}") for n in range(100)])
    calls = itertools.count()

    def fail(_: int) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        status(store, progress=fail)
    store["metadata"].delete_many({"image_id": {"$lt": "050"}})

    assert status(store).images == 50
    assert_proved(store)
    assert len(images(store, limit=1000).items) == 50


def test_void_figures_are_counted_anew(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    store[follow.COLLECTION].update_one({}, {"$set": {"states": {"unprocessed unaudited unannotated": 99}}})
    assert status(store).images == 99

    follow.void(store)

    assert status(store).images == 1


def test_figures_that_are_behind_say_so_instead_of_waiting(store: Store):
    with pytest.raises(FiguresBehind):
        status(store, catch_up=False)
    with pytest.raises(FiguresBehind):
        images(store, catch_up=False)


def test_documents_that_python_cannot_hold_stop_neither_follower_nor_recount(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    far = bson.encode({"image_id": "a", "model_version": "1", "bbox_correct": True, "task_version": "1"})
    far_date = b"\x09timestamp\x00" + (2**62).to_bytes(8, "little")
    not_utf8 = bson.encode({"image_id": "aXb"}).replace(b"aXb", b"a\xffb")
    store["bbox.human_audit"].insert_one(RawBSONDocument(_with(far, far_date)))
    store["metadata"].insert_one(RawBSONDocument(not_utf8))
    store["metadata"].insert_one(metadata("b"))

    assert current(store).images == 2
    assert status(store).audited.count == 0
    follow.void(store)
    assert status(store).images == 2
    store["metadata"].delete_many({"image_id": {"$ne": "a"}})
    assert current(store).images == 1


def _with(document: bytes, element: bytes) -> bytes:
    """A BSON document with one more element at its end."""
    return (len(document) + len(element)).to_bytes(4, "little") + document[4:-1] + element + b"\x00"


def test_ids_that_are_too_long_for_an_id_are_passed_over(store: Store):
    store["metadata"].insert_one(metadata("a"))
    current(store)
    store["metadata"].insert_many([metadata("x" * 6_000_000 + f"{n}") for n in range(3)])

    assert current(store).images == 1
    follow.void(store)
    assert status(store).images == 1


def test_ids_that_are_lists_do_not_cut_a_recount_short(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recount, "RANGE", 3)
    store["metadata"].insert_many([metadata(f"{n:02}") for n in range(20)])
    store["metadata"].insert_many([{"image_id": ["03", "zz"]}, {"image_id": ["07"]}, {"image_id": ["11", "12"]}])

    assert status(store).images == 20


def test_images_are_listed_by_state_page_by_page(store: Store):
    store["metadata"].insert_many([metadata(f"{n}") for n in range(10)])
    store["bbox.model"].insert_many([prediction(f"{n}") for n in range(0, 10, 2)])

    first = images(store, State.PROCESSED, limit=3)
    second = images(store, State.PROCESSED, limit=3, after=first.next)

    assert [item.image_id for item in first.items] == ["0", "2", "4"]
    assert [item.image_id for item in second.items] == ["6", "8"]
    assert second.next is None
    assert first.items[0].states == [State.PROCESSED, State.UNAUDITED]
    assert len(images(store).items) == 10


@pytest.mark.parametrize("state", list(State))
def test_the_list_behind_each_figure_has_as_many_images_as_the_figure_says(store: Store, state: State):
    for number, (predicted, correct, annotated) in enumerate(
        itertools.product((True, False), (None, True, False), (True, False))
    ):
        image_id = f"{number}"
        store["metadata"].insert_one(metadata(image_id))
        if predicted:
            store["bbox.model"].insert_one(prediction(image_id))
        if correct is not None:
            store["bbox.human_audit"].insert_one(audit(image_id, correct=correct))
        if annotated:
            store["bbox.human_annotation"].insert_one(annotation(image_id))
    store["bbox.model"].insert_one(prediction("in no metadata"))

    found = current(store)
    listed = len(images(store, state).items)

    figure = getattr(found, state, None)
    assert listed == (figure.count if figure is not None else getattr(found.waiting, state))


def test_bad_queries_for_images_are_refused_by_name(store: Store):
    with pytest.raises(InputRefused, match="limit is 0"):
        images(store, limit=0)
    with pytest.raises(InputRefused, match="state is wrong: it must be one of processed"):
        images(store, "wrong")
    with pytest.raises(CursorRefused):
        images(store, after="")


ids = st.sampled_from(["a", "b", "c"])
versions = st.sampled_from(["9.0.0", "10.0.0"])
inserts = st.one_of(
    st.tuples(st.just("metadata"), ids.map(metadata)),
    st.tuples(st.just("bbox.model"), st.builds(prediction, ids, versions)),
    st.tuples(
        st.just("bbox.human_audit"),
        st.builds(
            lambda image_id, correct, version, timestamp: audit(
                image_id, correct=correct, model_version=version, timestamp=timestamp
            ),
            ids,
            st.booleans(),
            versions,
            st.integers(1, 3),
        ),
    ),
    st.tuples(st.just("bbox.human_annotation"), ids.map(annotation)),
)
changes = st.one_of(
    inserts,
    inserts,
    st.tuples(st.just("delete"), st.sampled_from(SOURCES)),
    st.tuples(st.just("move"), st.tuples(st.sampled_from(SOURCES), ids)),
    st.tuples(st.just("catch up"), st.none()),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(changes, max_size=25))
def test_after_any_series_of_writes_the_figures_are_those_of_the_brief(
    store: Store, series: list[tuple[str, Any]]
):
    for name in SOURCES:
        store[name].delete_many({})
    for kind, what in series:
        match kind:
            case "delete":
                store[what].delete_one({})
            case "move":
                store[what[0]].update_one({}, {"$set": {"image_id": what[1]}})
            case "catch up":
                current(store)
            case _:
                store[kind].insert_one(dict(what))
    assert_proved(store)
