"""The notebook of the documentation runs from its first cell to its last, and shows what it says."""

from pathlib import Path

import pytest

from tests.helpers.waiting import PATIENCE

nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[dev]'")
nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[dev]'")

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_tables_curves_and_predictions(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = {cell.source.splitlines()[-1][:24]: shown_by(cell) for cell in code}
    board = next(text for source, text in shown.items() if source.startswith("found.leaderboard"))
    assert "val_ccc" in board and board.count("<tr>") == 3
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    predicted = shown_by(code[-1])
    assert "valence" in predicted and "start_seconds" in predicted and predicted.count("<tr>") == 3
    assert (tmp_path / "results" / "crnn" / "best" / "model.safetensors").exists()


def shown_by(cell):
    """The last output of a cell as HTML or text."""
    data = [output["data"] for output in cell.outputs if "data" in output]
    return (data[-1].get("text/html") or data[-1].get("text/plain", "")) if data else ""
