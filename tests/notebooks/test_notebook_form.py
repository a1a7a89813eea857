"""The committed notebooks keep to the project's form: order of cells, outputs, size, no paths."""

import ast
import json
import re
from pathlib import Path
from statistics import median

import nbformat
import papermill
import pytest
from IPython.core.inputtransformer2 import TransformerManager

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9][0-9]_*.ipynb"))
# The knobs each can use: training takes them all, later notebooks find the others in the run.
KNOBS = {
    "01_explore": {"study", "finding", "image_size", "seed"},
    "02_train": {
        *("study", "finding", "run", "seed"),
        *("image_size", "backbone", "weights", "learning_rate"),
    },
    "03_evaluate": {"study", "run", "seed"},
    "04_infer": {"study", "run"},
    "06_scale": {"study", "run", "count", "price", "nih"},
}
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.~:/-])/(home|root|tmp|work|workspace|Users|opt|mnt|media|usr|var|private|content)/\w"
    r"|(?<!\w)[A-Za-z]:[\\/]{1,2}\w+[\\/]"
)
EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,[\w+/=\s]+")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code" and cell.source.strip()]


def lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def tree(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def mime_types(cell):
    return {mime for output in cell.outputs for mime in output.get("data", {})}


def texts(cell):
    """Yield the source and every text of the outputs, without pictures embedded in it."""
    yield cell.source
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        for mime, data in output.get("data", {}).items():
            if not mime.startswith("image/") or mime == "image/svg+xml":
                yield EMBEDDED.sub("", data if isinstance(data, str) else json.dumps(data))


def test_the_series_is_there():
    assert {path.stem for path in NOTEBOOKS} >= KNOBS.keys()


@every_notebook
def test_opens_with_one_title_and_a_paragraph(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    titles = [line for line in first.source.splitlines() if line.startswith("# ")]
    assert len(titles) == 1 and first.source.startswith(titles[0])
    prose = [line for line in first.source.splitlines()[1:] if not line.startswith("#")]
    assert len(" ".join(prose).split()) >= 10, "the paragraph says what the reader will know"


@every_notebook
def test_imports_stand_in_one_cell_that_ends_with_the_versions(path):
    cells = code_cells(path)
    importing = [
        cell
        for cell in cells
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree(cell)))
    ]
    assert importing == cells[:1], "imports belong in the first code cell, and only there"
    assert "version" in lines(cells[0])[-1]
    printed = "".join(
        output.get("text", "") or str(output.get("data")) for output in cells[0].outputs
    )
    assert re.search(r"\d+\.\d+\.\d+", printed), "the imports cell shows versions"


@every_notebook
def test_one_parameters_cell_holds_the_knobs(path):
    tagged = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = papermill.inspect_notebook(path).keys()
    assert names >= KNOBS.get(path.stem, {"study"})


@every_notebook
def test_every_cell_was_executed_once_in_order(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@every_notebook
def test_outputs_hold_no_error_no_stderr_and_no_dead_progress_bar(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.text
            assert not re.search(r"\d%\|", output.get("data", {}).get("text/plain", "")), (
                cell.source
            )


@every_notebook
def test_outputs_are_committed(path):
    cells = code_cells(path)
    assert any({"image/png", "text/html"} & mime_types(cell) for cell in cells)
    for cell in cells:
        shows = "print(" in cell.source or "NBVAL_CHECK_OUTPUT" in cell.source
        assert cell.outputs or not shows, f"no output under: {cell.source}"


@every_notebook
def test_something_is_checked(path):
    assert any("NBVAL_CHECK_OUTPUT" in cell.source for cell in code_cells(path))


@every_notebook
def test_no_absolute_path(path):
    for cell in read(path).cells:
        for text in texts(cell):
            found = ABSOLUTE_PATH.search(text)
            assert not found, f"{found.group()} in: {text[:200]}"


@pytest.mark.parametrize("folder", ["home", "root", "tmp", "work", "Users"])
@pytest.mark.parametrize("text", ["/{}/x.csv", "see /{}/x", '"/{}/x"', r"C:\{}\x"])
def test_absolute_paths_are_recognised(text, folder):
    assert ABSOLUTE_PATH.search(text.format(folder))


@pytest.mark.parametrize(
    "text",
    ["../medical", "sensitivity/specificity", "https://a.b/home/x", "runs/home/x", "AP: 3/4"],
)
def test_other_slashes_are_left_alone(text):
    assert not ABSOLUTE_PATH.search(text)


@every_notebook
def test_code_cells_are_short(path):
    lengths = [len(lines(cell)) for cell in code_cells(path)]
    assert median(lengths) <= 5
    assert max(lengths) <= 12


@every_notebook
def test_every_figure_has_prose_beside_it(path):
    cells = read(path).cells
    for number, cell in enumerate(cells):
        if cell.cell_type == "code" and "image/png" in mime_types(cell):
            beside = [cells[number - 1], *cells[number + 1 : number + 2]]
            prose = [c.source for c in beside if c.cell_type == "markdown"]
            assert any(re.search(r"\w[.?:)]\s*$", text) for text in prose), cell.source


@every_notebook
def test_closes_with_what_to_try_next(path):
    last = read(path).cells[-1]
    assert last.cell_type == "markdown"
    assert re.search(r"\b(try|next)\b", last.source, re.IGNORECASE)


@every_notebook
def test_metadata_is_lean(path):
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in notebook.metadata
    assert not any("papermill" in cell.metadata for cell in notebook.cells)
    assert len(json.dumps(notebook.metadata.get("widgets", {}))) < 100_000
    assert path.stat().st_size < 1_500_000
