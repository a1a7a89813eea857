"""Sizes of tests against published examples, closed forms and simulated tests."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import norm

from cxrlib.metrics.planning import (
    films_for_auc,
    films_for_calibration,
    films_for_rate,
    plan_test,
)


def spread(mean, deviation, n=20_000):
    """Probabilities whose logits are normal, free of chance."""
    return expit(norm.ppf((np.arange(n) + 0.5) / n, mean, deviation))


def simulate(patients, films, seed=0, between=1.3, within=1.0):
    """Calibrated scores; logits of a patient's films correlate, and labels follow them."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), films)
    share = rng.normal(-0.5, between, patients)[patient] + rng.normal(0, within, len(patient))
    target = (rng.random(len(share)) < expit(share)).astype(int)
    return pd.DataFrame({"patient": patient, "target": target, "probability": expit(share)})


@pytest.mark.parametrize(
    "phi, error, films",
    [(0.5, 0.051, 384), (0.1, 0.051, 3460), (0.1, 0.175, 294)],
)
def test_observed_to_expected_as_in_section_3_1_of_riley(phi, error, films):
    width = np.exp(norm.ppf(0.975) * error) - np.exp(-norm.ppf(0.975) * error)
    needed = films_for_calibration(np.array([phi]), "observed_to_expected", width)
    assert needed == pytest.approx(films, abs=1)


def test_calibration_slope_as_simulated_for_the_thrombosis_model():
    """Snell et al. (J Clin Epidemiol 2021) simulate: 2,430 participants, 531 of them events."""
    probability = spread(-1.75, 1.47)
    assert probability.mean() == pytest.approx(531 / 2430, rel=0.01)
    assert films_for_calibration(probability, "calibration_slope", 0.2) == pytest.approx(
        2430, rel=0.015
    )


def test_auc_as_in_hanley_and_mcneil():
    """51 abnormal and 58 normal images of 1982, AUC 0.893, standard error 0.032."""
    needed = films_for_auc(0.893, 51 / 109, 2 * norm.ppf(0.975) * 0.032)
    assert needed == pytest.approx(109, rel=0.02)


def test_a_rate_takes_as_many_as_wald_says():
    n = films_for_rate(0.9, 0.2, 0.2)
    assert 2 * norm.ppf(0.975) * np.sqrt(0.9 * 0.1 / (0.2 * n)) == pytest.approx(0.2)


@pytest.mark.parametrize("copies", [1, 3])
def test_copies_of_a_film_are_worth_one(copies):
    alone = simulate(150, 1)
    plan = plan_test(alone.loc[alone.index.repeat(copies)].reset_index(drop=True), 0.4)
    assert plan["design_effect"].to_numpy() == pytest.approx(copies)
    once = plan_test(alone, 0.4)["patients"]
    assert plan["patients"].to_numpy() == pytest.approx(once.to_numpy(), rel=0.05)


def test_planned_sizes_foretell_the_widths_of_other_tests():
    plan, other = plan_test(simulate(800, 3), 0.4), plan_test(simulate(400, 3, seed=1), 0.4)
    foretold = plan["wanted"] * np.sqrt(plan["patients"] / 400)
    exact = ["auc", "sensitivity", "specificity", "calibration_slope", "calibration_intercept"]
    assert other.loc[exact, "width"].to_numpy() == pytest.approx(foretold[exact], rel=0.2)
    # Riley's formula of this one takes what is expected for fixed, so it asks for more.
    assert 0.6 < other.loc["observed_to_expected", "width"] / foretold["observed_to_expected"] < 1


def test_perfect_scores_give_no_size_of_an_auc():
    films = simulate(60, 1)
    plan = plan_test(films.assign(probability=0.2 + 0.6 * films["target"]), 0.5)
    assert np.isnan(plan.loc[["auc", "calibration_slope"], "patients"]).all()
    assert plan.loc["sensitivity", "patients"] > 0


@pytest.mark.parametrize("widths", [{"auc": 0}, {"auc": float("nan")}, {"ppv": 0.1}])
def test_widths_that_are_none(widths):
    with pytest.raises(ValueError, match="give a width above 0 of auc"):
        plan_test(simulate(60, 1), 0.5, widths)


def test_one_class():
    with pytest.raises(ValueError, match="both classes"):
        plan_test(simulate(60, 1).assign(target=0), 0.5)
