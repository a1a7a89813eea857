import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from cxrlib.model import folds, head, span
from cxrlib.model.folds import FOLDS, TrainError, patient_folds
from cxrlib.model.head import EPSILON, fit_head, fit_uncalibrated

pytestmark = pytest.mark.portable


def draw_patients(patients, per_patient, rng, prevalence=0.5):
    """Training films of patients who have the finding or have not, as `choose_films` gives them."""
    ill = np.arange(patients) < round(patients * prevalence)
    patient = np.repeat(np.arange(patients), per_patient)
    order = rng.permutation(len(patient))
    return pd.DataFrame(
        {
            "filename": [f"{i}.png" for i in range(len(patient))],
            "patient": patient[order].astype(str),
            "target": ill[patient[order]].astype(int),
            "split": "train",
        }
    )


def draw_features(films, rng, shape=(2, 2, 5), shift=1):
    features = rng.normal(size=(len(films), *shape))
    features[..., 0] += shift * films["target"].to_numpy()[:, None, None]
    return features.astype(np.float32)


@pytest.fixture(scope="module")
def films():
    return draw_patients(40, 2, np.random.default_rng(1))


@pytest.fixture(scope="module")
def features(films):
    return draw_features(films, np.random.default_rng(2))


@pytest.fixture(scope="module")
def fitted(features, films):
    return fit_head(features, films)


def head_logit(model, features):
    return model(features.astype(np.float32)).numpy()[:, 0]


def test_folds_are_grouped_and_stratified():
    films = draw_patients(100, 3, np.random.default_rng(0), prevalence=0.2)
    fold = patient_folds(films, seed=4)
    assert set(fold) == set(range(FOLDS))
    assert films.groupby("patient").apply(lambda f: len(set(fold[f.index]))).eq(1).all()
    by_fold = films.groupby(fold)["target"]
    assert by_fold.size().between(50, 70).all()
    assert by_fold.mean().between(0.15, 0.25).all()
    assert (fold == patient_folds(films, seed=4)).all()
    assert (fold != patient_folds(films, seed=5)).any()


@pytest.mark.parametrize("shape", [(2, 2, 100), (1, 1, 12)], ids=["more", "fewer than films"])
def test_linear_head_is_the_plain_logistic_regression(films, shape):
    rng = np.random.default_rng(3)
    unit = rng.uniform(0.1, 9, shape)

    def draw():
        drawn = draw_features(films, rng, shape) * unit
        drawn += 20 * rng.normal(size=(len(films), 1, 1, 1))  # brightness, in all of them
        drawn[..., 1] = 2  # a dead feature
        return drawn

    features, new = draw(), draw()
    target, fold = films["target"].to_numpy(), patient_folds(films)
    head, history = fit_uncalibrated(features, target, fold, {"kind": "linear"})

    flat = features.reshape(len(features), -1)
    standard = (flat - flat.mean(axis=0)) / np.sqrt(flat.var(axis=0) + EPSILON)

    def plain(strength):
        return LogisticRegression(C=strength, class_weight="balanced", tol=1e-10, max_iter=10000)

    strength = history.groupby("strength")["auc"].mean().idxmax()
    score = np.empty(len(target))
    for number, auc in history.query("strength == @strength")[["fold", "auc"]].to_numpy():
        out = fold == number
        model = plain(strength).fit(standard[~out], target[~out])
        score[out] = model.decision_function(standard[out])
        assert auc == pytest.approx(roc_auc_score(target[out], score[out]), abs=0.01)
    model = plain(strength).fit(standard, target)
    expected = model.decision_function(
        (new.reshape(len(new), -1) - flat.mean(axis=0)) / np.sqrt(flat.var(axis=0) + EPSILON)
    )
    expected = (expected - score.mean()) / score.std()
    np.testing.assert_allclose(head_logit(head, new), expected, atol=3e-3)  # of about 1
    kernel = head.get_layer("logit").get_weights()[0][:, 0] * score.std()
    np.testing.assert_allclose(kernel, model.coef_[0], atol=5e-3 * abs(model.coef_).max())


class OnDisk:
    """Features in float16 that are read in blocks only."""

    def __init__(self, features):
        self.features, self.shape = features.astype(np.float16), features.shape

    def __len__(self):
        return len(self.features)

    def __getitem__(self, some):
        block = self.features[some]
        assert len(block) <= span.ROWS
        return block


