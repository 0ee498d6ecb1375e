"""Reading files, against the standard library's json on the whole text."""

import gzip
import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson.objectid import ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truthloop.errors import FileRefused
from truthloop.ingest.read import Documents, Unreadable, read_documents

# Names and texts with everything that separates documents, to lead the quick way astray.
_texts = st.text(st.sampled_from('ab{}[]",:\\\n é\u2028'), max_size=6)
_floats = st.floats(allow_nan=False, allow_infinity=False)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)
_documents = st.lists(
    st.dictionaries(_texts, _values, max_size=3)
    | st.fixed_dictionaries({"image_id": _texts, "bboxes": st.lists(st.just({"image_id": 1}), max_size=3)}),
    max_size=12,
)
_dumps_arguments = st.fixed_dictionaries(
    {"indent": st.sampled_from([None, 0, 1]), "ensure_ascii": st.booleans()},
    optional={"separators": st.sampled_from([(",", ":"), (" , ", " : "), (",\n", ":")])},
)
_endings = st.sampled_from(["\n", "\r\n", "\n\n"])
_chunks = st.sampled_from([1, 2, 7, 40, 1000, 1024 * 1024])
_many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)


def read(path: Path, **arguments: Any) -> tuple[list[Any], list[Unreadable], str | None]:
    """All documents of a file, what was unreadable, and why it wasn't read to its end."""
    items: list[Any] = []
    unreadable: list[Unreadable] = []
    try:
        for part in read_documents(path, **arguments):
            number = len(items) + len(unreadable)
            if isinstance(part, Documents):
                assert part.first == number
                assert part.items
                assert part.lines is None or len(part.lines) == len(part.items)
                items += part.items
            else:
                assert part.index == number
                unreadable.append(part)
    except FileRefused as refused:
        return items, unreadable, str(refused)
    return items, unreadable, None


def read_text(folder: Path, text: str | bytes, **arguments: Any) -> tuple[list[Any], list[Unreadable], str | None]:
    path = folder / "metadata.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read(path, **arguments)


@_many
@given(documents=_documents, dumps=_dumps_arguments, chunk=_chunks)
def test_an_array_gives_the_documents_that_json_gives(
    tmp_path: Path, documents: Any, dumps: Any, chunk: int
) -> None:
    text = json.dumps(documents, **dumps)

    assert read_text(tmp_path, text, chunk_bytes=chunk) == (documents, [], None)


@_many
@given(
    documents=_documents.filter(bool),
    escaped=st.booleans(),
    ending=_endings,
    chunk=_chunks,
)
def test_lines_give_the_documents_that_json_gives(
    tmp_path: Path, documents: Any, escaped: bool, ending: str, chunk: int
) -> None:
    text = ending.join(json.dumps(document, ensure_ascii=escaped) for document in documents)

    assert read_text(tmp_path, text, chunk_bytes=chunk) == (documents, [], None)


@_many
@given(documents=_documents.filter(lambda documents: documents and all(documents)), chunk=_chunks)
def test_documents_printed_over_lines_give_the_documents_that_json_gives(
    tmp_path: Path, documents: Any, chunk: int
) -> None:
    text = "\n".join(json.dumps(document, indent=2) for document in documents)

    assert read_text(tmp_path, text, chunk_bytes=chunk) == (documents, [], None)


@_many
@given(documents=_documents.filter(bool), chunk=_chunks, data=st.data())
def test_of_an_array_that_is_cut_off_the_whole_documents_are_given(
    tmp_path: Path, documents: Any, chunk: int, data: st.DataObject
) -> None:
    text = json.dumps(documents).encode()
    cut = data.draw(st.integers(1, len(text) - 1))

    items, unreadable, error = read_text(tmp_path, text[:cut], chunk_bytes=chunk)

    assert items == documents[: len(items)]
    assert not unreadable
    assert error is not None
    whole = sum(len(json.dumps(documents[:number])) < cut for number in range(1, len(documents) + 1))
    assert len(items) in (whole, whole + 1)  # the last is whole without the comma or bracket after it


@_many
@given(documents=_documents.filter(bool), chunk=_chunks, data=st.data())
def test_a_damaged_file_gives_an_error_or_documents_and_nothing_else(
    tmp_path: Path, documents: Any, chunk: int, data: st.DataObject
) -> None:
    text = bytearray(json.dumps(documents, ensure_ascii=False).encode())
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))

    items, unreadable, error = read_text(tmp_path, bytes(text), chunk_bytes=chunk)
    try:
        expected = json.loads(text.decode())
    except ValueError:
        assert error is not None or unreadable
        return
    if isinstance(expected, list) and not unreadable:
        assert (repr(items), error) == (repr(expected), None)


