"""Metrics against scikit-learn, intervals against simulated truth."""

import json
import warnings
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from cxrlib.metrics import bootstrap
from cxrlib.metrics.bootstrap import (
    auc,
    average_precision,
    compare_auc,
    interval,
    ranking_interval,
    resample_patients,
    share,
)
from cxrlib.metrics.report import (
    evaluate,
    format_interval,
    measure_decisions,
    tabulate_metrics,
    tabulate_subgroups,
)
from cxrlib.metrics.thresholds import tabulate_prevalences

pytestmark = pytest.mark.portable


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
    weights = resample_patients(patient, 2, seed)
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
    assert weights.shape == (4001, 7) and (weights[0] == 1).all()
    for patient in set(patients):
        of_patient = weights[:, [p == patient for p in patients]]
        assert (of_patient == of_patient[:, :1]).all()
    first_films = weights[:, [0, 1, 2, 6]]
    assert (first_films.sum(axis=1) == 4).all()  # as many patients as there are
    error = np.sqrt(3 / 4 / 4000)  # of the mean of a binomial of 4 draws at 1/4
    np.testing.assert_allclose(weights[1:].mean(axis=0), 1, atol=5 * error)


def test_resamples_follow_the_seed():
    draws = [resample_patients(range(20), 10, seed) for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()


# ------------------------------------------------------------------------------------- intervals


def simulate(rng, patients=80, films=4, distance=1.0, between=1.0, within=0.5, drawn=None):
    """Films whose scores resemble each other within a patient, half of the patients positive: every
    other one, or as `drawn` says of so many patients."""
    patient = np.repeat(np.arange(patients), films)
    target = (drawn(patients) if drawn else np.arange(patients) % 2)[patient]
    own = rng.normal(0, between, patients)[patient]
    logit = distance * target + own + rng.normal(0, within, len(patient))
    probability = 1 / (1 + np.exp(-logit))
    return pd.DataFrame(
        {"target": target, "probability": probability, "patient": patient, "view": "PA"}
    )


def columns_of(films, *names):
    return (films[name].to_numpy() for name in ("target", "probability", "patient", *names))


def test_the_interval_covers_the_true_auc_as_often_as_it_says():
    truth = norm.cdf(1.0 / np.sqrt(2 * (1.0**2 + 0.5**2)))
    rng = np.random.default_rng(0)

    def coverage(trials, units):
        covered, weights = 0, resample_patients(units, 200, 0)
        for _ in range(trials):
            target, probability, _ = columns_of(simulate(rng, patients=60))
            found = interval(auc(target, probability, weights))
            covered += found["low"] <= truth <= found["high"]
        return covered / trials

    low, high = np.divide(binom.interval(0.999, 250, 0.94), 250)
    assert low <= coverage(250, np.repeat(np.arange(60), 4)) <= high
    assert coverage(60, np.arange(240)) < 0.86  # too narrow: films of a patient are alike


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


def test_pairs_within_a_stratum_are_counted_and_no_others():
    rng = np.random.default_rng(4)
    target, strata = rng.integers(0, 2, 60), rng.choice(["AP", "PA", ""], 60)
    score = rng.integers(0, 9, 60) / 9
    weights = rng.integers(0, 3, (4, 60)).astype(np.float32)
    for value, weight in zip(auc(target, score, weights, strata), weights, strict=True):
        won = pairs = 0.0
        for i in np.flatnonzero(target == 1):
            for j in np.flatnonzero((target == 0) & (strata == strata[i])):
                won += weight[i] * weight[j] * ((score[i] > score[j]) + (score[i] == score[j]) / 2)
                pairs += weight[i] * weight[j]
        assert value == pytest.approx(won / pairs)


def test_view_matched_auc_takes_out_what_the_view_alone_explains():
    rng = np.random.default_rng(5)
    films = simulate(rng, patients=400, films=1, distance=0.0)
    bedside = rng.random(400) < np.where(films["target"] == 1, 0.8, 0.2)
    films["view"] = np.where(bedside, "AP", "PA")
    films["probability"] = np.clip(films["probability"] / 4 + bedside / 2, 0, 1)
    result = evaluate(films, 0.5)
    assert result["auc"]["low"] > 0.7
    assert result["auc_view_matched"]["low"] < 0.5 < result["auc_view_matched"]["high"]


# -------------------------------------------------------- where a bootstrap is silent or misleads


@pytest.mark.parametrize(("hits", "ends"), [(True, (0.025 ** (1 / 20), 1)), (False, (0, None))])
def test_a_share_of_0_or_1_gets_the_exact_binomial_interval(hits, ends):
    patients = np.repeat(np.arange(20), 3)
    weights = resample_patients(patients, 20_000, 0)
    everyone = np.ones(60, bool)
    value, *resampled = share(everyone & hits, everyone, patients, weights)
    low, high = np.percentile(resampled, [2.5, 97.5])
    assert value == hits
    edge = binomtest(20 * hits, 20).proportion_ci(0.95, "exact")  # of patients, not of films
    inner, expected = (low, edge.low) if hits else (high, edge.high)
    assert inner == pytest.approx(expected, abs=0.01)


def test_a_share_of_few_events_gets_the_exact_binomial_interval():
    patients, alarms = np.arange(41), np.arange(41) < 3
    found = interval(
        share(~alarms, alarms | True, patients, resample_patients(patients, 20_000, 0))
    )
    exact = binomtest(38, 41).proportion_ci(0.95, "exact")
    assert (found["low"], found["high"]) == pytest.approx((exact.low, exact.high), abs=0.01)
    # The same films, three times each, are no more evidence; alarms of one patient are less.
    patients, alarms = np.repeat(patients, 3), np.repeat(alarms, 3)
    again = interval(
        share(~alarms, alarms | True, patients, resample_patients(patients, 20_000, 0))
    )
    assert (again["low"], again["high"]) == pytest.approx((found["low"], found["high"]), abs=0.015)
    alarms = np.arange(41) < 3
    patients = np.maximum(np.arange(41), 2)
    one = interval(share(~alarms, alarms | True, patients, resample_patients(patients, 2000, 0)))
    assert one["high"] - one["low"] > found["high"] - found["low"] and one["high"] < 1


@pytest.mark.parametrize(("hits", "films"), [(15, 22), (13, 23)])
def test_a_share_among_films_of_one_patient_is_measured(hits, films):
    """Rounding leaves a variance there, which no number of patients divides."""
    assert hits - hits / films * films
    patients, everyone = np.zeros(films, int), np.ones(films, bool)
    weights = resample_patients(patients, 100, 0)
    measured = interval(share(np.arange(films) < hits, everyone, patients, weights))
    assert measured["value"] == pytest.approx(hits / films)
    assert measured["high"] - measured["low"] > 0.5


@pytest.mark.parametrize(
    ("patients", "truth", "alike"),
    [(13, 0.8, 0.7), (30, 0.95, 0.7), (30, 0.95, 0.2), (60, 0.97, 0.5)],
)
def test_the_interval_of_a_share_of_few_events_covers_the_truth(patients, truth, alike):
    rng, trials, covered, resampled, contradicted = np.random.default_rng(1), 150, 0, 0, 0
    for _ in range(trials):
        patient = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
        own = np.sqrt(alike) * rng.normal(size=patients)[patient]
        right = own + np.sqrt(1 - alike) * rng.normal(size=len(patient)) < norm.ppf(truth)
        weights = resample_patients(patient, 200, 0)
        found = interval(share(right, right | True, patient, weights))
        covered += found["low"] <= truth <= found["high"]
        contradicted += found["high"] == 1 and not right.all()
        low, high = np.percentile(weights @ right / weights.sum(axis=1), [2.5, 97.5])
        resampled += low <= truth <= high
    assert covered >= binom.ppf(0.001, trials, 0.95) and not contradicted
    assert resampled < covered and (truth < 0.9 or resampled < 0.92 * trials)


def test_the_worth_of_a_call_at_another_prevalence_is_not_certain_beside_false_alarms():
    films = pd.DataFrame({"patient": np.arange(65), "target": np.arange(65) < 24})
    films["probability"] = np.where(films["target"], 0.9, 0.1)
    films.loc[[3, 9, 30, 40, 50], "probability"] = [0.1, 0.1, 0.9, 0.9, 0.9]
    row = tabulate_prevalences(films, 0.5, [0.01]).iloc[0]
    assert 0.01 < row["ppv_low"] < row["ppv"] < row["ppv_high"] < 0.7
    assert row["false_alarms_low"] > 0.1


def perfect(patients=10):
    films = simulate(np.random.default_rng(0), patients=patients)
    return films.assign(probability=films["target"] * 0.8 + 0.1)


def test_perfect_scores_of_few_patients_are_not_taken_for_certain():
    result = evaluate(perfect(), 0.5)
    five_pairs = {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 5)), "high": 1.0}
    assert result["auc"] == result["average_precision"] == result["auc_view_matched"] == five_pairs
    assert result["sensitivity"]["high"] == 1 and 0.4 < result["sensitivity"]["low"] < 0.55
    upside_down = evaluate(perfect().eval("probability = 1 - probability"), 0.5)["auc"]
    assert upside_down == {"value": 0, "low": 0, "high": pytest.approx(1 - 0.025 ** (1 / 5))}


