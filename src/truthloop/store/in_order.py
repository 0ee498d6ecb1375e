"""Reading all keys of blobs that a field of a collection names, in their order, without keeping them."""

from collections.abc import Iterator, Mapping
from typing import Any

from truthloop.store.connection import Document, Store

# Documents read at once.
PAGE = 1000


def in_order(
    store: Store, name: str, field: str, *, also: Mapping[str, Any] | None = None, fields: tuple[str, ...] = ()
) -> Iterator[Document]:
    """The documents whose field may hold a blob's key, in the order of that field.

    Each page is a query of its own, so none is ended by the server while whoever reads does something else. Of
    more than a page with one value only the first are given: a million jobs with one image cost one page.

    Args:
        store: the workspace.
        name: the collection.
        field: which has an index, unless another system has dropped it; then it takes long.
        also: what else the documents have to match.
        fields: which to give beside it.
    """
    last: Any = "0"  # a key begins with a digit or with a letter before `g`
    how = "$gte"
    while True:
        # A list would match by its elements, and stand in the order by them.
        which = {how: last, "$lt": "g", "$type": "string", "$not": {"$type": "array"}}
        with store.errors():
            found = store[name].find(
                {"$and": [also or {}, {field: which}]}, {"_id": 0, field: 1, **dict.fromkeys(fields, 1)}
            )
            page = found.sort(field, 1).limit(PAGE).to_list()
        yield from page
        if len(page) < PAGE:
            return
        last, how = page[-1], "$gt"
        for part in field.split("."):
            last = last[part]
