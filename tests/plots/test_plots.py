"""Each figure is drawn whole, whatever the names and with what is known alone."""

import warnings

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import cxrlib as cxr
from cxrlib.plots.style import LINES, POSITIVE, literal

HARD = r"cost $5 & $x_{2^y}$ \frac"  # as a formula it could not be drawn


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def drawn(figure):
    """Return all texts of a figure, as they are shown, after drawing it; warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_visible()]


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    films = pd.DataFrame({"patient": np.arange(60), "target": np.arange(60) % 2, "view": ""})
    films["probability"] = np.clip(rng.normal(0.3 + 0.3 * films["target"], 0.15), 0, 1)
    return films


@pytest.fixture
def study(make_tiny_study, tmp_path):
    rows = [("1_0.png", HARD, 4, 4, 20, 20), ("2_0.png", "No Finding"), ("1_1.png", "No Finding")]
    return cxr.read_study(make_tiny_study(tmp_path / "s", rows))


@pytest.mark.parametrize("name", [HARD, r"\$", "Nodule/a_b"])
def test_names_are_shown_as_they_are(scores, study, name):
    measured = cxr.evaluate(scores, 0.5)
    ax = cxr.plot_roc({name: scores}, {name: measured}, 0.5)
    cxr.plot_precision_recall({name: scores}, {name: measured}, plt.figure().subplots())
    cxr.plot_reliability({name: scores}, plt.figure().subplots())
    cxr.plot_confusion(measured, name, plt.figure().subplots())
    cxr.plot_evidence(np.zeros((8, 8)), np.zeros((2, 2)), name, plt.figure().subplots())
    cxr.show_films(study.films, captions=[name] * len(study.films))
    cxr.plot_findings(study.films.assign(labels=[(name,)] * len(study.films), view=name))
    for number in plt.get_fignums():
        assert any(literal(name) in text for text in drawn(plt.figure(number)))
        for text in plt.figure(number).findobj(matplotlib.text.Text):
            assert not text._preprocess_math(text.get_text())[1], text  # no formula
    assert ax.get_legend().get_texts()[0].get_text().startswith(literal(name))


def test_films_are_shown_with_their_boxes_and_captions_without_loose_ends(study):
    captions = study.films["filename"] + ", " + study.films["view"]
    figure = cxr.show_films(study.films, study.findings, captions, columns=2)
    assert len(figure.axes) == 4
    assert [ax.get_title() for ax in figure.axes] == ["1_0.png", "2_0.png", "1_1.png", ""]
    (box,) = figure.axes[0].patches
    assert box.get_bbox().bounds == (4, 4, 16, 16)
    assert not figure.axes[1].patches
    drawn(cxr.show_films(study.films.head(0)))


@pytest.mark.parametrize(
    ("views", "legend"),
    [([""] * 3, None), (["PA", "AP", ""], ["unknown", "AP", "PA"]), (["PA"] * 3, ["PA"])],
)
def test_findings_are_counted_by_the_views_that_are_known(study, views, legend):
    ax = cxr.plot_findings(study.films.assign(view=views))
    names = ax.get_legend() and [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == legend
    assert sum(bar.get_width() for bar in ax.patches) == 3
    assert "" not in [text.get_text() for text in ax.get_yticklabels()]


def test_no_view_is_left_out(study):
    films = pd.concat([study.films.head(1).assign(view=v) for v in ("PA", "AP", "lateral", "")])
    ax = cxr.plot_findings(films)
    assert sum(bar.get_width() for bar in ax.patches) == len(LINES) == 4


def test_patients_are_counted(study):
    ax = cxr.plot_patients(study.films)
    assert {(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in ax.patches} == {
        (1, 1),
        (2, 1),
    }


def test_the_operating_point_lies_on_its_curve(scores):
    measured = cxr.evaluate(scores, 0.5)
    ax = cxr.plot_roc({"test": scores}, {"test": measured}, 0.5)
    curve, point = ax.lines[:2]
    x, y = point.get_xdata()[0], point.get_ydata()[0]
    assert (1 - x, y) == (measured["specificity"]["value"], measured["sensitivity"]["value"])
    distance = np.hypot(curve.get_xdata() - x, curve.get_ydata() - y)
    assert distance.min() < 1e-9


@pytest.mark.parametrize("only", [0, 1])
def test_films_of_one_class_are_said_to_have_no_curve(scores, only):
    films = scores[scores["target"] == only]
    measured = {"test": cxr.evaluate(films, 0.5)}
    figures = [
        cxr.plot_roc({"test": films}, measured, 0.5).figure,
        cxr.plot_precision_recall({"test": films}, measured).figure,
    ]
    for figure in figures:
        assert any("undefined" in text for text in drawn(figure))
    drawn(cxr.plot_scores(films, 0.5).figure)
    drawn(cxr.plot_reliability({"test": films}).figure)


def test_histories_of_all_three_fits_are_drawn():
    folds = pd.DataFrame(
        {"fold": [0, 0, 1, 1], "strength": [0.1, 1, 0.1, 1], "auc": [0.7, 0.8, 0.6, 0.9]}
    )
    ax = cxr.plot_history(folds)
    assert ax.lines[-1].get_ydata().tolist() == pytest.approx([0.65, 0.85])
    drawn(ax.figure)
    epochs = pd.DataFrame({"epoch": [0, 1], "auc": [0.7, 0.8], "val_auc": [0.6, 0.65]})
    assert [line.get_label() for line in cxr.plot_history(epochs).lines] == [
        "training, augmented",
        "validation",
    ]
    (line,) = cxr.plot_history(epochs.assign(loss=[0.6, 0.5]).drop(columns="val_auc")).lines
    assert line.get_ydata().tolist() == [0.6, 0.5]


def test_each_figure_is_drawn_where_it_is_asked_to(scores):
    figure, axes = plt.subplots(1, 3)
    measured = cxr.evaluate(scores, 0.5)
    assert cxr.plot_roc({"test": scores}, {"test": measured}, ax=axes[0]) is axes[0]
    assert axes[0].lines[0].get_color() == POSITIVE  # of the test set, train beside it or not
    assert axes[0].get_xlim() == axes[0].get_ylim() == (0, 1)
    assert cxr.plot_scores(scores, 0.5, axes[1]) is axes[1]
    table = cxr.tabulate_prevalences(scores, 0.5)
    assert cxr.plot_prevalences(table, axes[2]) is axes[2]
    drawn(figure)


@pytest.mark.parametrize("metric", ["AUC", "Brier score"])
def test_what_was_not_measured_is_dashed_and_joins_the_rest(metric):
    sizes = {"patients": [20, 40, 80, 160]}
    law = pd.DataFrame(sizes | {"value": [0.7, 0.8, 0.85, 0.87], "low": 0.6, "high": 0.9})
    law["kind"] = ["fitted", "fitted", "extrapolated", "extrapolated"]
    now = law.iloc[:1].assign(kind="now")
    both = [x.assign(metric=name) for name in ("AUC", "Brier score") for x in (law, now)]
    curve = pd.concat(both)
    ax = cxr.plot_learning_curve(curve[curve["patients"] < 80], curve, metric)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines["power law"].get_xdata().tolist() == [20, 40]
    assert lines["extrapolated"].get_xdata().tolist() == [40, 80, 160]
    assert lines["extrapolated"].get_linestyle() == "--"
    assert ax.get_ylabel().startswith(metric)


def test_one_colour_means_the_same_evidence_on_every_map():
    weak, fine = np.full((2, 2), 1.5), np.full((4, 4), 0.375)  # 6 logits, by two networks
    for evidence in (weak, fine, 10 * weak):
        ax = cxr.plot_evidence(np.zeros((8, 8)), evidence)
        _, heat = ax.images
        assert (heat.norm.vmin, heat.norm.vmax) == (-0.3, 0.3)
        assert np.asarray(heat.get_array()) == pytest.approx(evidence.sum() / 100)
        assert np.asarray(heat.get_alpha()) == pytest.approx(min(0.8, 0.8 * evidence.sum() / 30))
    assert cxr.plot_evidence(np.zeros((8, 8)), weak, limit=1).images[1].norm.vmax == 1
