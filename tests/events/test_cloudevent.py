import json
from datetime import UTC, datetime

import jsonschema
import pytest
import uuid_utils
from cloudevents.core.bindings.kafka import to_structured
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from events.relays import SCHEMA
from truthloop.errors import InputRefused
from truthloop.events.cloudevent import from_cloudevent_json, to_cloudevent, to_cloudevent_json
from truthloop.events.documents import Event
from truthloop.events.text import text


def event(type_: str = "documents.loaded", **fields) -> Event:
    return Event(
        **{
            "id": str(uuid_utils.uuid7()),
            "type": f"dev.truthloop.{type_}",
            "source": "/ingest",
            "subject": "7d10",
            "time": datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
            "sequence": 1,
            "data": {},
            **fields,
        }
    )


events = st.builds(
    event,
    type_=st.from_regex(r"\A[a-z_]{1,9}\.[a-z_]{1,9}\Z"),
    subject=st.text(min_size=1),
    time=st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC)),
    sequence=st.integers(min_value=0, max_value=10**10 - 1),
    data=st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.booleans()),
)


@given(events)
def test_every_event_is_valid_cloudevents_1_0(given_event):
    jsonschema.validate(json.loads(to_cloudevent_json(given_event)), SCHEMA)


@given(events)
def test_an_event_comes_back_from_its_json_as_it_was(given_event):
    read = JSONFormat().read(None, to_cloudevent_json(given_event))

    assert read.get_attributes() == to_cloudevent(given_event).get_attributes()
    assert read.get_data() == given_event.data


@given(events)
def test_an_event_is_read_back_as_it_was_written(given_event):
    assert from_cloudevent_json(to_cloudevent_json(given_event)) == given_event


@given(
    st.binary()
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_what_is_no_event_is_refused(message):
    with pytest.raises(InputRefused):
        from_cloudevent_json(message)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "com.example.made"},
        {"type": "dev.truthloop.job"},
        {"id": "1"},
        {"sequence": "first"},
        {"sequence": "-1"},
        {"data": [1]},
        {"data": None},
        {"subject": None},
        {"specversion": "0.3"},
    ],
)
def test_a_cloudevent_that_is_none_of_truthloops_is_refused(wrong):
    with pytest.raises(InputRefused):
        from_cloudevent_json(json.dumps(json.loads(to_cloudevent_json(event())) | wrong).encode())


@given(st.integers(0, 10**10 - 1), st.integers(0, 10**10 - 1))
def test_sequences_sort_as_texts_as_they_do_as_numbers(one, other):
    texts = [to_cloudevent(event(sequence=number)).get_extension("sequence") for number in (one, other)]

    assert (texts[0] < texts[1]) == (one < other)


def test_on_the_way_to_kafka_the_subject_is_the_key_and_the_content_type_is_kept():
    message = to_structured(to_cloudevent(event()), JSONFormat())

    assert message.key == "7d10"
    assert json.loads(message.value)["datacontenttype"] == "application/json"


def test_an_event_is_one_line():
    assert b"\n" not in to_cloudevent_json(event(data={"file": "two\nlines"}))


def test_an_events_entity_and_verb_are_the_end_of_its_type():
    assert (event("item.need_changed").entity, event("item.need_changed").verb) == ("item", "need_changed")


@pytest.mark.parametrize(
    ("given_event", "line"),
    [
        (event("job.started", data={"state": "running"}), "Inference job (id: 7d10) started: running"),
        (event("job.deleted"), "Inference job (id: 7d10) deleted"),
        (event("item.need_changed", data={"state": "open"}), "Item (id: 7d10) need changed: open"),
        (
            event(
                data={
                    "collection": "metadata",
                    "file": "metadata.json",
                    "read": 2443,
                    "new": 2443,
                    "replaced": 0,
                    "refused": 0,
                    "already_there": 0,
                    "complete": True,
                }
            ),
            "Documents (id: 7d10) loaded: 2,443 into metadata from metadata.json, 0 refused",
        ),
        (
            event(
                data={
                    "collection": "bbox.model",
                    "file": "m.json",
                    "new": 1,
                    "replaced": 2,
                    "already_there": 3,
                    "refused": 4,
                    "complete": False,
                }
            ),
            "Documents (id: 7d10) loaded: 1 into bbox.model from m.json, 2 replaced, 3 there already, 4 refused, "
            "incomplete",
        ),
    ],
)
def test_an_event_reads_as_a_sentence(given_event, line):
    assert text(given_event) == line


@given(events)
def test_no_event_can_steer_the_terminal_that_shows_it(given_event):
    assert text(given_event).isprintable()


def test_names_in_other_scripts_are_shown_as_they_are():
    assert "пример.json" in text(event(data={"file": "пример.json"}))
