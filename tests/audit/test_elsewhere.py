"""A run at another place: differences, recalibration and case mix, on cases with known answers."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import binomtest, norm
from sklearn.linear_model import LogisticRegression

from cxrlib.audit.elsewhere import (
    compare_case_mix,
    compare_with_home,
    measure_recalibration,
    measure_shortcuts,
    subtract,
)
from cxrlib.audit.recalibrate import apply_change, fit_change, logits
from cxrlib.data.study import choose_films, read_study
from cxrlib.metrics.bootstrap import auc, ranking_interval, resample_patients
from cxrlib.model.facts import RunError
from cxrlib.model.run import Run


def draw(patients, shift=0.0, stretch=1.0, seed=0):
    """Two films per patient, of a calibrated model whose logits are then shifted and stretched."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.normal(-1, 2, patients), 2)
    return pd.DataFrame(
        {
            "filename": [f"{i}.png" for i in range(2 * patients)],
            "patient": np.repeat([f"p{i}" for i in range(patients)], 2),
            "view": np.where(np.arange(2 * patients) % 2, "PA", "AP"),
            "sex": np.repeat(rng.choice(["F", "M"], patients), 2),
            "age": np.nan,
            "original_width": np.nan,
            "original_height": np.nan,
            "target": (rng.random(2 * patients) < expit(truth)).astype(int),
            "probability": expit((truth - shift) / stretch).round(6),
            "status": "ok",
            "split": "test",
        }
    )


@pytest.fixture
def fake(tmp_path):
    """A run whose test patients are `draw(150)`, without a model."""
    draw(150).assign(path="x").drop(columns="status").to_csv(
        tmp_path / "predictions.csv", index=False
    )
    rule = {"value": 0.5, "rule": "youden"}
    return Run(tmp_path, {"threshold": rule, "seed": 0}, None)


def of_share(hits, films):
    low, high = binomtest(hits, films).proportion_ci(method="wilson")
    return {"value": hits / films, "low": low, "high": high}


@pytest.mark.parametrize(
    ("here", "home", "expected"),
    [
        # Newcombe, Statistics in Medicine 1998;17:873-90, table II, method 10.
        ((56, 70), (48, 80), (0.2, 0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.6, 0.1705, 0.8090)),
        ((10, 10), (0, 20), (1.0, 0.6791, 1.0)),
    ],
)
def test_differences_have_published_intervals(here, home, expected):
    difference = subtract(of_share(*here), of_share(*home))
    assert tuple(difference.values()) == pytest.approx(expected, abs=5e-5)


def test_differences_of_auc_hold_the_truth_in_95_of_100_samples():
    """Binormal scores of 60 patients with two films each, in each place."""
    rng, held = np.random.default_rng(0), []
    truth = norm.cdf(1 / np.sqrt(2)) - norm.cdf(2 / np.sqrt(2))
    for _ in range(200):
        measured = []
        for distance in (2, 1):
            patient = np.repeat(np.arange(60), 2)
            ill, own = (rng.random(60) < 0.3).astype(int)[patient], rng.normal(0, 0.7, 60)[patient]
            score = distance * ill + own + rng.normal(0, np.sqrt(0.51), 120)
            weights = resample_patients(patient, 400, int(rng.integers(2**31)))
            measured.append(ranking_interval(auc(ill, score, weights), ill, patient))
        difference = subtract(measured[1], measured[0])
        held.append(difference["low"] <= truth <= difference["high"])
    assert 0.91 <= np.mean(held) <= 0.98


def test_a_difference_from_what_is_undefined_is_undefined():
    nothing = dict.fromkeys(("value", "low", "high"))
    assert subtract(of_share(5, 9), nothing) == nothing


def test_the_same_scores_differ_by_nothing(fake):
    table = compare_with_home(fake, draw(150))
    assert (table["difference"] == 0).all() and len(table) == 9
    assert (table["low"] < 0).all() and (table["high"] > 0).all()
    unseen = compare_with_home(fake, draw(150).assign(view=""))
    assert set(table.index) - set(unseen.dropna().index) == {"AUC, films of one view"}


def test_what_moved_is_found(fake):
    table = compare_with_home(fake, draw(400, shift=1.0, stretch=2.0, seed=1))
    assert abs(table.loc["AUC", "difference"]) < 0.06
    assert table.loc["calibration slope", "here"] == pytest.approx(2, abs=0.4)
    assert table.loc["calibration slope", "low"] > 0
    assert table.loc["Brier score", "low"] > 0


def test_refused_films_count_as_missed_beside(fake):
    scores = draw(60, seed=2)
    scores.loc[scores[scores["target"] == 1].index[:9], ["status", "probability"]] = "refused", None
    scores.loc[scores[scores["target"] == 1].index[9:11], ["status", "probability"]] = (
        "training",
        None,
    )
    found = (scores["target"] == 1) & (scores["probability"] >= 0.5)
    asked = (scores["target"] == 1) & (scores["status"] != "training")
    table = compare_with_home(fake, scores)["here"]
    assert table["sensitivity, refused missed"] == pytest.approx(found.sum() / asked.sum())
    assert table["sensitivity"] == pytest.approx(found.sum() / (asked.sum() - 9))