def test_pairs_of_another_view_are_no_evidence_for_a_view_matched_area():
    films = perfect()
    # One patient with the finding is seen in AP; all other pairs are of PA.
    films["view"] = np.where(films["patient"].isin([1, 0, 2]), "AP", "PA")
    matched = evaluate(films, 0.5)["auc_view_matched"]
    assert matched["low"] == pytest.approx(0.025 ** (1 / (1 + 3)))


def test_films_of_one_patient_say_nothing_of_others():
    target, probability = np.array([0, 1, 1]), np.array([0.3, 0.2, 0.4])
    patients = np.zeros(3)
    weights = resample_patients(patients, 50, 0)
    found = ranking_interval(auc(target, probability, weights), target, patients)
    assert found == {"value": 0.5, "low": 0, "high": 1}


def test_the_intervals_of_rates_cover_their_truth():
    spread = np.sqrt(1.0**2 + 0.5**2)
    cut = 0.4  # a logit
    sensitivity, specificity = norm.sf((cut - 1) / spread), norm.cdf(cut / spread)
    truth = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": sensitivity / (sensitivity + 1 - specificity),
        "npv": specificity / (specificity + 1 - sensitivity),
    }
    big = simulate(np.random.default_rng(1), patients=100_000)
    truth["average_precision"] = average_precision_score(big["target"], big["probability"])
    rng, covered = np.random.default_rng(2), dict.fromkeys(truth, 0)
    trials, weights = 200, resample_patients(np.repeat(np.arange(80), 4), 200, 0)
    for _ in range(trials):
        films = simulate(rng, drawn=lambda n: (rng.random(n) < 0.5).astype(int))
        target, probability, _ = columns_of(films)
        result = measure_decisions(films, 1 / (1 + np.exp(-cut)), weights)
        result["average_precision"] = interval(average_precision(target, probability, weights))
        for name, value in truth.items():
            covered[name] += result[name]["low"] <= value <= result[name]["high"]
    low, high = binom.interval(0.9998, trials, 0.94)
    assert all(low <= count <= high for count in covered.values()), covered


