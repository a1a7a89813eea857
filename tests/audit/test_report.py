"""Audits of tables whose faults are built in, and the page that they become."""

import json
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit
from sklearn.ensemble import RandomForestClassifier

from cxrlib import cli
from cxrlib.audit.questions import NOT_SHOWN, SHOWN, UNTOLD, ask_all
from cxrlib.audit.report import report_run, write_report
from cxrlib.audit.table import NAMES, AuditError, audited_rows, read_predictions
from cxrlib.data.study import read_study
from facts import edit

CLAIMS = ("ranks", "calibrated", "helps", "groups", "metadata", "apart", "labels")


def predictions(films=400, seed=0, **columns):
    """Calibrated scores of a good model, two films per patient, as text."""
    rng = np.random.default_rng(seed)
    score = rng.normal(0, 2.5, films)
    rows = {
        "image": [f"film{n:03}.png" for n in range(films)],
        "Patient ID": [f"p{n // 2}" for n in range(films)],
        "target": (rng.random(films) < expit(score)).astype(int),
        "probability": expit(score).round(6),
        "site": rng.choice(["a", "b"], films),
        "decision": (score > 0).astype(int),
    }
    return pd.DataFrame(rows | columns)


@pytest.fixture(autouse=True)
def few_resamples_and_trees(monkeypatch):
    """A tenth of them tells these faults as well."""
    monkeypatch.setattr(
        "cxrlib.audit.metadata.RandomForestClassifier",
        lambda n_estimators, **how: RandomForestClassifier(n_estimators // 10, **how),
    )
    for name, module in list(sys.modules.items()):
        if name.startswith("cxrlib.") and hasattr(module, "RESAMPLES"):
            monkeypatch.setattr(module, "RESAMPLES", 200)


@pytest.fixture
def audit(tmp_path):
    """A function that audits a table and returns the answers by claim."""

    def run(table, study=None):
        table.to_csv(tmp_path / "table.csv", index=False)
        everything = read_predictions(tmp_path / "table.csv")
        answers = ask_all(audited_rows(everything), everything, 0.5, study)
        return dict(zip(CLAIMS, answers, strict=True))

    return run


@pytest.fixture
def write(tmp_path):
    """A function that writes the page of a table and returns it."""

    def run(table, **how):
        table.to_csv(tmp_path / "table.csv", index=False)
        write_report(tmp_path / "table.csv", tmp_path / "page.html", **how)
        return (tmp_path / "page.html").read_text()

    return run


def test_a_good_model_is_shown_to_be_good(audit):
    verdicts = [answer.verdict for answer in audit(predictions(2400)).values()]
    assert verdicts == [SHOWN] * 5 + [UNTOLD] * 2


def test_scores_that_mean_nothing_are_found(audit):
    table = predictions()
    table["probability"] = np.random.default_rng(1).permutation(table["probability"])
    answers = audit(table)
    assert {answers[name].verdict for name in ("ranks", "calibrated", "helps")} == {NOT_SHOWN}


def test_probabilities_that_are_too_sure_and_wrong_labels_are_found(audit):
    table = predictions()
    sure = table["probability"].nlargest(3).index
    table.loc[sure, "target"] = 0
    odds = (table["probability"] / (1 - table["probability"])) ** 3
    table["probability"] = odds / (1 + odds)
    answers = audit(table)
    assert answers["calibrated"].verdict == NOT_SHOWN
    assert "slope is 0.2" in answers["calibrated"].reason
    assert set(answers["labels"].table.index[:3]) == set(table.loc[sure, "image"])


def test_planted_faults_are_named(audit):
    """A site served worse, a column that tells the label, a patient on both sides."""
    table = predictions(800)
    worse = table["site"] == "b"
    table.loc[worse, "probability"] = 1 - table.loc[worse, "probability"]
    table["ward"] = np.where(table["target"] == 1, "icu", "general")
    table["fold"] = (np.arange(800) > 400).astype(int)
    answers = audit(table)
    assert {answers[name].verdict for name in ("groups", "metadata", "apart")} == {NOT_SHOWN}
    assert "site b: AUC" in answers["groups"].reason
    assert answers["metadata"].table.loc["ward", "auc"] > 0.95
    assert "2 films are of 1 patients" in answers["apart"].reason


def test_copies_of_a_film_under_two_patients_are_found(audit, tmp_path):
    """One picture twice, smaller and compressed; and another that only resembles it."""
    rng = np.random.default_rng(0)
    names, images = [f"{n}_0.jpg" for n in range(12)], tmp_path / "study" / "images"
    images.mkdir(parents=True)
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(images / name)
    Image.open(images / names[0]).resize((128, 128)).save(images / names[11], quality=40)
    labels = pd.DataFrame({"filename": names, "label": "Mass", "patient_id": range(12)})
    labels.to_csv(tmp_path / "study" / "labels.csv", index=False)
    sides = ["train"] * 6 + ["test"] * 6
    table = predictions(12, image=names, split=sides, target=[0, 1] * 6)
    found = audit(table, read_study(tmp_path / "study"))["apart"]
    assert found.verdict == NOT_SHOWN and "1 pairs of films" in found.reason
    assert found.table.iloc[0].tolist()[:2] == ["0_0.jpg", "11_0.jpg"]
    assert str(tmp_path) not in found.reason


@pytest.fixture
def films(tmp_path):
    """A study of two patients whose films have the same names in two folders."""
    root = tmp_path / "study"
    for n in range(12):
        path = root / "images" / f"p{n // 6}" / f"1.2.{n % 6}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(n).integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(noise).save(path)
    names = [f"p{n // 6}/1.2.{n % 6}.png" for n in range(12)]
    labels = {"filename": names, "label": "Mass", "patient_id": [f"p{n // 6}" for n in range(12)]}
    pd.DataFrame(labels).to_csv(root / "labels.csv", index=False)
    return read_study(root)


def test_only_films_that_were_compared_are_said_to_be_apart(audit, films):
    table = predictions(12, target=[0, 1] * 6, split=["train"] * 6 + ["test"] * 6)
    table["Patient ID"] = ["a"] * 6 + ["b"] * 6
    table["image"] = ["/scans/" + name.removesuffix(".png") for name in films.films["filename"]]
    assert audit(table, films)["apart"].verdict == SHOWN
    assert audit(table)["apart"].verdict == UNTOLD
    crossing = audit(table.assign(split=(["train"] * 3 + ["test"] * 3) * 2), films)["apart"]
    assert "12 films are of 2 patients" in crossing.reason
    damaged = films.films["path"].iloc[0]
    with open(damaged, "r+b") as file:
        file.truncate(200)
    found = audit(table, films)["apart"]
    assert found.verdict == UNTOLD and "11 of 12 rows" in found.reason
    table.loc[:3, "image"] = "elsewhere" + table.index[:4].astype(str)
    assert "8 of 12 rows" in audit(table, films)["apart"].reason
    with pytest.raises(AuditError, match="no image of the table is in"):
        audit(table.assign(image=[f"x{n}" for n in range(12)]), films)


def test_a_patient_in_one_fold_of_two_sides_crosses(audit):
    table = predictions(40, target=[0, 0, 1, 1] * 10, split=["train", "test"] * 20, fold=0)
    found = audit(table)["apart"]
    assert found.verdict == NOT_SHOWN and "40 films are of 20 patients" in found.reason
    assert found.table.iloc[0].tolist()[:2] == ["film001.png", "film000.png"]


def test_useless_scores_of_a_rare_finding_help_at_no_threshold(audit):
    target = (np.arange(400) % 10 == 9).astype(int)
    target[:40] = 0
    table = predictions(400, target=target, probability=np.linspace(0, 1, 400)[::-1])
    assert audit(table)["helps"].verdict == NOT_SHOWN


def test_equal_probabilities_are_wrong_where_their_mean_is(audit):
    answers = audit(predictions(200, target=[0, 1] * 100, probability=0.1))
    assert answers["calibrated"].verdict == answers["helps"].verdict == NOT_SHOWN
    assert "slope is undefined" in answers["calibrated"].reason


def test_groups_that_were_left_out_are_not_served_alike(audit):
    table = predictions(2400)
    table.loc[:4, "site"], table["device"] = "c", np.where(table.index % 9, "", "x")
    found = audit(table)["groups"]
    assert "device" not in found.reason
    assert found.verdict == UNTOLD and "site c" in found.reason


def test_few_patients_tell_nothing(audit):
    answers = audit(predictions(12, target=[0, 1] * 6, site="a"))
    assert {answer.verdict for answer in answers.values()} == {UNTOLD}


def test_the_page_stands_alone_names_all_without_markup_and_is_the_same_each_time(write):
    name = "<b>" + "a" * 90 + ".png"
    table = predictions(60).replace({"image": "film000.png"}, name)
    table["<i>$x_"] = table["site"]
    table.loc[0, ["probability", "target"]] = 0.0001, 1
    page, again = (write(table, title="<script>alert(1)</script>") for _ in range(2))
    assert page == again
    assert "&lt;b&gt;" + "a" * 90 in page and "<b>" not in page and "<i>" not in page
    assert "Patients and copies stay on one side.</td>" in page
    outside = re.sub(r'src="data:image/svg\+xml;base64,[^"]+"', "", page)
    assert "http" not in outside and "src=" not in outside and "<script" not in outside
    pictures = re.findall(r'<img alt="([^"]+)"', page)
    assert len(pictures) >= 4 and all(len(text) > 40 for text in pictures)


def test_rows_of_training_give_the_threshold_and_are_not_measured(write):
    page = write(predictions(80, split=["train"] * 50 + ["test"] * 30))
    assert "30 radiographs of 15 patients" in page and "50 further rows" in page
    assert "Youden" in page


@pytest.mark.parametrize("sides", [("train", "test"), ("Training", "val"), ("development", "1")])
def test_sides_are_told_by_the_words_of_others(tmp_path, sides):
    table = predictions(80, split=[sides[0]] * 50 + [sides[1]] * 30)
    table.to_csv(tmp_path / "t.csv", index=False)
    read = read_predictions(tmp_path / "t.csv")
    assert read["split"].eq("train").sum() == 50 and len(audited_rows(read)) == 30


FAULTS = {
    "no target": (lambda t: t.drop(columns="target"), "no column target"),
    "no patients": (lambda t: t.drop(columns="Patient ID"), "no column patient"),
    "over one": (lambda t: t.assign(probability=["1.5", *t["probability"][1:]]), "line 2"),
    "not finite": (lambda t: t.assign(probability="inf"), "12 rows are so"),
    "a word": (lambda t: t.assign(probability="high"), "'high'"),
    "logits": (lambda t: t.assign(probability=-2.5), "from 0 to 1"),
    "another class": (lambda t: t.assign(target=2), "target is '2'"),
    "one class": (lambda t: t.assign(target=1), "every target is 1"),
    "one patient": (lambda t: t.assign(**{"Patient ID": "x"}), "all rows are of patient 'x'"),
    "no patient": (lambda t: t.assign(**{"Patient ID": "NaN"}), "patient is ''"),
    "twice": (lambda t: t.assign(image="a.png"), "id is 'a.png'; 11 rows"),
    "test of one class": (
        lambda t: t.assign(split=["test"] * 2 + ["train"] * 10, target=[1, 1] + [0] * 10),
        "its test rows are of one class",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_table_that_cannot_be_audited_is_refused_with_a_sentence(write, tmp_path, name):
    spoil, words = FAULTS[name]
    with pytest.raises(AuditError, match=re.escape(words)):
        write(spoil(predictions(12, target=[0, 1] * 6)))
    assert not (tmp_path / "page.html").exists()


def test_a_table_of_another_spelling_is_read(tmp_path):
    table = predictions(20, target=[True, False] * 10).astype(str)
    table["probability"] = table["probability"].str.replace(".", ",")
    names = {"image": "Image Index", "target": "y_true", "probability": "y_score"}
    table.rename(columns=names).to_csv(tmp_path / "t.csv", index=False, sep=";")
    read = read_predictions(tmp_path / "t.csv")
    assert read["target"].sum() == 10 and read["probability"].between(0, 1).all()
    assert {"id", "patient", "site"} <= set(read) and "decision" not in read


def test_columns_that_repeat_the_label_the_score_or_the_patient_are_no_metadata(tmp_path):
    table = predictions(20, target=[0, 1] * 10, prediction=[0, 1] * 10, label=["No", "Mass"] * 10)
    table = table.rename(columns={"probability": "y_prob"}).assign(patient="x", correct=1, id=1)
    table["id"] = range(20)
    table.to_csv(tmp_path / "t.csv", index=False)
    read = read_predictions(tmp_path / "t.csv")
    assert read["probability"].nunique() > 2 and read["patient"].nunique() == 10
    assert {"site", "image"} == set(read) - set(NAMES)


def test_a_dataset_is_a_group_where_it_names_no_side(audit):
    answers = audit(predictions(80, dataset=["NIH", "CheXpert"] * 40))
    assert answers["apart"].table.empty and "dataset" in answers["metadata"].table.index


def test_a_page_replaces_no_table(tmp_path):
    predictions(60).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(AuditError, match="ends in .html"):
        write_report(tmp_path / "t.csv", tmp_path / "t.csv")


def test_commands(tmp_path, medical, capsys):
    predictions(60).to_csv(tmp_path / "t.csv", index=False)
    cli.main(["audit", str(tmp_path / "t.csv"), "--out", str(tmp_path / "a.html")])
    assert capsys.readouterr().out.splitlines()[0].startswith("shown ")
    cli.main(["report", "bundled", "--out", str(tmp_path / "b.html")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and lines[-1] == f"written: {tmp_path / 'b.html'}"
    assert "Cardiomegaly against No Finding" in (tmp_path / "b.html").read_text()


def test_a_run_without_test_scores_has_no_report(tmp_path, medical):
    run = shutil.copytree(medical / "models" / "cardiomegaly", tmp_path / "run")
    train = json.loads((run / "run.json").read_text())["metrics"]["train"]
    edit(run, "metrics", value={"train": train})
    with pytest.raises(AuditError, match="not scored on its test patients"):
        report_run(run, tmp_path / "page.html")
