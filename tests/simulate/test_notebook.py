"""docs/simulation.ipynb runs from top to bottom, and is stored without what a run has printed."""

from pathlib import Path

import nbclient
import nbformat
import pytest

from api.service import TOKEN

NOTEBOOK = Path(__file__).parents[2] / "docs" / "simulation.ipynb"


# Of Jupyter's own libraries.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_and_draws_its_figures(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRUTHLOOP_URL", address)
    monkeypatch.setenv("TRUTHLOOP_TOKEN", TOKEN)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    shown = "".join(output.get("data", {}).get("text/plain", "") for output in outputs)
    assert ") created: created" in shown


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    assert [cell.outputs for cell in notebook.cells if cell.get("outputs")] == []
