"""The Browser and the Explorer as Python holds them; test_browser.py drives them on a page."""

import base64
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cxrlib import Browser, Explorer
from cxrlib.data.study import read_study
from cxrlib.metrics.report import evaluate


@pytest.fixture(scope="module")
def run(medical):
    """What these widgets read of a run: the bundled one, without its model."""
    folder = medical / "models" / "cardiomegaly"
    facts = json.loads((folder / "run.json").read_text())
    text = dict.fromkeys(("patient", "view", "sex"), str)
    predictions = pd.read_csv(folder / "predictions.csv", dtype=text)
    known = {"threshold": facts["threshold"]["value"]}
    known |= {name: facts[name] for name in ("finding", "metrics")}
    return SimpleNamespace(predictions=predictions, **known)


def test_filters_are_the_tables(study, run):
    browser = Browser(study, run)
    browser.finding, browser.view = "Cardiomegaly", "AP"
    expected = [
        f.filename
        for f in study.films.itertuples()
        if "Cardiomegaly" in f.labels and f.view == "AP"
    ]
    assert browser.shown["filename"].tolist() == expected and expected
    browser.position = 10**6
    assert browser.selected["filename"] == expected[-1]
    browser.patient = "no such patient"
    assert browser.selected is None and browser.count == 0


def test_outcomes_are_the_confusion_matrix(study, run):
    browser = Browser(study, run)
    names = {"tp": "true positive", "fp": "false positive"}
    for short, name in (names | {"fn": "false negative", "tn": "true negative"}).items():
        browser.outcome = name
        assert browser.count == sum(side["confusion"][short] for side in run.metrics.values())


def test_a_box_lies_on_the_padded_film(make_tiny_study, tmp_path):
    rows = [("1_0.png", "Mass", 10, 4, 30, 44), ("2_0.png", "No Finding")]
    browser = Browser(read_study(make_tiny_study(tmp_path / "s", rows, size=(40, 48))))
    (box,) = browser.film["boxes"]
    expected = {"x": 14 / 48, "y": 4 / 48, "width": 20 / 48, "height": 40 / 48}
    assert box["label"] == "Mass"
    for side in ("x", "y", "width", "height"):
        assert box[side] == pytest.approx(expected[side])


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_explorers_numbers_are_those_of_the_metrics(run, threshold):
    explorer = Explorer(run.predictions, threshold)
    measured, numbers = evaluate(run.predictions, threshold), explorer.numbers
    assert {name: numbers[name] for name in ("tn", "fp", "fn", "tp")} == measured["confusion"]
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        value = measured[name]["value"]
        assert numbers[name] == pytest.approx(np.nan if value is None else value, nan_ok=True)


def test_ppv_at_another_prevalence_is_the_share_in_such_a_population(run):
    explorer = Explorer(run.predictions, run.threshold)
    explorer.prevalence = 0.05
    predictions = run.predictions
    weight = np.where(predictions["target"] == 1, 0.05, 0.95)
    weight = weight / predictions.groupby("target")["target"].transform("size")
    called = predictions["probability"] >= run.threshold
    expected = weight[called & (predictions["target"] == 1)].sum() / weight[called].sum()
    assert explorer.numbers["ppv"] == pytest.approx(expected)


def test_each_widget_carries_a_picture_and_a_small_state(study, run):
    for widget in (Browser(study, run), Browser(study), Explorer(run.predictions, 0.5)):
        data, metadata = widget._repr_mimebundle_()
        picture = base64.b64decode(data["image/png"])
        assert picture.startswith(b"\x89PNG")
        shown = metadata["image/png"]["width"]  # at twice the resolution
        assert abs(int.from_bytes(picture[16:20]) - 2 * shown) <= 1 and shown > 500
        assert len(repr(widget.get_state())) < 60_000


def test_names_are_drawn_as_they_are_and_no_view_leaves_no_gap(make_tiny_study, tmp_path):
    rows = [("1_0.png", "$x_{2^y}$ $a"), ("2_0.png", "No Finding")]
    browser = Browser(read_study(make_tiny_study(tmp_path / "s", rows)))
    titles = [ax.get_title() for ax in browser.static_figure().axes]
    assert titles[:2] == [r"\$x_{2^y}\$ \$a", "No Finding"]
    browser._repr_mimebundle_()
    assert "view unknown" in browser.film["caption"]
