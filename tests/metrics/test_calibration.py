"""Calibration against closed forms and simulated truth."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression

from cxrlib.metrics import bootstrap
from cxrlib.metrics.bootstrap import resample_patients
from cxrlib.metrics.calibration import (
    calibration_error,
    count_bins,
    decompose_brier,
    equal_count_bins,
    measure_calibration,
    shift_prevalence,
    tabulate_reliability,
)

pytestmark = pytest.mark.portable


def murphy(target, probability):
    """Murphy's reliability, resolution and uncertainty (1973), over the distinct scores."""
    reliability = resolution = 0.0
    for value in np.unique(probability):
        observed = target[probability == value]
        reliability += len(observed) * (value - observed.mean()) ** 2
        resolution += len(observed) * (observed.mean() - target.mean()) ** 2
    return reliability / len(target), resolution / len(target), target.mean() * (1 - target.mean())


def test_on_few_scores_the_parts_are_murphys():
    probability = np.repeat([0.1, 0.4, 0.8], [20, 10, 10])
    target = np.zeros(40, int)
    target[[0, 20, 21, 22, *range(30, 37)]] = 1  # shares 0.05, 0.3 and 0.7, rising
    parts = decompose_brier(target, probability)
    expected = murphy(target, probability)
    found = (parts["miscalibration"], parts["discrimination"], parts["uncertainty"])
    assert found == pytest.approx(expected)
    assert parts["miscalibration"] == pytest.approx(0.5 * 0.05**2 + 0.25 * (0.1**2 + 0.1**2))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10)), min_size=2, max_size=40))
def test_the_parts_sum_to_the_score_and_are_not_negative(films):
    target, probability = np.array(films).T
    probability = probability / 10
    parts = decompose_brier(target, probability)
    total = parts["miscalibration"] - parts["discrimination"] + parts["uncertainty"]
    assert parts["brier"] == pytest.approx(((probability - target) ** 2).mean())
    assert total == pytest.approx(parts["brier"])
    assert min(parts.values()) >= -1e-12


def test_a_calibrated_model_has_little_miscalibration_and_a_distorted_one_more():
    rng = np.random.default_rng(0)
    probability = rng.uniform(0, 1, 20_000)
    target = (rng.random(20_000) < probability).astype(int)
    assert decompose_brier(target, probability)["miscalibration"] < 0.002
    assert calibration_error(target, probability) < 0.02
    # p moved to p^2: the gap is p - p^2, in the mean 1/6; its square, in the mean 1/30.
    assert calibration_error(target, probability**2) == pytest.approx(1 / 6, abs=0.01)
    parts = decompose_brier(target, probability**2)
    assert parts["miscalibration"] == pytest.approx(1 / 30, abs=0.003)
    # Only what recalibration mends has changed.
    assert parts["discrimination"] == pytest.approx(
        decompose_brier(target, probability)["discrimination"]
    )


def test_calibration_error_of_a_known_case():
    probability = np.repeat([0.2, 0.9], 10)
    target = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0] + [1] * 8 + [0] * 2)  # 0.4 and 0.8
    assert calibration_error(target, probability) == pytest.approx((0.2 + 0.1) / 2)


@pytest.mark.parametrize(("films", "bins"), [(5, 1), (19, 1), (65, 6), (171, 10), (9999, 10)])
def test_bins_hold_ten_films_or_more(films, bins):
    assert count_bins(films) == bins
    sizes = np.bincount(equal_count_bins(np.random.default_rng(0).random(films)))
    assert len(sizes) == bins and np.ptp(sizes) <= 2


def test_tied_scores_stay_in_one_bin():
    probability = np.array([0.1] * 60 + list(np.linspace(0.2, 0.9, 40)))
    bin_of = equal_count_bins(probability)
    assert set(bin_of[:60]) == {0} and bin_of[60:].min() == 1
    assert sorted(set(bin_of)) == list(range(bin_of.max() + 1))
    assert set(equal_count_bins(np.full(50, 0.3))) == {0}


def test_reliability_counts_and_shares():
    rng = np.random.default_rng(1)
    films = pd.DataFrame({"probability": rng.random(300), "patient": rng.integers(0, 90, 300)})
    films["target"] = (rng.random(300) < films["probability"]).astype(int)
    table = tabulate_reliability(films)
    assert table["films"].tolist() == [30] * 10
    ordered = films.sort_values("probability")["target"].to_numpy().reshape(10, 30)
    np.testing.assert_allclose(table["share"], ordered.mean(axis=1), rtol=1e-6)
    assert table["low"].le(table["share"]).all() and table["high"].ge(table["share"]).all()