# ------------------------------------------------------------------------------ views not known


def test_without_views_none_is_measured_and_tables_say_unknown():
    films = simulate(np.random.default_rng(8)).assign(view="")
    result = evaluate(films, 0.5)
    assert result["auc_PA"] == result["auc_AP"] == result["auc_view_matched"] == UNDEFINED
    rows = tabulate_metrics({"train": result, "test": result}).index
    assert "auc" in rows and not any("view" in row or row[-3:] in ("_PA", "_AP") for row in rows)
    assert tabulate_subgroups(result).index.tolist() == [("view", "unknown")]
    # A row that one set of patients has stays, and films of unknown view are matched with none.
    known = films.assign(view=np.where(films["patient"] < 40, "PA", ""))
    some = evaluate(known, 0.5)
    assert some["auc_view_matched"] == some["auc_PA"]
    assert tabulate_metrics({"train": result, "test": some}).loc["auc_PA"].iloc[0] == "undefined"


# ----------------------------------------------------------------------------- two classifiers


def draw(rng, patients=60, films=3, gap=0.0):
    """Two scores of the same films; what a patient's films share is most of the noise."""
    patient = np.repeat(np.arange(patients), films)
    target = rng.random(patients)[patient] < 0.5
    target = np.where(rng.random(len(patient)) < 0.2, ~target, target).astype(int)
    scores = []
    for distance in (1.0 + gap, 1.0):
        own = rng.normal(0, 1, patients)[patient]
        scores.append(distance * target + own + rng.normal(0, 0.4, len(patient)))
    return target, *scores, patient


