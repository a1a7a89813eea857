"""The notebooks themselves: in order from a clean state, with other parameters, on real films.

nbval runs as a process of its own because it injects no parameters: the environment names the run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import papermill
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
REAL = os.environ.get("CXR_DATA")
pytestmark = pytest.mark.notebooks


def facts(run):
    return json.loads((run / "run.json").read_text())


def train_and_evaluate(tmp_path, **knobs):
    """Execute 02 and 03 by papermill into a run of its own and return what it wrote."""
    run = tmp_path / "run"
    for name, names in {
        "02_train": knobs.keys(),
        "03_evaluate": knobs.keys() & {"study", "seed"},
    }.items():
        papermill.execute_notebook(
            NOTEBOOKS / f"{name}.ipynb",
            tmp_path / f"{name}.ipynb",
            {"run": str(run)} | {knob: knobs[knob] for knob in names},
            cwd=NOTEBOOKS,
        )
    return facts(run), pd.read_csv(run / "predictions.csv")


def assert_honest(run, predictions):
    """The interval holds the value, and no patient stands on both sides of the split."""
    auc = run["metrics"]["test"]["auc"]
    assert 0 <= auc["low"] < auc["value"] < auc["high"] <= 1
    sides = predictions.groupby("patient")["split"].agg(set)
    assert set.union(*sides) == {"train", "test"}
    assert sides.map(len).max() == 1
    test = predictions[predictions["split"] == "test"]
    assert run["metrics"]["test"]["films"] == len(test)
    assert run["metrics"]["test"]["patients"] == test["patient"].nunique()


@pytest.fixture
def nih(tmp_path):
    """A folder as NIH's: the table of entries and both lists."""
    folder = tmp_path / "nih"
    folder.mkdir()
    names = [f"{patient:08}_000.png" for patient in range(1, 6)]
    entries = pd.DataFrame({"Image Index": names, "Patient ID": range(1, 6)})
    entries[["Patient Age", "Patient Gender", "View Position", "Finding Labels"]] = ""
    entries.to_csv(folder / "Data_Entry_2017_v2020.csv", index=False)
    (folder / "train_val_list.txt").write_text("\n".join(names[:3]))
    (folder / "test_list.txt").write_text("\n".join(names[3:]))
    return folder


def test_the_series_runs_in_order_from_a_clean_state(tmp_path, nih):
    run = tmp_path / "run"
    environment = {k: v for k, v in os.environ.items() if k not in ("CXR_DATA", "PYTEST_ADDOPTS")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"),
            *("--nbval-lax", "--nbval-cell-timeout=600", "--nbval-current-env"),
            *sorted(NOTEBOOKS.glob("0[1-6]_*.ipynb")),
        ],
        cwd=ROOT,
        env=environment | {"CXR_RUN": str(run), "CXR_NIH": str(nih)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-4_000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40
    assert 0.85 < facts(run)["metrics"]["test"]["auc"]["value"] < 0.98


def test_other_parameters_give_another_run(tmp_path):
    knobs = {"finding": "Effusion", "image_size": 192, "seed": 1}
    study = tmp_path / "study"
    shutil.copytree(ROOT / "medical", study, ignore=shutil.ignore_patterns("models"))
    names = sorted(path.stem for path in (study / "images").iterdir())
    entries = pd.DataFrame({"Image Index": [f"{name}.png" for name in names]})
    entries[["Patient ID", "Patient Gender", "View Position", "Finding Labels"]] = ""
    entries["Patient Age"] = [20 + number % 60 for number in range(len(names))]
    entries.to_csv(study / "Data_Entry_2017.csv", index=False)
    run, predictions = train_and_evaluate(tmp_path, study=str(study), layer="mixed4", **knobs)
    assert {name: run[name] for name in knobs} == knobs
    assert run["backbone"]["layer"] == "mixed4"
    for measured in run["metrics"].values():
        groups = {(group["group"], group["name"]) for group in measured["subgroups"]}
        assert {("age", "0 to 39"), ("age", "40 to 59"), ("age", "60 and older")} <= groups
        assert {("sex", "F"), ("sex", "M")} <= groups  # of labels.csv, where entries say nothing
    assert_honest(run, predictions)


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="CXR_DATA does not point to a folder of real radiographs")
def test_cardiomegaly_on_real_films(tmp_path):
    study = str(Path(REAL).resolve())
    run, predictions = train_and_evaluate(tmp_path, study=study, finding="Cardiomegaly", seed=0)
    assert_honest(run, predictions)
    assert run["metrics"]["train"]["auc"]["value"] >= 0.86, "cross-validated on training patients"
