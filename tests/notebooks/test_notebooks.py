"""The notebooks themselves: in order from a clean state, on odd studies, on real films."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from cells import NOTEBOOKS, run_cells
from PIL import Image

from cxrlib.data.study import read_study
from cxrlib.model import store
from execute import compare_checked, stilled

ROOT = NOTEBOOKS.parent
REAL = os.environ.get("CXR_DATA")
SMALL = {"image_size": 128, "backbone": "EfficientNetLite2", "layer": "stage5"}
pytestmark = [pytest.mark.notebooks, pytest.mark.tensorflow]


def facts(run):
    return json.loads((run / "run.json").read_text())


def assert_honest(run):
    """The interval holds the value, and no patient stands on both sides of the split."""
    kept, predictions = facts(run), pd.read_csv(run / "predictions.csv")
    auc = kept["metrics"]["test"]["auc"]
    assert 0 <= auc["low"] <= auc["value"] <= auc["high"] <= 1 and auc["low"] < auc["high"]
    sides = predictions.groupby("patient")["split"].agg(set)
    assert set.union(*sides) == {"train", "test"}
    assert sides.map(len).max() == 1
    test = predictions[predictions["split"] == "test"]
    assert kept["metrics"]["test"]["films"] == len(test)
    assert kept["metrics"]["test"]["patients"] == test["patient"].nunique()
    return kept


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
    run, out = tmp_path / "run", tmp_path / "out"
    small = SMALL | {"repeats": 1, "count": 32, "elsewhere": tmp_path / "site-b", "patients": 4}
    knobs = [word for name, value in small.items() for word in ("-p", name, str(value))]
    environment = {k: v for k, v in os.environ.items() if k not in ("CXR_DATA", "CXR_RUN")}
    done = subprocess.run(
        [sys.executable, NOTEBOOKS / "execute.py", "--run", run, "--out", out, *knobs],
        env=environment | {"CXR_NIH": str(nih)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-8_000:]
    assert done.stdout.splitlines()[-1].startswith("Test AUC 0.")
    assert "Unable to parse" not in done.stderr
    for source in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        executed = nbformat.read(out / source.name, as_version=4)
        compare_checked(source, stilled(executed))
    (listed,) = (
        cell for cell in nbformat.read(out / "06_scale.ipynb", 4).cells if "nih:" in cell.source
    )
    rows = re.findall(r"^(\w+) +(\d) +(\d)$", listed.outputs[0].data["text/plain"], re.M)
    assert rows == [("test", "2", "2"), ("train", "3", "3")], "by both of NIH's lists"
    assert 0.75 < assert_honest(run)["metrics"]["test"]["auc"]["value"] < 0.99
    assert (tmp_path / "run-scores.csv").exists() and (run / "summary.png").exists()


def test_nbval_finds_what_is_committed(tmp_path, medical):
    """With the bundled run, since nbval injects no parameters."""
    run = tmp_path / "run"
    shutil.copytree(medical / "models" / "cardiomegaly", run)
    environment = {k: v for k, v in os.environ.items() if k not in ("CXR_DATA", "PYTEST_ADDOPTS")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"),
            *("--nbval-lax", "--nbval-cell-timeout=600", "--nbval-current-env"),
            *(NOTEBOOKS / "01_explore.ipynb", NOTEBOOKS / "03_evaluate.ipynb"),
        ],
        cwd=ROOT,
        env=environment | {"CXR_RUN": str(run)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-4_000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 20


def test_exploring_loads_no_tensorflow(medical):
    code = (
        "import sys; sys.path.append(sys.argv[1]); from cells import run_cells; run_cells('01');"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "CXR_DATA"}
    command = [sys.executable, "-c", code, Path(__file__).parent]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_other_parameters_give_another_run(tmp_path, medical, monkeypatch):
    """With features that stay on disk, as those of more films than fit in memory do."""
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    knobs = {"finding": "effusion", "image_size": 160, "seed": 1}
    network = {"backbone": "EfficientNetLite2", "layer": "stage4"}
    study, run = tmp_path / "study", tmp_path / "run"
    shutil.copytree(medical, study, ignore=shutil.ignore_patterns("models"))
    names = sorted(path.stem for path in (study / "images").iterdir())
    entries = pd.DataFrame({"Image Index": [f"{name}.png" for name in names]})
    entries[["Patient ID", "Patient Gender", "View Position", "Finding Labels"]] = ""
    entries["Patient Age"] = [20 + number % 60 for number in range(len(names))]
    entries.to_csv(study / "Data_Entry_2017.csv", index=False)
    places = {"study": str(study), "run": str(run)}
    trained = run_cells("02", **places, **network, **knobs, at_most=120)
    assert isinstance(trained["features"], store.Rows)
    assert len(trained["by_hand"]) == 120 < len(trained["train"]) == len(trained["averaged"])
    run_cells("03", **places)
    run_cells("05", **places, repeats=1)
    # Training has not seen the study's own test patients, so they serve as another hospital.
    there = run_cells("09", **places, elsewhere=str(medical), local=10)
    assert there["derived"].folder.is_dir() and there["fewest"] >= 5
    kept = assert_honest(run)
    assert {name: kept[name] for name in knobs} == knobs | {"finding": "Effusion"}
    assert {name: kept["backbone"][name] for name in ("name", "layer")} == {
        "name": "EfficientNetLite2",
        "layer": "stage4",
    }
    for measured in kept["metrics"].values():
        groups = {(group["group"], group["name"]) for group in measured["subgroups"]}
        assert {("age", "0 to 39"), ("age", "40 to 59"), ("age", "60 and older")} <= groups
        assert {("sex", "F"), ("sex", "M")} <= groups  # of labels.csv, where entries say nothing


def films_of(study, most_in_test):
    """Return bundled films, with so many test films of each label at the most."""
    films = study.films.assign(ill=study.films["labels"].map(lambda x: "Cardiomegaly" in x))
    test = films[films["split"] == "test"].groupby("ill").head(most_in_test)
    return pd.concat([films[films["split"] == "train"].head(80), test])


def put_films(films, names, folder):
    (folder / "images").mkdir(parents=True)
    for path, name in zip(films["path"], names, strict=True):
        Image.open(path).resize((160, 160)).save(folder / "images" / name)


@pytest.fixture
def two_columns(study, tmp_path):
    """File name and label alone, patients named by letters, 12 test films."""
    films, folder = films_of(study, 25), tmp_path / "study"
    # Letters move patients to other sides: keep as many as give 12 test films.
    named = films.assign(name="PÄ" + films["filename"])
    put_films(named, named["name"], folder)
    label = np.where(named["ill"], "Nodule/Mass", "No Finding")
    table = pd.DataFrame({"filename": named["name"], "label": label})
    table.to_csv(folder / "labels.csv", index=False)
    sides = read_study(folder).films.set_index("filename")["split"]
    kept = table.assign(side=sides.reindex(table["filename"]).to_numpy(), label=label)
    test = kept[kept["side"] == "test"].groupby("label").head(6).index
    table.loc[kept.index[kept["side"] == "train"].union(test)].to_csv(
        folder / "labels.csv", index=False
    )
    return folder, {"finding": "nodule/mass"}


@pytest.fixture
def rare_view(study, tmp_path):
    """One AP film with the finding, boxes in training alone, other findings, films refused."""
    films, folder = films_of(study, 10), tmp_path / "study"
    put_films(films, films["filename"], folder)
    first = films["ill"].idxmax()
    rows = []
    for film in films.itertuples():
        view = "AP" if film.Index == first else "PA"
        for label in film.labels:
            label = {"Cardiomegaly": "Épaississement pleural"}.get(label, label)
            box = (20, 20, 90, 90) if film.split == "train" and film.ill else ("",) * 4
            rows.append((film.filename, label, *box, view))
    columns = ["filename", "label", "xmin", "ymin", "xmax", "ymax", "view"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "labels.csv", index=False)
    for film in films[films["split"] == "test"].head(1).itertuples():  # upside down
        path = folder / "images" / film.filename
        Image.open(path).rotate(180).save(path)
    return folder, {"finding": "Épaississement pleural", "against": "others"}


@pytest.fixture
def one_view(study, tmp_path):
    """PA films alone, boxes in test alone."""
    films, folder = films_of(study, 8), tmp_path / "study"
    films = films[films["ill"] | films["labels"].map(lambda labels: "No Finding" in labels)]
    put_films(films, films["filename"], folder)
    label = np.where(films["ill"], "Cardiomegaly", "No Finding")
    table = pd.DataFrame({"filename": films["filename"], "label": label, "view": "PA"})
    boxed = films["ill"] & films["split"].eq("test")
    for name, side in zip(("xmin", "ymin", "xmax", "ymax"), (20, 20, 90, 90), strict=True):
        table[name] = boxed.map({True: side})
    table.to_csv(folder / "labels.csv", index=False)
    return folder, {"finding": "CARDIOMEGALY"}


def assert_no_boxes(names, capsys):
    assert "needs boxes on both sides and is left out" in capsys.readouterr().out
    assert not names["has_boxes"]
    assert not {"locations", "gaps", "changed", "changes"} & names.keys(), "what needs boxes"


def test_one_view_and_boxes_in_test_alone_end_nothing(one_view, tmp_path, capsys):
    study, question = one_view
    places = {"study": str(study), "run": str(tmp_path / "run")}
    run_cells("02", **places, **SMALL, **question)
    run_cells("03", **places)
    groups = assert_honest(tmp_path / "run")["metrics"]["test"]["subgroups"]
    assert [group["name"] for group in groups if group["group"] == "view"] == ["PA"]
    assert "view" not in run_cells("05", **places, repeats=1)["models"].index
    assert_no_boxes(run_cells("08", **places), capsys)


def test_two_columns_are_enough(two_columns, medical, tmp_path, capsys):
    study, question = two_columns
    places = {"study": str(study), "run": str(tmp_path / "run")}
    run_cells("01", study=str(study), image_size=128, **question)
    run_cells("02", **places, **SMALL, **question)
    run_cells("03", **places)
    kept = assert_honest(tmp_path / "run")
    assert kept["finding"] == "Nodule/Mass" and kept["metrics"]["test"]["films"] == 12
    assert list(run_cells("05", **places, repeats=1)["models"].index) == ["image"]
    assert "Nothing in this table differs between films" in capsys.readouterr().out
    run_cells("07", **places)
    there = run_cells("09", **places, elsewhere=str(medical))  # it has no such finding
    assert there["fewest"] == 0
    assert "has no film with it" in capsys.readouterr().out
    assert not {"scores", "drop", "measured", "bought", "derived"} & there.keys()


def test_a_rare_view_boxes_on_one_side_and_refused_films_end_nothing(rare_view, tmp_path, capsys):
    study, question = rare_view
    places = {"study": str(study), "run": str(tmp_path / "run")}
    run_cells("01", study=str(study), image_size=128, finding=question["finding"])
    run_cells("02", **places, **SMALL, **question)
    run_cells("03", **places)
    assert assert_honest(tmp_path / "run")["negative"] == "all other films"
    inferred = run_cells("04", **places)
    assert (inferred["scores"]["status"] == "refused").any()
    row = inferred["one"].iloc[0]
    assert row["status"] == "ok" and row["path"] == inferred["film"]
    timed = run_cells("06", "LocalCluster(", **places, count=300)
    assert len(timed["films"]) < len(timed["scores"])
    assert_no_boxes(run_cells("08", **places), capsys)


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="CXR_DATA does not point to a folder of real radiographs")
def test_cardiomegaly_on_real_films(tmp_path):
    places = {"study": str(Path(REAL).resolve()), "run": str(tmp_path / "run")}
    run_cells("02", **places, finding="Cardiomegaly", seed=0)
    run_cells("03", **places)
    kept = assert_honest(tmp_path / "run")
    assert kept["metrics"]["train"]["auc"]["value"] >= 0.86, "cross-validated on training patients"