def test_the_interval_covers_the_difference_of_two_areas(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    rng, trials = np.random.default_rng(0), 100
    spread = np.sqrt(2 * (1 + 0.4**2))
    # Of films of different patients; the few pairs within one patient move it by less than 0.005.
    truth = norm.cdf(1.5 / spread) - norm.cdf(1 / spread)
    covered = naive = 0
    for _ in range(trials):
        target, first, second, patient = draw(rng, gap=0.5)
        found = compare_auc(target, first, second, patient)["difference"]
        covered += found["low"] <= truth <= found["high"]
        found = compare_auc(target, first, second, np.arange(len(target)))["difference"]
        naive += found["low"] <= truth <= found["high"]
    low, high = binom.interval(0.999, trials, 0.94)
    assert low <= covered <= high
    assert naive < 0.9 * trials  # too narrow: films of a patient are alike


def test_two_scores_are_compared_in_the_same_resamples():
    target, first, second, patient = draw(np.random.default_rng(4), gap=0.5)
    found = compare_auc(target, first, second, patient)
    assert found["first"]["value"] == pytest.approx(roc_auc_score(target, first))
    assert found["second"]["value"] == pytest.approx(roc_auc_score(target, second))
    gap = found["first"]["value"] - found["second"]["value"]
    assert found["difference"]["value"] == pytest.approx(gap)
    ranked_alike = compare_auc(target, first, np.exp(first), patient)
    assert ranked_alike["difference"] == {"value": 0, "low": 0, "high": 0}
    # Every film twice is no more evidence.
    assert compare_auc(*(np.repeat(x, 2) for x in (target, first, second, patient))) == found


@pytest.mark.parametrize("side", [0, 1])
def test_two_patients_of_each_class_are_needed(side):
    target = np.full(6, side)
    target[0] = 1 - side
    name = "without" if side else "with the finding"
    with pytest.raises(ValueError, match=f"films of two patients {name}"):
        compare_auc(target, np.arange(6), np.arange(6), np.arange(6))


# ---------------------------------------------------------------------------------------- groups


def test_subgroups_are_what_the_films_of_each_group_give():
    films = simulate(np.random.default_rng(6))
    films["view"] = np.where(np.arange(320) % 3 == 0, "AP", "")
    films["sex"] = np.where(np.arange(320) % 5 == 0, "F", "M")
    films["age"] = np.where(np.arange(320) % 7 == 0, np.nan, np.arange(320) % 90)
    with patch.object(bootstrap, "RESAMPLES", 50):
        result = evaluate(films, 0.6)
    names = {(s["group"], s["name"]) for s in result["subgroups"]}
    assert names == {
        *[("view", "AP"), ("view", "unknown"), ("sex", "F"), ("sex", "M"), ("age", "unknown")],
        *[("age", "0 to 39"), ("age", "40 to 59"), ("age", "60 and older")],
    }
    parts = {
        ("sex", "F"): films[films["sex"] == "F"],
        ("age", "40 to 59"): films[films["age"].between(40, 59)],
        ("view", "unknown"): films[films["view"] == ""],
    }
    for subgroup in result["subgroups"]:
        part = parts.get((subgroup["group"], subgroup["name"]))
        if part is None:
            continue
        assert subgroup["films"] == len(part)
        assert subgroup["positives"] == part["target"].sum()
        assert subgroup["patients"] == part["patient"].nunique()
        assert subgroup["auc"]["value"] == pytest.approx(
            roc_auc_score(part["target"], part["probability"])
        )
        called = part["probability"] >= 0.6
        assert subgroup["sensitivity"]["value"] == pytest.approx(called[part["target"] == 1].mean())
        assert subgroup["specificity"]["value"] == pytest.approx(
            (~called)[part["target"] == 0].mean()
        )
    table = tabulate_subgroups(result)
    assert table.loc[("sex", "F"), "films"] == 64
    first = result["subgroups"][0]
    assert table["auc"].iloc[0] == format_interval(first["auc"])


def test_brier_score_is_the_mean_of_squares():
    films = simulate(np.random.default_rng(7))
    brier = ((films["probability"] - films["target"]) ** 2).mean()
    result = evaluate(films, 0.5)
    assert result["brier"]["value"] == pytest.approx(brier)
    assert result["calibration"]["brier"] == pytest.approx(brier)
    assert result["brier"]["low"] < brier < result["brier"]["high"]


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


@patch.object(bootstrap, "RESAMPLES", 50)  # their number does not change what is plain
@settings(deadline=None, max_examples=40)
@given(scored_films(12), st.integers(0, 20))
def test_the_result_is_plain_json(films, threshold):
    target, probability, patient = films
    table = pd.DataFrame({"target": target, "probability": probability, "patient": patient})
    result = evaluate(table.assign(view=["PA", "AP"][len(table) % 2]), threshold / 25)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
