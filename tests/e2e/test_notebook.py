"""The notebook of the docs runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.tiny import write_bundle

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.e2e
def test_the_notebook_makes_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQVDM_BUNDLE", str(write_bundle(tmp_path / "bundle")))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(REPOSITORY / "docs" / "generate.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "keep it without outputs"
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output["data"].get("text/plain", "") for output in shown if "data" in output]
    assert "((2, 16, 32, 32, 3), dtype('uint8'))" in texts
    assert any("image/gif" in output["data"] for output in shown if "data" in output)
