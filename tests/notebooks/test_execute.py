"""notebooks/execute.py on small notebooks of its own: what it passes on, keeps and prints."""

import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import unicodedata
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from PIL import Image

from execute import folder_name, strip

EXECUTE = Path(__file__).parents[2] / "notebooks" / "execute.py"
TRAIN = """\
import json, pathlib, sys
from tqdm.auto import tqdm
for epoch in tqdm(range(3), desc="epochs"): pass
auc = {"value": 0.93, "low": 0.87, "high": 0.98}
pathlib.Path(run).mkdir(parents=True, exist_ok=True)
facts = {"finding": finding, "rate": rate, "study": study, "python": sys.executable}
facts["metrics"] = {"test": {"auc": auc, "films": 61, "patients": 32}}
pathlib.Path(run, "run.json").write_text(json.dumps(facts))"""


def notebook(parameters, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in (f"import os\n{parameters}", *sources)]
    cells[0].metadata.tags = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def project(tmp_path):
    """A project of two notebooks beside a copy of execute.py."""
    folder = tmp_path / "project" / "notebooks"
    folder.mkdir(parents=True)
    shutil.copy(EXECUTE, folder)
    run = 'run = os.environ.get("CXR_RUN", "../runs/cardiomegaly")'
    study = 'study = os.environ.get("CXR_DATA", "../medical")'
    train = notebook(f'{run}\n{study}\nfinding = "Cardiomegaly"\nrate = 0.1', TRAIN)
    nbformat.write(train, folder / "02_train.ipynb")
    evaluate = notebook(run, "print(os.path.exists(run))")
    evaluate.cells.insert(1, nbformat.v4.new_markdown_cell("Text\n\n## Is it good?\n\nMore"))
    nbformat.write(evaluate, folder / "03_evaluate.ipynb")
    return folder.parent


@pytest.fixture
def training(project):
    """The same without the second notebook, for what the first one tells: a kernel less."""
    (project / "notebooks" / "03_evaluate.ipynb").unlink()
    return project