def test_the_bars_of_the_reliability_diagram_cover_the_truth(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    rng, covered, trials = np.random.default_rng(2), 0, 40
    for _ in range(trials):
        patient = np.repeat(np.arange(100), 2)
        probability = rng.random(100)[patient]  # two films of a patient, alike and labelled alike
        target = (rng.random(100) < probability[::2])[patient].astype(int)
        films = {"probability": probability, "target": target, "patient": patient}
        table = tabulate_reliability(pd.DataFrame(films))
        # A bin's mean probability is the true share there, since films are labelled by it.
        covered += table["probability"].between(table["low"], table["high"]).sum()
    # Bins share no patient, so each is a trial of its own.
    assert covered >= binom.ppf(0.001, 10 * trials, 0.95)


def test_prevalence_is_shifted_by_bayes_rule():
    # A film twenty times as frequent among the sick: 20/21 at 0.5, 0.2/1.19 at 0.01.
    at_half = 20 / 21
    assert shift_prevalence(np.array([at_half]), 0.5, 0.01)[0] == pytest.approx(0.2 / 1.19)
    values = np.array([0, 0.2, 0.7, 1])
    np.testing.assert_allclose(shift_prevalence(values, 0.4, 0.4), values)
    there = shift_prevalence(values, 0.4, 0.05)
    assert there[1] < 0.2 and there[2] < 0.7
    np.testing.assert_allclose(shift_prevalence(there, 0.05, 0.4), values)


def test_shifted_probabilities_are_calibrated_in_the_other_population():
    rng = np.random.default_rng(3)
    target = (rng.random(100_000) < 0.05).astype(int)
    score = rng.normal(1.5 * target, 1)
    likelihood_ratio = np.exp(1.5 * score - 1.5**2 / 2)
    at_half = likelihood_ratio / (1 + likelihood_ratio)  # calibrated at a prevalence of one half
    assert calibration_error(target, at_half) > 0.2
    assert calibration_error(target, shift_prevalence(at_half, 0.5, 0.05)) < 0.005


@pytest.mark.parametrize(("old", "new"), [(0, 0.5), (0.5, 1), (0.3, -0.1), (2, 0.5)])
def test_a_prevalence_is_a_share(old, new):
    with pytest.raises(ValueError, match="prevalence is .* give a share between 0 and 1"):
        shift_prevalence(np.array([0.5]), old, new)


# ---------------------------------------------------------------------------- slope and intercept


def tilted(films, seed, slope=0.6, intercept=0.3):
    """Targets of logits that the model states too far from 0, each film of its own patient."""
    rng = np.random.default_rng(seed)
    score = rng.normal(-0.5, 1.5, films)
    return (rng.random(films) < expit(intercept + slope * score)).astype(int), expit(score)


@pytest.mark.parametrize("shift", [0, 7])  # of logits: a finding that the model thinks common
def test_slope_is_that_of_a_logistic_regression_and_the_intercept_balances_the_mean(shift):
    target, probability = tilted(500, 0)
    probability = expit(logit(probability) + shift)
    fit = measure_calibration(target, probability, resample_patients(range(500), 50, 0))
    regression = LogisticRegression(C=np.inf, tol=1e-9).fit(logit(probability)[:, None], target)
    assert fit["calibration_slope"]["value"] == pytest.approx(regression.coef_.item(), abs=1e-3)
    moved = expit(logit(probability) + fit["calibration_intercept"]["value"])
    assert moved.mean() == pytest.approx(target.mean(), abs=1e-4)
    assert fit["observed_to_expected"]["value"] == pytest.approx(target.sum() / probability.sum())


def test_intervals_of_the_slope_hold_the_truth():
    held = 0
    for seed in range(100):
        target, probability = tilted(300, seed)
        fit = measure_calibration(target, probability, resample_patients(range(300), 200, seed))
        held += fit["calibration_slope"]["low"] <= 0.6 <= fit["calibration_slope"]["high"]
    assert binom.cdf(held, 100, 0.95) > 0.001 and held > 85


@pytest.mark.parametrize("low, high", [(0.1, 0.9), (0.01, 0.99), (0.3, 0.3), (0, 0)])
@pytest.mark.parametrize("targets", [[0] * 10 + [1] * 10, [0] * 20])
def test_labels_that_scores_separate_have_no_slope(targets, low, high):
    target, probability = np.array(targets), np.linspace(low, high, 20)
    fit = measure_calibration(target, probability, resample_patients(range(20), 50, 0))
    assert fit["calibration_slope"]["value"] is None
