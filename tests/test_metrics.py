"""Metrics against scikit-learn, intervals against simulated truth."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from cxrlib import metrics
from cxrlib.metrics import auc, average_precision, choose_threshold, evaluate, resample_patients


@st.composite
def scored_films(draw, max_films=30):
    """(target, probability, patient), many scores tied, both classes present."""
    n = draw(st.integers(2, max_films))
    target = draw(
        st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda t: 0 < sum(t) < n)
    )
    score = st.integers(0, 20).map(lambda s: s / 25)
    probability = draw(st.lists(score, min_size=n, max_size=n))
    patient = draw(st.lists(st.integers(0, n), min_size=n, max_size=n))
    return np.array(target), np.array(probability), np.array(patient)


# ----------------------------------------------------------------------- areas of each resample


@settings(deadline=None, max_examples=50)
@given(scored_films(), st.integers(0, 5))
def test_each_resample_has_the_area_that_scikit_learn_gives(films, seed):
    target, probability, patient = films
    weights = resample_patients(patient, 5, seed)
    for ours, theirs in ((auc, roc_auc_score), (average_precision, average_precision_score)):
        for value, weight in zip(ours(target, probability, weights), weights, strict=True):
            positive, negative = weight @ target > 0, weight @ (1 - target) > 0
            if positive and (negative or ours is average_precision):
                expected = theirs(target, probability, sample_weight=weight)
                assert value == pytest.approx(expected, abs=1e-6)
            else:
                assert np.isnan(value)


def test_auc_of_a_known_case():
    target, probability = np.array([1, 1, 0, 0]), np.array([0.9, 0.5, 0.5, 0.1])
    weights = np.array([[1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]], np.float32)
    np.testing.assert_array_equal(auc(target, probability, weights), [3.5 / 4, 0.5, np.nan])


# ------------------------------------------------------------------------------------- resamples


def test_a_patients_films_are_drawn_together():
    patients = ["b", "a", "c", "a", "b", "a", "d"]
    weights = resample_patients(patients, 4000, seed=1)
    assert weights.shape == (4000, 7)
    for patient in set(patients):
        of_patient = weights[:, [p == patient for p in patients]]
        assert (of_patient == of_patient[:, :1]).all()
    first_films = weights[:, [0, 1, 2, 6]]
    assert (first_films.sum(axis=1) == 4).all()  # as many patients as there are
    error = np.sqrt(3 / 4 / 4000)  # of the mean of a binomial of 4 draws at 1/4
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=5 * error)


def test_resamples_follow_the_seed():
    draws = [resample_patients(range(20), 10, seed) for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()


# ------------------------------------------------------------------------------------- intervals


def simulate(rng, patients=80, films=4, distance=1.0, between=1.0, within=0.5):
    """Films whose scores resemble each other within a patient, half of the patients positive."""
    patient = np.repeat(np.arange(patients), films)
    target = patient % 2
    own = rng.normal(0, between, patients)[patient]
    logit = distance * target + own + rng.normal(0, within, len(patient))
    probability = 1 / (1 + np.exp(-logit))
    return pd.DataFrame(
        {"target": target, "probability": probability, "patient": patient, "view": "PA"}
    )


def test_the_interval_covers_the_true_auc_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 200)
    truth = norm.cdf(1.0 / np.sqrt(2 * (1.0**2 + 0.5**2)))
    rng = np.random.default_rng(0)

    def coverage(trials, resample_films=False):
        covered = 0
        for _ in range(trials):
            films = simulate(rng, patients=60)
            if resample_films:
                films["patient"] = range(len(films))
            interval = evaluate(films, 0.5)["auc"]
            covered += interval["low"] <= truth <= interval["high"]
        return covered / trials

    low, high = np.divide(binom.interval(0.999, 250, 0.94), 250)
    assert low <= coverage(250) <= high
    assert coverage(60, resample_films=True) < 0.86  # too narrow: films of a patient are alike


@pytest.mark.parametrize("seed", range(5))
def test_intervals_hold_the_value_and_stay_in_range(seed):
    result = evaluate(simulate(np.random.default_rng(seed)), 0.6, seed)
    for name in ("auc", "average_precision", "sensitivity", "specificity", "ppv", "npv", "auc_PA"):
        interval = result[name]
        assert 0 <= interval["low"] < interval["value"] < interval["high"] <= 1, name


# -------------------------------------------------------------------------------------- evaluate


def test_evaluate_measures_what_scikit_learn_measures():
    films = simulate(np.random.default_rng(3))
    films["view"] = np.where(np.arange(len(films)) % 3 == 0, "AP", "PA")
    threshold = float(films["probability"].iloc[7])  # a film at the threshold is positive
    result = evaluate(films, threshold)
    target, called = films["target"], films["probability"] >= threshold
    tn, fp, fn, tp = confusion_matrix(target, called).ravel()
    assert result["confusion"] == {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    expected = {
        "auc": roc_auc_score(target, films["probability"]),
        "average_precision": average_precision_score(target, films["probability"]),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "ppv": tp / (tp + fp),
        "npv": tn / (tn + fn),
    }
    for view, part in films.groupby("view"):
        expected[f"auc_{view}"] = roc_auc_score(part["target"], part["probability"])
    assert {name: result[name]["value"] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert (result["films"], result["patients"], result["positives"]) == (320, 80, 160)
    assert result["prevalence"] == 0.5
    assert evaluate(films, threshold) == result


UNDEFINED = {"value": None, "low": None, "high": None}


def test_constant_scores_tell_nothing():
    films = simulate(np.random.default_rng(0)).assign(probability=0.3)
    result = evaluate(films, 0.5)
    assert result["auc"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert result["average_precision"]["value"] == pytest.approx(0.5)
    assert result["sensitivity"]["value"] == 0 and result["specificity"]["value"] == 1
    assert result["ppv"] == UNDEFINED and result["npv"]["value"] == 0.5


@pytest.mark.parametrize(("only", "missing"), [(0, "sensitivity"), (1, "specificity")])
def test_one_class_leaves_undefined_what_needs_both(only, missing):
    films = simulate(np.random.default_rng(0)).query("target == @only").reset_index(drop=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(films, 0.5)
    assert result["auc"] == result["auc_PA"] == result["auc_AP"] == result[missing] == UNDEFINED
    assert result["prevalence"] == only
    json.dumps(result, allow_nan=False)


@settings(deadline=None, max_examples=40)
@given(scored_films(12), st.integers(0, 20))
def test_the_result_is_plain_json(films, threshold):
    target, probability, patient = films
    table = pd.DataFrame({"target": target, "probability": probability, "patient": patient})
    result = evaluate(table.assign(view=["PA", "AP"][len(table) % 2]), threshold / 25)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


# ------------------------------------------------------------------------------------ thresholds

TARGET = np.array([0, 0, 0, 1, 0, 1, 1])
PROBABILITY = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        ("youden", 0.35),  # all 3 positives, 3 of 4 negatives, midway to the next score below
        ("sensitivity=1", 0.35),
        ("sensitivity=0.6", 0.55),
        ("specificity=1", 0.55),
        ("specificity=0.5", 0.25),
        ("0.42", 0.42),
        (0.42, 0.42),
        (1, 1.0),
        (0, 0.0),
    ],
)
def test_operating_points_of_a_known_case(rule, threshold):
    assert choose_threshold(TARGET, PROBABILITY, rule) == pytest.approx(threshold)
    order = np.random.default_rng(0).permutation(len(TARGET))
    assert choose_threshold(TARGET[order], PROBABILITY[order], rule) == pytest.approx(threshold)


def rates(target, probability, threshold):
    called = probability >= threshold
    return called[target == 1].mean(), (~called)[target == 0].mean()


@settings(deadline=None)
@given(scored_films(), st.sampled_from([0.05, 0.5, 0.8, 0.9, 0.95, 1]))
def test_rules_reach_what_they_promise_and_no_more(films, share):
    target, probability, _ = films
    reached = choose_threshold(target, probability, f"sensitivity={share}")
    assert rates(target, probability, reached)[0] >= share
    lowest_called = probability[probability >= reached].min()
    assert rates(target, probability, np.nextafter(lowest_called, 1))[0] < share
    reached = choose_threshold(target, probability, f"specificity={share}")
    assert rates(target, probability, reached)[1] >= share - 1e-9
    not_called = probability[probability < reached]
    if len(not_called):
        assert rates(target, probability, not_called.max())[1] < share


@settings(deadline=None)
@given(scored_films())
def test_youden_is_the_best_there_is(films):
    target, probability, _ = films
    chosen = choose_threshold(target, probability)
    candidates = [*np.unique(probability), 2]
    best = max(sum(rates(target, probability, c)) for c in candidates)
    assert sum(rates(target, probability, chosen)) == pytest.approx(best)
    assert 0 <= chosen <= 1


@pytest.mark.parametrize(
    "rule",
    ["best", "", "youden=1", "sensitivity", "sensitivity=", "sensitivity=0", "specificity=1.1",
     "sensitivity=90%", "precision=0.9", 1.5, -0.1, "nan", None],
)  # fmt: skip
def test_rules_that_are_none(rule):
    with pytest.raises(ValueError, match=r"operating point '.*': give 'youden', 'sensitivity=0"):
        choose_threshold(TARGET, PROBABILITY, rule)


@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.9", "specificity=0.9"])
@pytest.mark.parametrize("only", [0, 1])
def test_no_operating_point_from_one_class(rule, only):
    with pytest.raises(ValueError, match="needs films with the finding and films without"):
        choose_threshold(np.full(7, only), PROBABILITY, rule)
