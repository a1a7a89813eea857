"""The committed notebooks keep to the project's form: order of cells, outputs, size, no paths."""

import ast
import json
import re
from functools import cache
from pathlib import Path
from statistics import median

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from execute import parameters_of

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9][0-9]_*.ipynb"))
# The knobs each can use: training takes them all, later notebooks find the others in the run.
KNOBS = {
    "01_explore": {"study", "finding", "image_size", "seed"},
    "02_train": {
        *("study", "finding", "run", "seed"),
        *("image_size", "backbone", "weights", "learning_rate", "at_most"),
    },
    "03_evaluate": {"study", "run", "seed"},
    "04_infer": {"study", "run"},
    "05_audit": {"study", "run", "seed"},
    "06_scale": {"study", "run", "count", "price", "nih"},
    "07_decide": {"study", "run"},
    "08_evidence": {"study", "run", "seed"},
    "09_elsewhere": {"study", "run", "elsewhere", "patients", "seed"},
}
CHECKED = "nbval-check-output"
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.~:/-])/(home|root|tmp|work|workspace|Users|opt|mnt|media|usr|var|private|content)/\w"
    r"|(?<!\w)[A-Za-z]:[\\/]{1,2}\w+[\\/]"
)
EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,[\w+/=\s]+")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@cache
def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell):
    return cell.metadata.get("tags", [])


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
def test_opens_with_one_title_a_paragraph_and_the_minutes_it_takes(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    title, blank, paragraph, *_ = first.source.splitlines()
    assert title.startswith("# ") and not blank and paragraph[:1].isalpha()
    assert not re.search(r"^#", first.source[1:], re.M), "one title, and no heading below it"
    assert len(paragraph.split()) >= 10, "the paragraph says what the reader will know"
    assert "minute" in first.source and "two cores" in first.source


@every_notebook
def test_opens_with_a_picture_and_has_a_verdict_at_its_end(path):
    first, *others = read(path).cells
    ((text, place),) = re.findall(r"^!\[(.+)\]\((\S+)\)$", first.source, re.M)
    picture = path.parent / place
    assert len(text) > 30 and picture.suffix == ".png" and picture.is_file()
    if picture.parent.name == "pictures":
        assert picture.stem == path.stem and picture.stat().st_size < 60_000
        assert len([cell for cell in others if "picture" in tags(cell)]) == 1
    headings = re.findall(r"^## (.+)", "\n".join(cell.source for cell in others[-4:]), re.M)
    assert any(heading.startswith("Verdict") for heading in headings)


@every_notebook
def test_a_sitting_is_32_cells(path):
    assert len(read(path).cells) <= 32


@every_notebook
def test_imports_stand_in_one_cell_and_the_core_is_one_of_them(path):
    cells = code_cells(path)
    importing = [
        cell
        for cell in cells
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree(cell)))
    ]
    assert importing == cells[:1], "imports belong in the first code cell, and only there"
    assert "import cxrlib as cxr" in lines(cells[0])
    assert not re.search(r"from cxrlib\.(data|metrics|model|plots|widgets)", cells[0].source)


@every_notebook
def test_of_more_than_three_arguments_all_but_two_are_named(path):
    for cell in code_cells(path):
        calls = [node for node in ast.walk(tree(cell)) if isinstance(node, ast.Call)]
        long = [each for each in calls if len(each.args) + len(each.keywords) > 3]
        unnamed = [ast.unparse(call) for call in long if len(call.args) > 2]
        assert not [call for call in unnamed if not call.startswith("print(")]


@every_notebook
def test_no_cell_digs_in_the_facts_of_a_run(path):
    for cell in code_cells(path):
        assert "facts" not in cell.source, cell.source


@every_notebook
def test_one_parameters_cell_holds_the_knobs(path):
    assert len([cell for cell in read(path).cells if "parameters" in tags(cell)]) == 1
    assert parameters_of(path) >= KNOBS.get(path.stem, {"study"})


@every_notebook
def test_links_lead_to_files_of_the_project(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if not link.startswith("https://"):
            assert (path.parent / link.partition("#")[0]).is_file(), link
    at = NOTEBOOKS.index(path)
    neighbours = [*NOTEBOOKS[max(at - 1, 0) : at], *NOTEBOOKS[at + 1 : at + 2]]
    last = re.findall(r"\]\(([^)\s]+)\)", read(path).cells[-1].source.splitlines()[-1])
    assert last == [*(other.name for other in neighbours), "../docs/api.md"]


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
        shows = "print(" in cell.source or CHECKED in tags(cell)
        assert cell.outputs or not shows, f"no output under: {cell.source}"


@every_notebook
def test_something_is_checked(path):
    assert any(CHECKED in tags(cell) for cell in code_cells(path))


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
    imports, *cells = code_cells(path)
    lengths = [len(lines(cell)) for cell in cells if "parameters" not in tags(cell)]
    assert median(lengths) <= 5
    assert max(lengths) <= 10


@every_notebook
def test_below_every_figure_its_takeaway_comes_first_and_in_bold(path):
    cells = read(path).cells
    for number, cell in enumerate(cells):
        if cell.cell_type == "code" and "image/png" in mime_types(cell):
            below = next(c for c in cells[number + 1 :] if c.cell_type == "markdown")
            assert below.source.startswith("**"), cell.source
            beside = (cells[number - 1], cells[number + 1])
            assert "markdown" in {c.cell_type for c in beside}, cell.source


@every_notebook
def test_closes_with_what_to_try_next(path):
    last = read(path).cells[-1]
    text = last.source.rpartition("\n")[0]  # without the line of neighbours, which says Next
    assert last.cell_type == "markdown"
    assert re.search(r"\b(try|next)\b", text, re.IGNORECASE)


@every_notebook
def test_metadata_is_lean(path):
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in notebook.metadata
    assert not any("papermill" in cell.metadata for cell in notebook.cells)
    assert len(json.dumps(notebook.metadata.get("widgets", {}))) < 100_000
    assert path.stat().st_size < 1_500_000
