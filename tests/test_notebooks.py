"""Tests of notebooks/: each runs from first cell to last, at tiny scale; none holds outputs or paths."""

import pathlib
import re

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_notebook_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("TFSOUND_NOTEBOOK_STEPS", "2")
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert sum("<audio" in output.get("data", {}).get("text/html", "") for output in outputs) >= 3


def test_notebook_is_stored_clean(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
        assert not re.search(r"/(home|root|tmp|work|Users|mnt)/", cell.source)


def test_notebook_defines_no_algorithm(notebook):
    """No class, no loop of arithmetic: a function may only show something."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert not re.search(r"^\s*(class |@tf\.function)", code, re.MULTILINE)
    assert "GradientTape" not in code
    for definition in re.finditer(r"^def .*?(?=^\S)", code + "\n.", re.MULTILINE | re.DOTALL):
        assert "display(" in definition.group()
