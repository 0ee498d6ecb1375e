"""`truthloop sample`."""

from typing import Annotated

import typer

from truthloop.cli.options import Debug, Json, open_workspace
from truthloop.cli.screen import console


def make_sample(
    images: Annotated[
        int, typer.Option("--images", metavar="N", min=1, help="How many images to make up.")
    ] = 2000,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="The same seed makes the same data.")
    ] = 0,
    if_empty: Annotated[
        bool,
        typer.Option(
            "--if-empty", help="Leave what is there as it is; a sample that was cut short is made to its end."
        ),
    ] = False,
    photos: Annotated[
        bool,
        typer.Option(
            "--photos", help="Ingest real photographs that come with Python packages (extra: demo) instead."
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Fill a workspace with made-up data in the shape of a real export, with all of its faults.

    Makes the workspace where there is none. It is labelled synthetic wherever its figures are shown. Photographs
    are real, and real images don't stand in one workspace with made-up documents.
    """
    if photos:
        _ingest_photographs(as_json=as_json)
        return
    from truthloop.cli.load import answer, progress_bar

    with open_workspace(create=True) as workspace, progress_bar() as progress:
        report = workspace.sample(images=images, seed=seed, if_empty=if_empty, progress=progress)
    if report.items or as_json:
        answer(report, as_json=as_json)
    else:
        console().print("The workspace has documents already; no sample was made.")


def _ingest_photographs(*, as_json: bool) -> None:
    from truthloop.cli.ingest import answer, progress_bar
    from truthloop.ingest.photographs import photographs

    found = photographs()  # that they are missing is told before a workspace is made for them
    with open_workspace(create=True) as workspace, progress_bar() as progress:
        report = workspace.ingest(found, progress=progress)
    answer(report, as_json=as_json)
