"""A second study is scored without the patients of training, and a run recalibrated on it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import logit

from cxrlib.audit.recalibrate import recalibrate
from cxrlib.data.study import StudyError, choose_films
from cxrlib.model.backbone import extract_features, join, load_backbone
from cxrlib.model.elsewhere import score_study
from cxrlib.model.facts import RunError
from cxrlib.model.head import fit_head
from cxrlib.model.predict import score_films
from cxrlib.model.save import save_run


@pytest.fixture(scope="module")
def runs(study, tmp_path_factory):
    """A run of each stage, of a small random backbone."""
    films = choose_films(study, "Cardiomegaly")
    train = films[films["split"] == "train"]
    backbone = load_backbone("MobileNetV2", None, 32, "Conv1")
    fitted = fit_head(extract_features(backbone, train["path"], grid=4), train)
    known = np.where(fitted.fold == 0, fitted.probability, np.nan)
    whole = {"stage": "finetuned", "model": join(backbone, fitted.model), "probability": known}
    made = {}
    for stage, model in {"head": fitted, "finetuned": replace(fitted, **whole)}.items():
        folder = tmp_path_factory.mktemp(stage) / "parent"
        made[stage] = save_run(folder, study, films, "Cardiomegaly", backbone, model)
    return made


@pytest.fixture(scope="module")
def place(study, tmp_path_factory):
    """The test patients as another study: one film is unreadable, one is not a chest."""
    films = study.films[study.films["split"] == "test"].reset_index(drop=True)
    asked = films["labels"].map(lambda labels: "Effusion" not in labels)
    rows, folder = films.index[asked], tmp_path_factory.mktemp("away")
    (folder / "cut.jpg").write_bytes(Path(films.loc[rows[0], "path"]).read_bytes()[:900])
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(folder / "blank.png")
    films.loc[rows[:2], "path"] = [str(folder / name) for name in ("cut.jpg", "blank.png")]
    return replace(study, films=films, folder=folder)


@pytest.fixture(scope="module")
def scores(runs, place):
    return score_study(runs["head"], place)


def test_films_without_a_score_keep_their_row(runs, place, scores):
    films = choose_films(place, "Cardiomegaly")
    assert scores["file"].tolist() == films["file"].tolist()
    assert scores["status"].value_counts().to_dict() == {"ok": 63, "unreadable": 1, "refused": 1}
    odd = scores[scores["status"] != "ok"]
    assert odd["reason"].ne("").all() and odd["probability"].isna().all()
    fine = scores[scores["status"] == "ok"]
    alone = score_films(runs["head"], fine["path"].head(3))
    np.testing.assert_array_equal(fine["probability"].head(3), alone["probability"])
    assert set(scores["study"]) == {place.folder.name}


@pytest.mark.parametrize("stage", ["head", "finetuned"])
def test_training_is_told_by_patient_and_by_film(runs, study, monkeypatch, stage):
    """Under other ids, the digest tells the films; a run without digests knows the ids alone."""
    run, films = runs[stage], study.films.copy()
    monkeypatch.setattr("cxrlib.model.elsewhere.score_films", scored_by_name)
    told = "171 films of 95 patients are not scored"
    with pytest.warns(UserWarning, match=told):
        scores = score_study(run, study)
    assert (scores["status"] == "training").sum() == 171
    assert scores.loc[scores["split"] == "train", "reason"].eq("the film was trained on").all()
    with pytest.warns(UserWarning, match=told):
        renamed = score_study(
            run, replace(study, films=films.assign(patient=films["patient"] + "x"))
        )
    assert renamed["status"].tolist() == scores["status"].tolist()
    old = replace(run, folder=run.folder.parent / "old")
    shutil.copytree(run.folder, old.folder, dirs_exist_ok=True)
    for table in old.folder.glob("*.csv"):
        pd.read_csv(table, dtype=str).drop(columns="digest", errors="ignore").to_csv(table)
    films["patient"] = films["patient"].str.lstrip("0")
    with pytest.warns(UserWarning, match=told):
        assert (score_study(old, replace(study, films=films))["status"] == "training").sum() == 171
    if stage == "finetuned":
        (old.folder / "training.csv").unlink()
        with pytest.warns(UserWarning, match=r"old names \d+ of its 95 training patients only"):
            score_study(old, study)


def scored_by_name(run, paths):
    rows = [(str(path), "ok", 0.5, "positive", "") for path in paths]
    return pd.DataFrame(rows, columns=["path", "status", "probability", "decision", "reason"])


def test_what_cannot_be_measured_is_told_in_a_sentence(runs, study, place):
    films = study.films
    train = replace(study, films=films[films["split"] == "train"])
    with pytest.raises(RunError, match="has seen 171 of 171 films.*prefix"):
        score_study(runs["head"], train)
    healthy = place.films[place.films["labels"].map(lambda labels: "Cardiomegaly" not in labels)]
    findings = place.findings[place.findings["label"] != "Cardiomegaly"]
    with pytest.raises(StudyError, match="has no film with it"):
        score_study(runs["head"], replace(place, films=healthy, findings=findings))


@pytest.mark.parametrize(
    ("stage", "how"),
    [("head", "intercept and slope"), ("finetuned", "intercept"), ("head", "threshold")],
)
def test_a_recalibrated_run(runs, place, scores, tmp_path, stage, how):
    parent = runs[stage]  # both score alike
    run = recalibrate(parent, scores, tmp_path / "here", how, patients=20)
    told = run.facts["recalibrated"]
    assert (told["parent"], told["place"], told["patients"]) == ("parent", place.folder.name, 20)
    local = pd.read_csv(run.folder / "training.csv", dtype=str)
    assert told["films"] == local["patient"].isin(scores["patient"]).sum()
    assert told["measured"]["before"]["films"] == 63 - told["films"]
    films = scores[scores["status"] == "ok"].head(4)
    moved = logit(score_films(run, films["path"])["probability"])
    expected = told["slope"] * logit(films["probability"].to_numpy()) + told["intercept"]
    np.testing.assert_allclose(moved, expected, atol=2e-4)
    assert (run.threshold != parent.threshold) == (how == "threshold")
    assert run.facts["fit"]["calibration"]["slope"] == pytest.approx(
        told["slope"] * parent.facts["fit"]["calibration"]["slope"]
    )
    card = (run.folder / "MODEL_CARD.md").read_text()
    assert "### Recalibrated for another place" in card and place.folder.name in card
    with pytest.warns(UserWarning, match="films of 20 patients are not"):
        again = score_study(run, place)
    assert set(again.loc[again["status"] == "training", "patient"]) <= set(local["patient"])
    assert len(run.predictions) == len(parent.predictions)


def test_runs_and_folders_are_kept(runs, scores, tmp_path):
    parent = runs["head"]
    before = {path: path.read_bytes() for path in parent.folder.iterdir()}
    for folder, how, patients, message in (
        (parent.folder, "intercept", 20, "is the run to recalibrate"),
        (tmp_path / "new", "intercept", 500, "patients is 500, and 32 have a score"),
        (tmp_path / "new", "intercept", 1, "all of one label"),
        (tmp_path / "new", "both", 20, "how is 'both'"),
    ):
        with pytest.raises(RunError, match=message):
            recalibrate(parent, scores, folder, how, patients)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"no run\.json"):
        recalibrate(parent, scores, tmp_path)
    assert {path: path.read_bytes() for path in parent.folder.iterdir()} == before
    assert not (tmp_path / "new").exists()
    assert json.loads((parent.folder / "run.json").read_text()) == parent.facts
