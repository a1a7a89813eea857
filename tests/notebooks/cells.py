"""The cells of a notebook, run in this process: a kernel each would cost most of the time."""

import os
from contextlib import chdir
from pathlib import Path

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import pyplot as plt
from traitlets.config import Config

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NO_HISTORY = Config({"HistoryManager": {"enabled": False}})


def run_cells(name: str, before: str = "no such text", **knobs) -> dict:
    """Run a notebook's code cells, with knobs in the place of its parameters; return its names.

    `before` ends it at the first cell with that text behind the imports.
    """
    (path,) = NOTEBOOKS.glob(f"{name}*.ipynb")
    shell = InteractiveShell(config=NO_HISTORY)
    os.environ.setdefault("MPLBACKEND", "agg")
    with chdir(NOTEBOOKS):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                if before in cell.source and "import " not in cell.source:
                    break
                shell.run_cell(cell.source).raise_error()
                plt.close("all")
            if "parameters" in cell.metadata.get("tags", []):
                assert knobs.keys() <= shell.user_ns.keys(), "a knob is misspelt"
                shell.user_ns.update(knobs)
    return shell.user_ns
