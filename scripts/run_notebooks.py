"""Run notebooks, and write their outputs into them: `run_notebooks.py [FILE ...]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"


def run(path: Path, timeout: float = 300) -> Any:
    """Run a notebook from its beginning, in a process and with a folder of its own.

    Args:
        path: The notebook; it is not changed.
        timeout: Seconds for each cell.

    Returns:
        The notebook with its outputs.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=timeout, resources=resources).execute()
    for cell in notebook.cells:
        # when it ran says nothing, and differs each time
        cell.metadata.pop("execution", None)
    return notebook


def main() -> None:
    """Run the notebooks that the command line names, or all."""
    for path in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        print(path.name, flush=True)
        nbformat.write(run(path), path)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
