"""Operating points on known cases, and what they mean at another prevalence."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_metrics import scored_films

from cxrlib.metrics.report import tabulate_net_benefit
from cxrlib.metrics.thresholds import (
    at_prevalence,
    choose_threshold,
    tabulate_operating_points,
    tabulate_prevalences,
)

pytestmark = pytest.mark.portable

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
        ("cost=1", 0.55),  # one error at 0.55 and at 0.35: the higher one is taken
        ("cost=0.1", 0.55),
        ("cost=9", 0.35),
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
     "sensitivity=90%", "precision=0.9", "cost=0", "cost=-1", "cost=inf",
     "cost", 1.5, -0.1, "nan", None],
)  # fmt: skip
def test_rules_that_are_none(rule):
    with pytest.raises(ValueError, match=r"operating point '.*': give 'youden', 'sensitivity=0"):
        choose_threshold(TARGET, PROBABILITY, rule)


@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.9", "specificity=0.9"])
@pytest.mark.parametrize("only", [0, 1])
def test_no_operating_point_from_one_class(rule, only):
    with pytest.raises(ValueError, match="needs films with the finding and films without"):
        choose_threshold(np.full(7, only), PROBABILITY, rule)


@settings(deadline=None)
@given(scored_films(), st.sampled_from([0.2, 1, 5, 20]))
def test_no_threshold_costs_less(films, cost):
    target, probability, _ = films

    def price(threshold):
        called = probability >= threshold
        return cost * (~called)[target == 1].sum() + called[target == 0].sum()

    best = min(price(threshold) for threshold in [*np.unique(probability), 2])
    # Thresholds stay in 0..1, so a film of probability 1 is always called.
    assert price(choose_threshold(target, probability, f"cost={cost}")) == pytest.approx(best)


def films_of(sensitivity, specificity, n=100):
    """One film a patient, n with the finding and n without, called at 0.5 with these rates."""
    ill = np.repeat([0.9, 0.1], [round(sensitivity * n), n - round(sensitivity * n)])
    well = np.repeat([0.1, 0.9], [round(specificity * n), n - round(specificity * n)])
    return pd.DataFrame(
        {
            "target": np.repeat([1, 0], n),
            "probability": np.concatenate([ill, well]),
            "patient": np.arange(2 * n),
        }
    )


def test_predictive_values_at_another_prevalence():
    # Altman and Bland (BMJ 1994; 309: 102): 0.90 and 0.63 at 0.75 give PPV 0.88, at 0.25 0.45.
    table = tabulate_prevalences(films_of(0.90, 0.63), 0.5, [0.25, 0.75]).set_index("prevalence")
    assert table["ppv"].round(2).tolist() == [0.45, 0.88]
    assert table["npv"].round(2).tolist() == [0.95, 0.68]
    assert table.loc[0.25, "false_alarms"] == pytest.approx(100 * 0.75 * 0.37)
    for name in ("ppv", "npv", "false_alarms"):
        assert (table[f"{name}_low"] < table[name]).all()
        assert (table[name] < table[f"{name}_high"]).all()


def test_at_the_prevalence_of_the_films_it_is_the_predictive_value_itself():
    films = films_of(0.8, 0.7)
    row = tabulate_prevalences(films, 0.5, [0.5]).iloc[0]
    called = films["probability"] >= 0.5
    assert row["ppv"] == pytest.approx(films.loc[called, "target"].mean())
    assert row["npv"] == pytest.approx(1 - films.loc[~called, "target"].mean())


def test_calls_that_are_never_made_are_worth_nothing_known():
    worth = at_prevalence(0.0, 1.0, 0.2)
    assert np.isnan(worth["ppv"]) and worth["npv"] == pytest.approx(0.8)
    assert (worth["false_alarms"], worth["missed"]) == (0, 20)


def test_no_false_alarm_seen_is_not_a_promise_of_none():
    row = tabulate_prevalences(films_of(0.8, 1.0, n=20), 0.5, [0.01]).iloc[0]
    assert row["ppv"] == 1 and row["ppv_low"] < 0.1
    assert row["false_alarms"] == 0 and row["false_alarms_high"] > 10


def test_thresholds_come_from_training_and_are_applied_to_test():
    rng = np.random.default_rng(0)
    train, test = (
        pd.DataFrame({"target": rng.integers(0, 2, 200), "patient": np.arange(200)})
        for _ in range(2)
    )
    for films, shift in ((train, 0.2), (test, 0.1)):
        films["probability"] = np.clip(rng.uniform(0.1, 0.7, 200) + shift * films["target"], 0, 1)
    rules = ["youden", "sensitivity=0.9", 0.5]
    table = tabulate_operating_points(train, test, rules)
    assert table.index.tolist() == rules
    for rule in rules:
        threshold = choose_threshold(
            train["target"].to_numpy(), train["probability"].to_numpy(), rule
        )
        assert table.loc[rule, "threshold"] == round(threshold, 3)
        for name, films in (("train", train), ("test", test)):
            found = (films["probability"] >= threshold)[films["target"] == 1].mean()
            assert table.loc[rule, f"sensitivity, {name}"].startswith(f"{found:.2f} (")


def test_net_benefit_by_hand():
    # From 0.25 on: 3 of 3 found, 2 of 4 false alarms, each worth a third of a film found.
    films = {"target": TARGET, "probability": PROBABILITY, "patient": np.arange(7)}
    curve = tabulate_net_benefit(pd.DataFrame(films), [0.25, 3 / 7]).set_index("threshold")
    assert curve.loc[0.25, "model"] == pytest.approx((3 - 2 / 3) / 7)
    assert curve.loc[0.25, "treat_all"] == pytest.approx((3 - 4 / 3) / 7)
    assert curve.loc[0.25, "gain"] == pytest.approx(2 / 3 / 7)
    assert curve["treat_all"].iloc[1] == pytest.approx(0)  # at the prevalence
    assert curve["gain"].between(curve["gain_low"], curve["gain_high"]).all()


def test_a_few_films_below_a_threshold_are_no_benefit():
    """None of the lowest 20 has the finding: chance, which resamples of them would not show."""
    films = {"target": np.arange(400) % 10 == 9, "probability": np.linspace(0, 1, 400)}
    films["target"][:40] = False
    curve = tabulate_net_benefit(pd.DataFrame(films | {"patient": np.arange(400)}), [0.05])
    assert curve["gain"].item() > 0 > curve["gain_low"].item()
