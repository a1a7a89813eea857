"""The widgets as Python holds them; tests/test_browser.py drives them on a page."""

import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from cxrlib import Browser, Explorer, Reader
from cxrlib.data.study import choose_films, read_study
from cxrlib.metrics.report import evaluate
from cxrlib.model.predict import score_films
from cxrlib.model.run import load_run


@pytest.fixture(scope="module")
def run(trained_run):
    return load_run(trained_run[0])


@pytest.fixture(scope="module")
def study(medical):
    return read_study(medical)


@pytest.fixture
def opened_for_writing():
    """Files that Python opens for writing while a test runs."""
    seen, watching = [], True

    def hook(event, arguments):
        if watching and event == "open" and isinstance(arguments[1], str):
            if set(arguments[1]) & set("wax+"):
                seen.append(arguments[0])

    sys.addaudithook(hook)  # there is no way to take one out again
    yield seen
    watching = False


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
    browser, counts = Browser(study, run), run.facts["metrics"]["train"]["confusion"]
    names = {"tp": "true positive", "fp": "false positive"}
    for short, name in (names | {"fn": "false negative", "tn": "true negative"}).items():
        browser.outcome = name
        assert browser.count == counts[short]


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


def test_the_reader_scores_from_memory_as_from_a_file(run, study, opened_for_writing):
    path = choose_films(study, "Cardiomegaly")["path"].iloc[0]
    expected = score_films(run, [path]).loc[0, "probability"]
    opened_for_writing.clear()
    reader = Reader(run, path)
    assert reader.scores.loc[0, "probability"] == pytest.approx(expected, abs=1e-6)
    assert opened_for_writing == []
    reader.read("x.png", b"no film")
    assert reader.evidence is None and "x.png gets no score" in reader.result["sentence"]


def test_the_reader_refuses_what_is_no_chest_film(run, study):
    reader = Reader(run)
    film = Image.open(study.films["path"].iloc[0]).convert("L")
    garden = Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 60)
    for picture, name in ((ImageOps.invert(film), "inverted.png"), (garden, "garden.png")):
        content = io.BytesIO()
        picture.save(content, "PNG")
        reader.read(name, content.getvalue())
        assert reader.scores["status"].tolist() == ["refused"] and reader.evidence is None
        assert reader.scores["probability"].isna().all()
        sentence = reader.result["sentence"]
        assert sentence == f"{name} gets no score: {reader.scores.loc[0, 'reason']}."
        assert "probability" not in sentence
    reader.read("film.jpg", Path(study.films["path"].iloc[0]).read_bytes())
    assert reader.evidence is not None and "probability" in reader.result["sentence"]


def test_each_widget_carries_a_picture_and_a_small_state(study, run):
    for widget in (Browser(study, run), Explorer(run.predictions, 0.5), Reader(run)):
        data, _ = widget._repr_mimebundle_()
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
        assert len(repr(widget.get_state())) < 60_000