def test_without_two_labels_or_a_test_a_sentence(fake, tmp_path):
    with pytest.raises(RunError, match="all of one label"):
        compare_with_home(fake, draw(9).assign(target=1))
    (tmp_path / "predictions.csv").write_text("path,patient,view,sex,age,split\n")
    with pytest.raises(RunError, match="call score_test first"):
        compare_with_home(fake, draw(9))


def test_case_mix_counts_refused_and_leaves_out_training():
    scores = draw(20).assign(age=50.0, sex="F", labels=[()] * 40)
    run = SimpleNamespace(split=lambda side, study: scores[:4])
    scores.loc[:3, "status"] = "training"
    scores.loc[4:7, "status"] = "refused"
    here = compare_case_mix(run, scores, "home")["here"]
    assert here["films"] == 36 and here["patients"] == 18
    assert here["share of AP"] == 0.5 and here["share of women"] == 1
    assert here["share refused or unreadable"] == pytest.approx(4 / 36)
    assert here["share with the finding"] == scores.loc[4:, "target"].mean()


def test_case_mix_has_a_row_per_finding(medical):
    films = choose_films(read_study(medical), "Cardiomegaly")
    parts = {side: films[films["split"] == side] for side in ("train", "test")}
    run = SimpleNamespace(split=lambda side, study: parts[side])
    labels = [("Mass", "Cardiomegaly")] * len(parts["test"])
    scores = parts["test"].assign(status="ok", labels=labels)
    table = compare_case_mix(run, scores, "home")
    assert table.loc["share labelled Mass"].tolist() == [0, 1]
    assert table.loc["share labelled Cardiomegaly", "home"] == films["target"].mean()
    assert table.loc["share labelled No Finding", "here"] == 0


def test_metadata_that_tells_the_label_beats_a_coin():
    scores = draw(80).assign(view=lambda x: np.where(x["target"] == 1, "AP", "PA"))
    table = measure_shortcuts(scores.assign(probability=0.5))
    assert table.loc["view", "auc"] > 0.98 and table.loc["view", "less_high"] < 0


@pytest.mark.parametrize("how", ["intercept", "intercept and slope"])
def test_recalibration_is_the_maximum_of_the_likelihood(fake, how):
    films = draw(300, shift=1.5, stretch=0.5)
    change = fit_change(fake, films, how)
    after = apply_change(films, change)
    assert after["probability"].sum() == pytest.approx(films["target"].sum(), abs=1e-3)
    assert change.threshold == 0.5
    if how == "intercept":
        assert change.slope == 1
        return
    curve = LogisticRegression(C=np.inf).fit(logits(films)[:, None], films["target"])
    expected = (curve.coef_.item(), curve.intercept_.item())
    assert change[:2] == pytest.approx(expected, abs=1e-3)
    assert change[:2] == pytest.approx((0.5, 1.5), abs=0.25)


def test_a_threshold_follows_the_rule_of_the_run(fake):
    films = draw(300, shift=2.0)
    change = fit_change(fake, films, "threshold")
    youden = {t: _youden(films, t) for t in (0.5, change.threshold)}
    assert change[:2] == (1, 0) and youden[change.threshold] > youden[0.5]


def _youden(films, threshold):
    called = films["probability"] >= threshold
    return called[films["target"] == 1].mean() - called[films["target"] == 0].mean()


def apart(films):
    return films.assign(probability=np.where(films["target"] == 1, 0.8, 0.3))


@pytest.mark.parametrize(
    ("films", "how", "message"),
    [
        (draw(9), "slope", "how is 'slope': give 'intercept'"),
        (draw(9).assign(target=0), "threshold", "all of one label: draw more"),
        (apart(draw(9)), "intercept and slope", "separate the labels.*give how='intercept'"),
        (
            draw(200).assign(probability=lambda x: 1 - x["probability"]),
            "intercept and slope",
            "wrong way",
        ),
    ],
)
def test_what_cannot_be_fitted_is_told(fake, films, how, message):
    with pytest.raises(RunError, match=message):
        fit_change(fake, films, how)


def test_what_recalibration_buys(fake):
    """Scores are too low by 2 logits: an intercept buys much, more patients a little more."""
    table, left_out = measure_recalibration(fake, draw(100, shift=2.0), repeats=30)
    assert left_out == [100]
    gain = table.xs("intercept", level="how")
    assert (gain["low"] > 0).all() and (gain["fell_back"] == 0).all()
    width = gain["intercept_high"] - gain["intercept_low"]
    assert width[20] > width[50] and abs(gain.loc[50, "intercept"]) < 0.15
    assert table.loc[(0, "nothing"), "intercept"] == pytest.approx(2, abs=0.5)
    assert table.loc[(50, "threshold"), "gain"] == 0
    assert table.loc[(50, "threshold"), "sensitivity"] > table.loc[(0, "nothing"), "sensitivity"]
    calibrated, _ = measure_recalibration(fake, draw(100), sizes=[20], repeats=30)
    assert calibrated.loc[(20, "intercept"), "gain"] < 0  # there is nothing to gain


def test_a_resample_that_allows_no_slope_falls_back(fake):
    table, _ = measure_recalibration(fake, apart(draw(40)), sizes=[20], repeats=5)
    assert table.loc[(20, "intercept and slope"), "fell_back"] == 1
    assert table.loc[(20, "intercept and slope"), "gain"] == table.loc[(20, "intercept"), "gain"]
