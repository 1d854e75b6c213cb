"""Every notebook runs from top to bottom on the committed records, and is committed with its output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


def said(notebook: Any) -> list[Any]:
    """The text of every output."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [
        (output.get("text"), {k: v for k, v in output.get("data", {}).items() if k.startswith("text/")})
        for output in outputs
    ]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


# nbclient leaves sockets of its kernel to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path) -> None:
    """And says what it was committed saying; pictures may differ by a font."""
    notebook = nbformat.read(path, as_version=4)
    committed = said(notebook)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert said(notebook) == committed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_executed_and_defines_nothing(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert any(cell.outputs for cell in cells)
    for cell in cells:
        assert not any(line.startswith(("def ", "class ")) for line in cell.source.splitlines())
        assert len(cell.source.splitlines()) <= 12
