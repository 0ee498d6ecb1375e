"""The public Python API, as a notebook uses it."""

from pathlib import Path

import pytest

import truthloop
from truthloop.errors import WorkspaceNotFound
from truthloop.settings import Settings
from truthloop.store.connection import Store


@pytest.mark.usefixtures("store")
def test_open_gives_a_workspace_whose_results_show_as_tables(settings: Settings):
    with truthloop.open() as workspace:
        report = workspace.sample(images=20, seed=3)
        status = workspace.status()

        assert report.ok
        assert status.images == 20
        assert status.synthetic
        for answer in (report, status, workspace.images("processed"), workspace.events()):
            assert "<table>" in answer._repr_html_()


def test_open_without_create_makes_nothing(settings: Settings, tmp_path: Path):
    with pytest.raises(WorkspaceNotFound):
        truthloop.open(tmp_path / ".truthloop", create=False)

    assert list(tmp_path.iterdir()) == []


def test_recount_counts_everything_anew(store: Store, settings: Settings):
    with truthloop.open() as workspace:
        workspace.sample(images=20)
        before = workspace.status()
        store["truthloop.figures"].update_one({}, {"$set": {"states": {}}})

        after = workspace.status(recount=True)

    assert after.model_dump(exclude={"as_of"}) == before.model_dump(exclude={"as_of"})