def test_many_films_are_fitted_in_blocks_to_the_same_head(monkeypatch):
    rng = np.random.default_rng(12)
    films = draw_patients(120, 2, rng, prevalence=0.3)
    features, new = (draw_features(films, rng, shape=(2, 2, 40), shift=0.9) + 5 for _ in "12")
    # Brightness misleads a strong penalty, so that the choice does not hang on the last digits.
    features = (features + rng.normal(0, 4, (len(films), 1, 1, 1))).astype(np.float16)
    monkeypatch.setattr(head, "STRENGTHS", (1e-8, 1e-7, 1e-2))
    exact = fit_head(features, films)
    monkeypatch.setattr(head, "MANY", 170)
    monkeypatch.setattr(span, "ROWS", 50)
    fitted = fit_head(OnDisk(features), films)
    assert fitted.facts["strength"] == exact.facts["strength"] == 1e-2
    areas = [roc_auc_score(films["target"], fit.probability) for fit in (exact, fitted)]
    assert areas[0] == pytest.approx(areas[1], abs=0.001)
    logits = logit(exact.probability), logit(fitted.probability)
    assert np.corrcoef(logits)[0, 1] > 0.999
    np.testing.assert_allclose(fitted.history["auc"], exact.history["auc"], atol=0.01)
    assert np.corrcoef([head_logit(fit.model, new) for fit in (exact, fitted)])[0, 1] > 0.999


def test_dense_head_of_many_films_reads_blocks(monkeypatch, films):
    monkeypatch.setattr(folds, "FOLDS", 2)  # for speed
    monkeypatch.setattr(span, "MANY", 30)  # of 80 films, 40 to a fit, and 80 features
    monkeypatch.setattr(span, "ROWS", 20)
    monkeypatch.setattr(head, "BLOCK", 20)
    features = OnDisk(draw_features(films, np.random.default_rng(13), (2, 2, 20), shift=2))
    dense = fit_head(features, films, "dense", learning_rate=3e-2, epochs=6)
    assert roc_auc_score(films["target"], dense.probability) > 0.75


def test_who_the_patient_is_gives_no_advantage():
    rng = np.random.default_rng(5)
    films = draw_patients(40, 4, rng)
    identity = rng.normal(size=(40, 1, 1, 60))
    features = identity[films["patient"].astype(int)] + rng.normal(0, 0.1, (len(films), 1, 1, 60))
    flat, target = features.reshape(len(films), -1), films["target"]
    by_film = StratifiedKFold(5, shuffle=True, random_state=0)
    leaky = cross_val_predict(LogisticRegression(), flat, target, cv=by_film)
    assert roc_auc_score(target, leaky) > 0.95  # the trap is there
    try:
        fitted = fit_head(features, films)
    except TrainError as error:
        assert "no better than chance" in str(error)
    else:
        assert roc_auc_score(target, fitted.probability) < 0.7


def test_permuted_labels_give_chance(features, films, fitted):
    ill = films.groupby("patient")["target"].first()
    aucs = []
    for seed in range(2):
        permuted = ill.sample(frac=1, random_state=seed).set_axis(ill.index)
        shuffled = films.assign(target=films["patient"].map(permuted))
        try:
            again = fit_head(features, shuffled, seed=seed)
            aucs.append(roc_auc_score(shuffled["target"], again.probability))
        except TrainError as error:
            assert "no better than chance" in str(error)
            aucs.append(0.5)
    assert np.mean(aucs) < 0.65
    assert roc_auc_score(films["target"], fitted.probability) > 0.7


