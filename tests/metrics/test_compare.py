"""DeLong's test against the example of its paper, Obuchowski's variance against simulated truth."""

import numpy as np
import pytest
from scipy.stats import binom, norm

from cxrlib.metrics.compare import compare_auc

# Ovarian cancer data of DeLong, DeLong and Clarke-Pearson (1988) as in Example 'Comparing Receiver
# Operating Characteristic Curves' of SAS/STAT's LOGISTIC procedure: albumin, total protein, K-G
# score, and whether surgery helped; the six records with missing values are left out there, too.
DELONG = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        # AUC, its standard error, difference to the K-G score, its standard error, p
        (0, (0.7366, 0.0927, 0.0108, 0.0953, 0.9102)),
        (1, (0.6478, 0.1000, -0.0780, 0.1046, 0.4561)),
    ],
    ids=["albumin", "total protein"],
)
def test_the_published_example(test, expected):
    data = np.array(DELONG.split(), float).reshape(-1, 4)
    target, kg_score = data[:, 3].astype(int), -data[:, 2]
    assert (len(data), target.sum()) == (43, 31)
    found = compare_auc(target, data[:, test], kg_score)
    names = ("first", "first_error", "difference", "error", "p")
    assert tuple(round(found[name], 4) for name in names) == expected
    assert (round(found["second"], 4), round(found["second_error"], 4)) == (0.7258, 0.1028)
    reach = 1.959964 * found["error"]
    assert found["low"] == pytest.approx(found["difference"] - reach)
    assert found["high"] == pytest.approx(found["difference"] + reach)


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


def test_the_interval_covers_the_difference_where_patients_have_several_films():
    rng, trials = np.random.default_rng(0), 400
    spread = np.sqrt(2 * (1 + 0.4**2))
    # Of films of different patients; the few pairs within one patient move it by less than 0.005.
    truth = norm.cdf(1.5 / spread) - norm.cdf(1 / spread)
    covered = naive = small = 0
    for _ in range(trials):
        target, first, second, patient = draw(rng, gap=0.5)
        found = compare_auc(target, first, second, patient)
        covered += found["low"] <= truth <= found["high"]
        as_films = compare_auc(target, first, second)
        naive += as_films["low"] <= truth <= as_films["high"]
        target, first, second, patient = draw(rng)
        small += compare_auc(target, first, second, patient)["p"] < 0.05
    low, high = binom.interval(0.999, trials, 0.945)
    assert low <= covered <= high
    assert naive < 0.9 * trials  # too narrow: films of a patient are alike
    low, high = binom.interval(0.999, trials, 0.055)
    assert low <= small <= high  # p below 0.05 as often as it says, where there is no difference


def test_one_film_a_patient_is_delongs_own_variance():
    target, first, second, _ = draw(np.random.default_rng(1), films=1)
    patients = np.random.default_rng(2).permutation(len(target))
    plain, clustered = (
        compare_auc(target, first, second),
        compare_auc(target, first, second, patients),
    )
    positive, negative = target == 1, target == 0

    def placements(score):
        wins = (score[positive][:, None] > score[negative]).astype(float)
        return wins.mean(axis=1), wins.mean(axis=0)

    (a, b), (c, d) = placements(first), placements(second)
    variance = np.var(a - c, ddof=1) / positive.sum() + np.var(b - d, ddof=1) / negative.sum()
    # Obuchowski's cross term is an estimate of 0 here: a patient has a film of one class alone.
    assert plain["error"] == pytest.approx(np.sqrt(variance))
    assert clustered["error"] == pytest.approx(np.sqrt(variance))


def test_every_film_twice_is_no_more_evidence():
    target, first, second, _ = draw(np.random.default_rng(3), films=1)
    once = compare_auc(target, first, second)
    twice = compare_auc(*(np.repeat(x, 2) for x in (target, first, second, np.arange(len(target)))))
    assert twice["error"] == pytest.approx(once["error"])


def test_the_same_ranking_makes_no_difference():
    target, first, _, patient = draw(np.random.default_rng(4))
    found = compare_auc(target, first, np.exp(first), patient)
    assert (found["difference"], found["error"], found["p"]) == (0, 0, 1)


@pytest.mark.parametrize("side", [0, 1])
def test_two_patients_of_each_class_are_needed(side):
    target = np.full(6, side)
    target[0] = 1 - side
    name = "without" if side else "with the finding"
    with pytest.raises(ValueError, match=f"films of two patients {name}"):
        compare_auc(target, np.arange(6), np.arange(6))