def test_gzip_is_told_by_its_content(tmp_path: Path) -> None:
    assert read_text(tmp_path, gzip.compress(b'[{"a": 1}]', mtime=0)) == ([{"a": 1}], [], None)


def test_gzip_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    parts = gzip.compress(b'{"a": 1}\n', mtime=0) + gzip.compress(b'{"a": 2}\n')

    assert read_text(tmp_path, parts) == ([{"a": 1}, {"a": 2}], [], None)


def test_a_byte_order_mark_says_nothing(tmp_path: Path) -> None:
    assert read_text(tmp_path, b'\xef\xbb\xbf[{"a": 1}]') == ([{"a": 1}], [], None)


def test_an_empty_array_has_no_documents(tmp_path: Path) -> None:
    assert read_text(tmp_path, "[]") == ([], [], None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", "is empty"),
        (b" \n ", "is empty"),
        (b"\x89PNG\r\n\x1a\n", "no JSON"),
        (b"hello", "begins with 'hello'"),
        ('[{"a": 1}]'.encode("utf-16"), "UTF-16"),
        ('[{"a": 1}]'.encode("utf-16-le"), "no JSON in UTF-8"),
        (
            b'[{"a": 1}, {"a": 2',
            "document [1], line 1, column 19, byte 18: the file ends in the middle. The 1 doc",
        ),
        (b'[{"a": 1}, ', "ends in the middle"),
        (b'[{"a": 1}', "ends in the middle"),
        (b"[", "ends in the middle"),
        (b'[\n{"a": 1},\n{"a" 2}]', "document [1], line 3, column 6, byte 17: not JSON (expecting ':' delimiter)"),
        (b'[{"a": 1} {"a": 2}]', "not JSON (expecting ',' delimiter)"),
        (b'[{"a": 1},]', "a comma before the array's end"),
        (b'[{"a": 1}] [', "more after the array's end"),
        (b'[{"a": 1}, {"a": "\xff"}]', "byte 0xff is not UTF-8. The 1 documents before it are read."),
        (gzip.compress(b'[{"a": 1}]', mtime=0)[:-6], "compressed data is cut off"),
        (gzip.compress(b'[{"a": 1}]', mtime=0)[:-6] + b"\x00" * 6, "compressed data is damaged"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused_by_the_place(tmp_path: Path, text: bytes, error: str) -> None:
    _, _, message = read_text(tmp_path, text)

    assert error in (message or "")


def test_what_stands_before_a_fault_is_given(tmp_path: Path) -> None:
    documents = [{"a": number} for number in range(1000)]
    text = json.dumps(documents)[:-1] + ", {]"

    assert read_text(tmp_path, text, chunk_bytes=100)[0] == documents


def test_a_bad_line_is_one_refusal_and_the_rest_goes_on(tmp_path: Path) -> None:
    items, unreadable, error = read_text(tmp_path, b'{"a": 1}\n{"a": }\n\n{"a": "\xff"}\n{"a": 4}\n{"a": 5')

    assert (items, error) == ([{"a": 1}, {"a": 4}], None)
    assert [(each.index, each.line, each.reason) for each in unreadable] == [
        (1, 2, "not JSON: expecting value at column 7"),
        (2, 4, "not UTF-8: byte 0xff at column 8"),
        (4, 6, "cut off: expecting ',' delimiter at column 8"),
    ]


def test_a_first_line_that_is_bad_does_not_spoil_the_others(tmp_path: Path) -> None:
    items, unreadable, _ = read_text(tmp_path, '{"a": }\n{"a": 2}\n{"a": 3}\n')

    assert items == [{"a": 2}, {"a": 3}]
    assert [each.line for each in unreadable] == [1]


@pytest.mark.parametrize("between", [", ", "\n"])
def test_a_field_that_stands_twice_refuses_its_document(tmp_path: Path, between: str) -> None:
    documents = ['{"image_id": "a:b", "u": "x:y"}', '{"image_id": 1, "x": {"k": 1, "k" : 2}}', '{"image_id": "c"}']
    text = between.join(documents)

    items, unreadable, error = read_text(tmp_path, f"[{text}]" if between == ", " else text)

    assert (items, error) == ([{"image_id": "a:b", "u": "x:y"}, {"image_id": "c"}], None)
    assert [each.reason for each in unreadable] == ["the field 'k' stands twice in one object"]


def test_an_escaped_colon_does_not_hide_a_field_that_stands_twice(tmp_path: Path) -> None:
    items, unreadable, _ = read_text(tmp_path, '[{"a": "\\u003a", "a": "::"}]')

    assert (items, len(unreadable)) == ([], 1)


def test_numbers_that_are_not_finite_are_left_to_be_refused_by_their_place(tmp_path: Path) -> None:
    text = '[{"a": NaN}, {"a": -Infinity}, {"a": 1e999}, {"a": {"$numberDouble": "NaN"}}, {"a": 1}]'

    items, unreadable, error = read_text(tmp_path, text)

    assert repr(items) == "[{'a': nan}, {'a': -inf}, {'a': inf}, {'a': nan}, {'a': 1}]"
    assert (unreadable, error) == ([], None)


def test_an_integer_of_thousands_of_digits_is_read_as_one_that_is_too_large(tmp_path: Path) -> None:
    items, _, error = read_text(tmp_path, f'[{{"a": {"9" * 5000}}}, {{"a": NaN}}]')

    assert items[0]["a"] > 2**64
    assert error is None


@pytest.mark.parametrize("text", ["[%s]", "%s"])
def test_extended_json_becomes_what_it_stands_for(tmp_path: Path, text: str) -> None:
    document = (
        '{"_id": {"$oid": "65a1b2c3d4e5f60718293a4b"}, "n": {"$numberInt": "1"}, "l": {"$numberLong": "2"}, '
        '"d": {"$numberDouble": "1.5"}, "t": {"$date": "2024-01-02T03:04:05Z"}}'
    )

    items, unreadable, error = read_text(tmp_path, text % document)

    assert (unreadable, error) == ([], None)
    assert items[0] == {
        "_id": ObjectId("65a1b2c3d4e5f60718293a4b"),
        "n": 1,
        "l": 2,
        "d": 1.5,
        "t": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
    }


@pytest.mark.parametrize("text", ['[{"a": 1}, %s, {"a": 3}]', '{"a": 1}\n%s\n{"a": 3}'])
@pytest.mark.parametrize("wrong", ['{"_id": {"$oid": "x"}}', '{"t": {"$date": []}}', '{"b": {"$binary": 1}}'])
def test_extended_json_that_is_wrong_refuses_its_document(tmp_path: Path, text: str, wrong: str) -> None:
    items, unreadable, error = read_text(tmp_path, text % wrong)

    assert (items, error) == ([{"a": 1}, {"a": 3}], None)
    assert unreadable[0].reason.startswith("not valid extended JSON")


@pytest.mark.parametrize("text", ['[{"a": 1}, %s, {"a": 3}]', '{"a": 1}\n%s\n{"a": 3}'])
def test_nesting_without_end_refuses_its_document(tmp_path: Path, text: str) -> None:
    deep = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"

    items, unreadable, error = read_text(tmp_path, text % deep, chunk_bytes=10_000)

    assert (items, error) == ([{"a": 1}, {"a": 3}], None)
    assert [each.reason for each in unreadable] == ["nested too deep"]


@pytest.mark.parametrize("text", ['[{"a": 1}, %s, {"a": 3}]', '{"a": 1}\n%s\n{"a": 3}', '{"a":\n1}\n%s\n{"a": 3}'])
def test_a_document_that_is_too_long_is_passed_over_in_bounded_memory(tmp_path: Path, text: str) -> None:
    limit = 1024 * 1024
    long = json.dumps({"a": 'x"{[' + "x" * (20 * limit)})
    path = tmp_path / "metadata.json"
    path.write_text(text % long, encoding="utf-8")
    del long

    tracemalloc.start()
    items, unreadable, error = read(path, chunk_bytes=64 * 1024, max_text_bytes=limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (items, error) == ([{"a": 1}, {"a": 3}], None)
    assert "MB of text; MongoDB stores at most 16 MB in a document" in unreadable[0].reason
    assert len(unreadable[0].excerpt) <= 500
    assert peak < 12 * limit


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number in range(200_000):
            file.write(f'{{"image_id": "{number:032}", "capture_timestamp": {number}}},\n')
        file.write('{"image_id": "last"}]')
    tracemalloc.start()
    count = sum(
        len(part.items) for part in read_documents(path, chunk_bytes=64 * 1024) if isinstance(part, Documents)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 200_001
    assert peak < 4 * 1024 * 1024 < path.stat().st_size / 3


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    assert "can't be opened" in (read(tmp_path / "none.json")[2] or "")
    assert "can't be opened" in (read(tmp_path)[2] or "")
