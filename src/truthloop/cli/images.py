"""`truthloop images`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace
from truthloop.cli.screen import console, counting, print_whole, tell_of_more, write, write_json
from truthloop.monitor.documents import ImageItem, ImagePage, State

if TYPE_CHECKING:
    from truthloop.workspace import Workspace

DEFAULT_LIMIT = 50


def list_images(
    state: Annotated[
        State | None,
        typer.Option("--state", metavar="STATE", help=f"What must be true of them: {', '.join(State)}."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")] = DEFAULT_LIMIT,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Go on after this, the `next` of an earlier list.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="List all, one a line; --limit is ignored.")] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """List the images, or those behind a figure of the status, in the order of their ids.

    Into a pipe: one image a line, its id, a tab and its states. With `--json` one document, `items` and `next`;
    with `--all --json` one image a line.
    """
    with open_workspace(create=False) as workspace:
        if everything:
            for page in _pages(workspace, state, after, limit=None):
                for item in page.items:
                    write_json(item, one_line=True) if as_json else write(_line(item))
            return
        pages = list(_pages(workspace, state, after, limit=limit))
    page = ImagePage(items=[item for page in pages for item in page.items], next=pages[-1].next)
    if as_json:
        write_json(page)
    elif console().is_terminal:
        _show(page, state)
    else:
        for item in page.items:
            write(_line(item))
    if page.next is not None and not as_json:
        tell_of_more("images", page.next, limit=limit, default_limit=DEFAULT_LIMIT, state=state)


def _pages(
    workspace: "Workspace", state: State | None, after: str | None, *, limit: int | None
) -> Iterator[ImagePage]:
    """The pages of a list, until it ends or has `limit` images."""
    from truthloop.monitor.status import MAX_LIMIT

    left = limit
    while True:
        with counting() as progress:
            wanted = min(left or MAX_LIMIT, MAX_LIMIT)  # a greater limit is made of several pages
            page = workspace.images(state, limit=wanted, after=after, progress=progress)
        yield page
        left = left - len(page.items) if left is not None else None
        if page.next is None or left == 0:
            return
        after = page.next


def _line(item: ImageItem) -> str:
    return f"{item.image_id}\t{','.join(item.states)}"


def _show(page: ImagePage, state: State | None) -> None:
    from rich.table import Table
    from rich.text import Text

    if not page.items:
        console().print(f"No image is {state}." if state else "There are no images.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("image", no_wrap=True)
    table.add_column("states")
    for item in page.items:
        table.add_row(Text(item.image_id), ", ".join(item.states))
    print_whole(table)
