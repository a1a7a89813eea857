"""Learning curves against laws that are known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from cxrlib.model.folds import TrainError
from cxrlib.model.learning import fit_power_law, learning_curve


def simulate(patients, signal, seed=0, films=2, dimensions=30):
    """Features of which one tells the label, two films per patient."""
    rng = np.random.default_rng(seed)
    target = np.repeat(np.arange(patients) % 3 == 0, films).astype(int)
    x = rng.normal(size=(len(target), dimensions))
    x[:, 0] += signal * target
    table = {"patient": np.repeat(np.arange(patients), films).astype(str), "target": target}
    table |= {"split": "train", "filename": "film"}
    return x[:, None, None, :], pd.DataFrame(table)


@pytest.mark.parametrize("sign, law", [(-1, (0.9, 0.5, 0.7)), (1, (0.1, 0.4, 0.3))])
def test_a_power_law_is_found_again(sign, law):
    sizes, ahead = np.geomspace(20, 200, 8), np.array([500.0, 1000.0])
    a, b, c = law
    found = fit_power_law(sizes, (a + sign * b * sizes**-c)[None], sign)
    assert found(ahead)[0] == pytest.approx(a + sign * b * ahead**-c, abs=0.003)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_law_stays_in_bounds_and_never_turns(sign):
    rng = np.random.default_rng(0)
    found = fit_power_law(np.geomspace(20, 80, 6), rng.random((200, 6)), sign)
    limits, path = found(np.array([1e12]))[:, 0], found(np.geomspace(20, 1e4, 9))
    assert limits.min() >= -0.1 and limits.max() <= 1.1
    assert (np.diff(path, axis=1) * -sign >= -1e-12).all()


def test_the_curve_rises_to_the_auc_of_the_one_feature():
    points, curve = learning_curve(*simulate(240, 1.8), strength=1e-2, repeats=2)
    area = points[points["metric"] == "AUC"]
    assert area["value"].is_monotonic_increasing
    assert area["patients"].iloc[[0, -1]].tolist() == [24, 192]
    kinds = curve[curve["metric"] == "AUC"].set_index("kind")
    assert kinds.loc["twice", "patients"] == 480 and kinds.loc["now", "patients"] == 240
    best = norm.cdf(1.8 / np.sqrt(2))
    assert kinds.loc["twice", "low"] < best < kinds.loc["twice", "high"] + 0.02
    assert 0 < kinds.loc["gain", "value"] < 0.05


def test_features_without_a_signal_promise_nothing():
    _, curve = learning_curve(*simulate(120, 0.0), repeats=1)
    kinds = curve.set_index(["metric", "kind"])
    assert kinds.loc[("AUC", "gain"), "low"] < 0.02
    assert kinds.loc[("AUC", "now"), "low"] < 0.5 < kinds.loc[("AUC", "now"), "high"]


def test_too_few_patients_and_test_patients_are_refused():
    features, films = simulate(57, 1.0)
    with pytest.raises(TrainError, match="19 training patients with the finding"):
        learning_curve(features, films)
    with pytest.raises(TrainError, match="test patients"):
        learning_curve(features, films.assign(split="test"))


def test_a_rare_finding_leaves_no_subset_without_it():
    features, films = simulate(400, 2.0, films=1)
    rare = films["target"].eq(0) | (films["target"].cumsum() <= 20)
    points, _ = learning_curve(features[rare], films[rare], repeats=1)
    assert points["value"].notna().all() and points["patients"].iloc[0] > 100