def test_probabilities_are_of_heads_that_did_not_see_the_patient(features, films, fitted):
    target = films["target"].to_numpy()
    number = 2
    rest = fitted.fold != number
    head, _ = fit_uncalibrated(features[rest], target[rest], fitted.fold[rest], {"kind": "linear"})
    calibration = fitted.facts["calibration"]
    expected = calibration["slope"] * head_logit(head, features[~rest]) + calibration["intercept"]
    np.testing.assert_allclose(fitted.probability[~rest], expit(expected), rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_calibration_holds_for_new_patients(seed):
    rng = np.random.default_rng(7)
    films = draw_patients(240, 1, rng, prevalence=0.25)
    fitted = fit_head(draw_features(films, rng, shift=0.7), films, seed=seed)
    held_out = LogisticRegression(C=np.inf).fit(logit(fitted.probability)[:, None], films["target"])
    assert held_out.coef_[0, 0] == pytest.approx(1, abs=0.1)
    assert held_out.intercept_[0] == pytest.approx(0, abs=0.1)
    new = draw_patients(3000, 1, rng, prevalence=0.25)
    score = head_logit(fitted.model, draw_features(new, rng, shift=0.7))
    assert expit(score).mean() == pytest.approx(0.25, abs=0.05)  # balanced classes without it: 0.5
    # Folds and final head choose other penalties here, which would change it a hundredfold.
    assert 0.5 < LogisticRegression(C=np.inf).fit(score[:, None], new["target"]).coef_[0, 0] < 2.5


def test_calibration_stays_finite_where_folds_are_separated_without_error(films):
    fitted = fit_head(draw_features(films, np.random.default_rng(6), shift=20), films)
    assert roc_auc_score(films["target"], fitted.probability) == 1
    assert 0.001 < fitted.probability.min() < fitted.probability.max() < 0.999


def test_rare_finding_is_learnt():
    rng = np.random.default_rng(8)
    films = draw_patients(200, 1, rng, prevalence=0.06)
    fitted = fit_head(draw_features(films, rng, shift=2), films)
    assert fitted.probability.mean() == pytest.approx(0.06, abs=1e-3)
    assert roc_auc_score(films["target"], fitted.probability) > 0.85


def test_dense_head_learns_what_a_linear_one_cannot(monkeypatch):
    monkeypatch.setattr(folds, "FOLDS", 2)  # for speed
    rng = np.random.default_rng(9)
    films = draw_patients(160, 1, rng)
    features = rng.choice([-1.0, 1.0], (160, 1, 1, 2))
    wanted = np.where(films["target"] == 1, 1, -1)
    features[:, 0, 0, 1] = features[:, 0, 0, 0] * wanted  # ill where both have one sign
    features += rng.normal(0, 0.2, features.shape)
    dense = fit_head(features, films, "dense", learning_rate=3e-2, epochs=10)
    assert roc_auc_score(films["target"], dense.probability) > 0.95
    assert dense.history["epoch"].tolist() == list(range(1, 11))
    assert dense.history["loss"].iloc[-1] < dense.history["loss"].iloc[0] / 2
    again, history = fit_uncalibrated(features, films["target"].to_numpy(), dense.fold, dense.facts)
    assert history.equals(dense.history)
    weights = again.layers[-2].get_weights() + dense.model.layers[-2].get_weights()
    assert weights[0].tobytes() == weights[2].tobytes()
    monkeypatch.undo()
    try:
        linear = fit_head(features, films).probability
    except TrainError:
        return
    assert roc_auc_score(films["target"], linear) < 0.7


def test_same_seed_same_fit(features, films, fitted):
    again = fit_head(features, films)
    assert again.probability.tobytes() == fitted.probability.tobytes()
    for one, other in zip(again.model.get_weights(), fitted.model.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    pd.testing.assert_frame_equal(again.history, fitted.history)
    assert again.facts == fitted.facts
    assert (fit_head(features, films, seed=1).fold != fitted.fold).any()


def test_facts_and_history(fitted):
    assert fitted.stage == "head"
    assert list(fitted.history) == ["strength", "fold", "auc"]
    best = fitted.history.groupby("strength")["auc"].mean().idxmax()
    assert fitted.facts["strength"] == best
    assert "grouped by patient" in fitted.facts["held_out"]


def test_errors(features, films):
    with_test = films.assign(split=np.where(films.index == 3, "test", "train"))
    with pytest.raises(TrainError, match=r"1 films of test patients \(3\.png.*== 'train'\]"):
        fit_head(features, with_test)
    with pytest.raises(TrainError, match="head 'forest': give 'linear' or 'dense'"):
        fit_head(features, films, kind="forest")
    for side, name in ((1, "with the finding"), (0, "without")):
        few = films[(films["target"] != side) | films["patient"].isin(["0", "1", "38", "39"])]
        with pytest.raises(TrainError, match=f"2 training patients {name}: 5-fold"):
            fit_head(features[few.index], few)


def test_five_patients_a_side_are_enough():
    rng = np.random.default_rng(11)
    films = draw_patients(10, 3, rng)
    assert np.isfinite(fit_head(draw_features(films, rng, shift=2), films).probability).all()
