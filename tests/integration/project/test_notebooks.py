"""The notebooks run from their beginning to their end, and their outputs are committed."""

from pathlib import Path

import nbformat
import pytest
from run_notebooks import run

FOLDER = Path(__file__).parents[3] / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    """Return what kinds of output each cell has."""
    return [{output.output_type for output in cell.outputs} for cell in code_cells(notebook)]


def test_there_are_some():
    assert {"quick_start", "eight_agents"} <= {*NOTEBOOKS}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_shows_what_is_committed(name):
    committed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert [c.execution_count for c in code_cells(committed)] == [
        i + 1 for i in range(len(code_cells(committed)))
    ]
    # texts may differ in a word from machine to machine, kinds do not
    assert outputs(run(FOLDER / f"{name}.ipynb")) == outputs(committed)
