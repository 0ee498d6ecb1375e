"""The notes file: every document that is stored as it came and is worth a look, one a line."""

from collections.abc import Iterable, Iterator

import orjson

from truthloop.ingest.documents import NULL, OUTSIDE, SWAPPED, Prepared
from truthloop.ingest.rejects import place

_MARKS = {NULL: "no_face", SWAPPED: "swapped", OUTSIDE: "outside"}


def marked_lines(file: str, collection: str, documents: Iterable[tuple[int, Prepared]]) -> Iterator[str]:
    """The notes on marked documents, each given with its number in the file, from 0."""
    for index, prepared in documents:
        for bit, what in _MARKS.items():
            if prepared.marks & bit:
                yield _line(file, collection, index, prepared.image_id, what)


def unknown_lines(file: str, collection: str, images: Iterable[tuple[int, str]]) -> Iterator[str]:
    """The notes on ids that aren't in metadata, each given with the number of the first document that has it."""
    for index, image_id in images:
        yield _line(file, collection, index, image_id, "unknown_image")


def _line(file: str, collection: str, index: int, image_id: str, what: str) -> str:
    note = {"file": file, "collection": collection, "place": place(index, ""), "image_id": image_id, "what": what}
    return orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE).decode()
