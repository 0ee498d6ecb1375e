"""docs/simulation.ipynb runs from top to bottom as a user opens it, and is stored with what a run has shown."""

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from api.service import TOKEN
from truthloop.cli import place

NOTEBOOK = Path(__file__).parents[2] / "docs" / "simulation.ipynb"
MAX_BYTES = 150_000

# Of Jupyter's own libraries.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that Jupyter works in; the workspace is in the one above it."""
    for name in ("URL", "TOKEN", "HOME"):
        monkeypatch.delenv(f"TRUTHLOOP_{name}", raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / ".truthloop").mkdir()
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def run(notebook: Any, folder: Path) -> None:
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def assert_shows_a_run(notebook: Any) -> None:
    assert [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    shown = "".join(output.get("data", {}).get("text/plain", "") for output in outputs(notebook))
    assert ") created: created" in shown
    assert "'lost': []" in shown


def test_the_notebook_finds_the_service_of_the_folder_above_runs_and_draws_its_figures(address: str, docs: Path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    home = docs.parent / ".truthloop"

    with place.claim(home, address):
        place.write_private(home / "token", TOKEN + "\n")
        run(notebook, docs)

    assert_shows_a_run(notebook)


def test_the_notebook_says_what_to_do_where_no_service_runs(docs: Path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    with pytest.raises(nbclient.exceptions.CellExecutionError) as caught:
        run(notebook, docs)

    assert f"No service runs for the workspace {docs.parent / '.truthloop'}" in str(caught.value)
    assert "truthloop up --detach" in str(caught.value)


def test_the_notebook_is_stored_with_what_a_run_has_shown():
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    assert_shows_a_run(notebook)
    assert [output for output in outputs(notebook) if output.output_type in ("error", "stream")] == []
    assert NOTEBOOK.stat().st_size < MAX_BYTES
