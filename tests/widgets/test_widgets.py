"""The Browser and the Explorer as Python holds them; test_browser.py drives them on a page."""

import base64

import numpy as np
import pytest

from cxrlib import Browser, Explorer
from cxrlib.data.study import read_study
from cxrlib.metrics.report import evaluate, tabulate_net_benefit


def test_filters_are_the_tables(study, scored):
    browser = Browser(study, scored)
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


def test_outcomes_are_the_confusion_matrix(study, scored):
    browser = Browser(study, scored)
    names = {"tp": "true positive", "fp": "false positive"}
    for short, name in (names | {"fn": "false negative", "tn": "true negative"}).items():
        browser.outcome = name
        assert browser.count == sum(side["confusion"][short] for side in scored.metrics.values())


def test_a_box_lies_on_the_padded_film(make_tiny_study, tmp_path):
    rows = [("1_0.png", "Mass", 10, 4, 30, 44), ("2_0.png", "No Finding")]
    browser = Browser(read_study(make_tiny_study(tmp_path / "s", rows, size=(40, 48))))
    (box,) = browser.film["boxes"]
    expected = {"x": 14 / 48, "y": 4 / 48, "width": 20 / 48, "height": 40 / 48}
    assert box["label"] == "Mass"
    for side in ("x", "y", "width", "height"):
        assert box[side] == pytest.approx(expected[side])


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_explorers_numbers_are_those_of_the_metrics(scored, threshold, monkeypatch):
    monkeypatch.setattr("cxrlib.metrics.bootstrap.RESAMPLES", 9)  # intervals are not looked at
    explorer = Explorer(scored.predictions, threshold)
    measured, numbers = evaluate(scored.predictions, threshold), explorer.numbers
    assert {name: numbers[name] for name in ("tn", "fp", "fn", "tp")} == measured["confusion"]
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        value = measured[name]["value"]
        assert numbers[name] == pytest.approx(np.nan if value is None else value, nan_ok=True)


def test_ppv_at_another_prevalence_is_the_share_in_such_a_population(scored):
    explorer = Explorer(scored.predictions, scored.threshold)
    explorer.prevalence = 0.05
    predictions = scored.predictions
    weight = np.where(predictions["target"] == 1, 0.05, 0.95)
    weight = weight / predictions.groupby("target")["target"].transform("size")
    called = predictions["probability"] >= scored.threshold
    expected = weight[called & (predictions["target"] == 1)].sum() / weight[called].sum()
    assert explorer.numbers["ppv"] == pytest.approx(expected)


def test_each_widget_carries_a_picture_and_a_small_state(study, scored):
    for widget in (Browser(study, scored), Browser(study), Explorer(scored.predictions, 0.5)):
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


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.97])
def test_net_benefit_is_that_of_the_decision_curve(scored, threshold):
    explorer = Explorer(scored.predictions, threshold)
    curve = tabulate_net_benefit(scored.predictions, [threshold])
    assert explorer.numbers["net benefit"] == pytest.approx(curve.loc[0, "model"])


def test_what_changes_is_observed(study, scored):
    browser, explorer, seen = Browser(study, scored), Explorer(scored.predictions, 0.5), []
    browser.observe(lambda change: seen.append(change["new"]["filename"]), "selected")
    explorer.observe(lambda change: seen.append(change["new"]["tp"]), "numbers")
    browser.position = 1
    explorer.threshold = 0
    assert seen == [study.films["filename"][1], scored.predictions["target"].sum()]


def test_a_page_that_is_quicker_than_the_kernel_gets_an_answer(study, scored):
    browser, answers = Browser(study, scored), []
    browser.send = lambda content, buffers: answers.append(content["reasons"])
    for at in (0, 1):  # a patient's first film, and the one that follows it
        question = {"kind": "earlier", "at": [at], "version": browser.version}
        browser._answer(browser, question, [])
    assert answers == [{0: "the file does not exist"}, {}]