def execute(project, *arguments, **variables):
    """Run execute.py in this process, which has imported papermill already; kernels are real."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(project)
        patch.setattr(sys, "argv", ["execute.py", *arguments])
        for name in ("CXR_DATA", "CXR_RUN"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            runpy.run_path("notebooks/execute.py", run_name="__main__")
        except SystemExit as ended:
            code = 1
            print(ended.code, file=err)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def facts(project, run="cardiomegaly"):
    return json.loads((project / "runs" / run / "run.json").read_text())


def test_ends_with_the_auc_and_leaves_executed_notebooks(project):
    command = [sys.executable, "notebooks/execute.py"]
    clean = {k: v for k, v in os.environ.items() if k not in ("CXR_DATA", "CXR_RUN")}
    done = subprocess.run(command, cwd=project, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Test AUC 0.93 (95 % interval 0.87 to 0.98), 61 films of 32 patients." in done.stdout
    assert "Read runs/notebooks/03_evaluate.html; the run is in runs/cardiomegaly." in done.stdout
    first, *each = done.stdout.splitlines()[:-1]
    assert first.startswith("Executing 2 notebooks into runs/notebooks.") and "minutes" in first
    clock = r"\d+:\d\d, (about \d+ min|less than a minute) left "
    expected = [rf"{clock} starting", rf"{clock} Is it good\?", r"\d+ s"]
    names = ["1/2] 02_train.ipynb"] * 2 + ["2/2] 03_evaluate.ipynb"] * 3
    ends = [expected[0], expected[2], *expected]  # the first one has no heading
    for line, name, end in zip(each, names, ends, strict=True):
        assert re.fullmatch(rf"\[{re.escape(name)}(  |: ){end}", line), line
    assert "\r" not in done.stdout
    assert (project / "runs/notebooks/03_evaluate.html").stat().st_size > 1000
    executed = nbformat.read(project / "runs/notebooks/03_evaluate.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "True\n"


def test_on_a_terminal_one_line_is_renewed(project):
    (project / "notebooks" / "02_train.ipynb").unlink()
    (project / "runs" / "cardiomegaly").mkdir(parents=True)
    metrics = {"test": {"auc": dict.fromkeys(("value", "low", "high"), 1), "films": 2}}
    metrics["test"]["patients"] = 2
    facts = json.dumps({"metrics": metrics})
    (project / "runs" / "cardiomegaly" / "run.json").write_text(facts)
    here, there = os.openpty()
    command = [sys.executable, "notebooks/execute.py"]
    running = subprocess.Popen(command, cwd=project, stdout=there, stderr=there)
    os.close(there)
    shown = b""
    with suppress(OSError):  # the other end is closed: Linux calls that an error
        while piece := os.read(here, 1000):
            shown += piece
    assert running.wait() == 0, shown
    lines = shown.decode().replace("\r\n", "\n").split("\n")
    states = lines[1].split("\r\x1b[K")
    assert len(lines) == 4 and len(states) > 3 and all(len(state) < 80 for state in states)
    assert any(state.endswith("Is it good?") for state in states)
    assert re.fullmatch(r"\[1/1\] 03_evaluate\.ipynb: \d+ s", states[-1])


def test_a_page_finds_the_pictures_and_pages_that_the_text_names(project):
    source = project / "notebooks" / "03_evaluate.ipynb"
    made = nbformat.read(source, as_version=4)
    (project / "docs").mkdir()
    for name in ("film.png", "page.md"):
        (project / "docs" / name).write_bytes(b"x")
    (project / "notebooks" / "pictures").mkdir()
    (project / "notebooks" / "pictures" / "own.png").write_bytes(b"x")
    text = "![a film](../docs/film.png) [a page](../docs/page.md) ![its own](pictures/own.png)"
    made.cells.append(nbformat.v4.new_markdown_cell(text))
    nbformat.write(made, source)
    assert execute(project).returncode == 0
    page = project / "runs" / "notebooks" / "03_evaluate.html"
    named = re.findall(r'(?:src|href)="([^"]*(?:docs|pictures)/[^"]+)"', page.read_text())
    assert len(named) == 3 and all((page.parent / name).exists() for name in named)


def test_what_an_interrupted_series_left_of_another_run_does_not_stop_this_one(training):
    left = training / "runs" / "mine-scores.csv.parts"
    left.mkdir(parents=True)
    (left / "plan.json").write_text("of another run")
    assert execute(training, CXR_RUN="runs/mine").returncode == 0
    assert not left.exists()


def test_parameters_reach_only_the_notebooks_that_have_them(project):
    done = execute(project, "--finding", "Effusion", "--study", "films", "-p", "rate", "3e-4")
    assert done.returncode == 0, done.stderr
    assert "unknown parameter" not in done.stderr
    kept = facts(project, "effusion")
    assert (kept["finding"], kept["rate"]) == ("Effusion", 3e-4)
    assert kept["study"] == str(project / "films")
    assert not (project / "runs" / "cardiomegaly").exists()


def test_relative_folders_in_the_environment_start_where_make_is_called(training):
    done = execute(training, CXR_DATA="films", CXR_RUN="runs/mine")
    assert done.returncode == 0, done.stderr
    assert facts(training, "mine")["study"] == str(training / "films")


def test_an_unknown_parameter_is_refused_before_anything_runs(project):
    done = execute(project, "-p", "lerning_rate", "1")
    assert done.returncode != 0 and "No notebook has a parameter named lerning_rate." in done.stderr
    assert not (project / "runs").exists()


def test_findings_have_folders_of_their_own_and_none_lies_in_another(project):
    findings = ["Nodule", "Nodule/Mass", "Nodule_Mass", "Mass", "Épanchement", "Epanchement"]
    findings += ["..", ".", "/", "肺炎", "a\\b", "$(x)", "Notebooks", "features", "x" * 300]
    folders = [folder_name(finding) for finding in findings]
    assert len(set(folders)) == len(folders)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,80}", folder) for folder in folders)
    assert not {"notebooks", "features", "checkpoints"} & set(folders)
    same = ["Pleural Thickening", "pleural_thickening", "pleural-thickening ", "PLEURAL THICKENING"]
    assert {folder_name(finding) for finding in same} == {"pleural_thickening"}
    decomposed = unicodedata.normalize("NFD", "Épanchement")
    assert folder_name(decomposed) == folder_name("Épanchement")


def test_any_finding_reaches_the_notebooks_word_for_word_and_stays_in_runs(training):
    finding = "../../Épaississement/x'$(touch y)\"`"
    done = execute(training, "--finding", finding)
    assert done.returncode == 0, done.stderr
    assert facts(training, folder_name(finding))["finding"] == finding
    assert {path.name for path in training.iterdir()} == {"notebooks", "runs"}
    assert [path.name for path in training.parent.iterdir()] == ["project"]
    assert {path.name for path in (training / "runs").iterdir()} == {
        *("notebooks", folder_name(finding))
    }


def test_a_checked_cell_that_shows_something_else_fails_the_series(project):
    source = project / "notebooks" / "03_evaluate.ipynb"
    made = nbformat.read(source, as_version=4)
    made.cells[-1].metadata.tags = ["nbval-check-output"]
    made.cells[-1].outputs = [nbformat.v4.new_output("stream", text="False\n")]
    nbformat.write(made, source)
    done = execute(project)
    assert done.returncode != 0 and "Test AUC" not in done.stdout
    assert "03_evaluate.ipynb: a checked cell" in done.stderr and "now: True" in done.stderr


def test_a_run_that_is_not_the_bundled_one_fails_the_series(training):
    bundled = training / "medical" / "models" / "cardiomegaly"
    bundled.mkdir(parents=True)
    (bundled / "run.json").write_text('{"metrics": {"test": {"auc": {"value": 0.99}}}}')
    done = execute(training)
    assert "The test AUC is 0.930, that of the bundled run 0.990." in done.stderr
    assert done.returncode != 0


def test_the_first_failure_is_named_and_what_ran_is_kept(project):
    broken = notebook('run = "x"', "print('before')", "1 / 0", "print('after')")
    nbformat.write(broken, project / "notebooks" / "01_explore.ipynb")
    done = execute(project)
    assert done.returncode != 0 and "01_explore.ipynb failed" in done.stderr
    assert "ZeroDivisionError" in done.stderr and "Test AUC" not in done.stdout
    kept = (project / "runs" / "notebooks" / "01_explore.ipynb").read_text()
    assert "before\\n" in kept and "after\\n" not in kept
    assert not (project / "runs" / "notebooks" / "02_train.ipynb").exists()


def test_in_place_twice_changes_nothing_the_second_time(project):
    sources = sorted(project.glob("notebooks/*.ipynb"))
    assert execute(project, "--in-place").returncode == 0
    first = [path.read_text() for path in sources]
    assert execute(project, "--in-place").returncode == 0
    assert [path.read_text() for path in sources] == first
    for text in first:
        assert not any(
            word in text
            for word in ("papermill", "injected", "iopub", "epochs: ", "widget", str(project))
        )
    assert '"execution_count": 2' in first[0] and '"parameters"' in first[0]
    refused = execute(project, "--in-place", "--finding", "Effusion")
    assert refused.returncode != 0 and "--in-place" in refused.stderr


WIDGET = """\
import pandas as pd
from cxrlib import Explorer
films = {"target": [0, 1], "probability": [0.2, 0.9], "patient": ["a", "b"]}
Explorer(pd.DataFrame(films), 0.5)"""


def test_a_widget_leaves_its_still_figure_and_no_live_view(project):
    source = project / "notebooks" / "03_evaluate.ipynb"
    made = nbformat.read(source, as_version=4)
    made.cells.append(nbformat.v4.new_code_cell(WIDGET, metadata={"tags": ["picture"]}))
    nbformat.write(made, source)
    done = execute(project, "--in-place")
    assert done.returncode == 0, done.stderr
    text, page = source.read_text(), (project / "runs/notebooks/03_evaluate.html").read_text()
    assert '"image/png"' in text and 'src="data:image/png' in page
    with Image.open(project / "notebooks" / "pictures" / "03_evaluate.png") as picture:
        assert picture.width > 1000
    for written in (text, page):
        assert "jupyter.widget" not in written


def test_state_and_paths_are_taken_out(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_NIH", "/data/nih")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/someone"))
    paths = [
        "/data/hospital/films",
        "/data/nih/lists",
        f"{EXECUTE.parents[1]}/runs",
        "/home/someone/x",
    ]
    cell = nbformat.v4.new_code_cell(f"paths = {paths}")
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "7"}, "text/plain": "Browser"}
    cell.outputs = [nbformat.v4.new_output("display_data", data=view)]
    state = {"application/vnd.jupyter.widget-state+json": {"film": "patient 00060077"}}
    metadata = {"widgets": state, "papermill": {"input_path": "/data/a.ipynb"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), tmp_path / "a.ipynb")
    strip(tmp_path / "a.ipynb", ["/data/hospital/films", None])
    (kept,) = (made := nbformat.read(tmp_path / "a.ipynb", as_version=4)).cells
    assert kept.source == "paths = ['films', 'nih/lists', '../runs', '~/x']"
    assert kept.outputs[0].data == {"text/plain": "Browser"} and made.metadata == {}


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_kept_under_runs_tells_of_no_patient_and_no_path(project, tmp_path, fails):
    source = project / "notebooks" / "03_evaluate.ipynb"
    made = nbformat.read(source, as_version=4)
    made.cells[0].source += "\nstudy = ''  # a == b"
    state = "import ipywidgets\nipywidgets.HTML('patient 00060077')"
    raised = "raise OSError(os.getcwd() + ' and ' + study)" if fails else "study"
    made.cells += [nbformat.v4.new_code_cell(text) for text in (state, raised)]
    nbformat.write(made, source)
    films = tmp_path / "hospital" / "films"
    done = execute(project, "--study", str(films), HOME=str(tmp_path))
    assert ("03_evaluate.ipynb failed" in done.stderr) == fails == bool(done.returncode)
    assert "Unable to parse" not in done.stderr
    kept = [path for path in (project / "runs" / "notebooks").iterdir()]
    assert len(kept) == (3 if fails else 4)
    for path in kept:
        text = path.read_text()
        assert "00060077</" not in text and "jupyter.widget" not in text
        assert str(tmp_path) not in text
    assert "films" in (project / "runs" / "notebooks" / "03_evaluate.ipynb").read_text()


def test_kernels_run_in_this_environment_whatever_the_user_has_installed(training, tmp_path):
    own = tmp_path / "jupyter" / "kernels" / "python3"
    own.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}
    (own / "kernel.json").write_text(json.dumps(spec))
    done = execute(training, PATH="/usr/bin:/bin", JUPYTER_DATA_DIR=str(tmp_path / "jupyter"))
    assert done.returncode == 0, done.stderr
    assert facts(training)["python"] == sys.executable
