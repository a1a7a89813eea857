"""Audits of studies whose faults are built in: metadata, leakage, wrong labels."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxrlib.audit.leakage import measure_leakage, measure_run_leakage
from cxrlib.audit.metadata import compare_with_metadata, predict_from_metadata, tabulate_metadata
from cxrlib.audit.mislabels import measure_label_ranking, rank_labels
from cxrlib.model.folds import TrainError, patient_folds


@pytest.fixture
def films():
    """160 training films of 80 patients, half of the patients with the finding."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(1, 81), 2)
    ill = rng.permutation(np.repeat([0, 1], 40))
    return pd.DataFrame(
        {
            "filename": [f"{i}.png" for i in range(160)],
            "patient": patient.astype(str),
            "target": ill[patient - 1],
            "view": "PA",
            "sex": "",
            "age": np.nan,
            "original_width": np.nan,
            "original_height": np.nan,
            "split": "train",
        }
    )


# -------------------------------------------------------------------------------------- metadata


def area(films, score):
    return tabulate_metadata(films.assign(probability=0), pd.DataFrame({"x": score})).loc["x"]


def test_a_number_that_separates_is_found(films):
    # As in the NIH sample: the healthy come first.
    numbers = np.where(films["target"] == 1, 500, 0) + films["patient"].astype(int)
    scores = predict_from_metadata(films.assign(patient=numbers.astype(str)))
    assert list(scores) == ["patient number"]
    assert area(films, scores["patient number"])["auc"] > 0.98


def test_numbers_that_mean_nothing_reach_chance(films):
    scores = predict_from_metadata(films)
    measured = area(films, scores["patient number"])
    assert measured["low"] < 0.5 < measured["high"]


def test_each_predictor_is_used_and_constant_ones_are_left_out(films):
    rng = np.random.default_rng(1)
    told = films.assign(
        view=np.where(films["target"] == 1, "AP", "PA"),
        sex=rng.choice(["F", "M", ""], len(films)),
        age=np.where(films["target"] == 1, 70.0, np.nan),  # whether it is known tells, too
        original_width=np.where(rng.random(len(films)) < 0.5, 2500, 3000),
    )
    scores = predict_from_metadata(told)
    expected = ["patient number", "view", "sex", "age", "original size", "all of these"]
    assert list(scores) == expected
    assert scores.notna().all(axis=None)
    for name in ("view", "age", "all of these"):
        assert area(films, scores[name])["auc"] > 0.98
    for name in ("original size", "sex"):
        assert area(films, scores[name])["low"] < 0.5 < area(films, scores[name])["high"]


def test_ids_that_are_no_numbers_are_no_predictor(films):
    named = films.assign(patient="p" + films["patient"], view=["PA", "AP"] * 80)
    assert list(predict_from_metadata(named)) == ["view"]
    nothing = predict_from_metadata(named.assign(view="PA"))
    assert list(tabulate_metadata(films.assign(probability=0), nothing).index) == ["image"]


def test_the_gain_of_the_image_is_paired(films):
    rng = np.random.default_rng(2)
    image = films["target"] + rng.normal(0, 0.6, len(films))
    metadata = pd.DataFrame({"same": image, "none": np.zeros(len(films))})
    table = tabulate_metadata(films.assign(probability=image), metadata)
    assert table.loc["same", ["less", "less_low", "less_high"]].eq(0).all()
    assert table.loc["none", "auc"] == 0.5
    gain = table.loc["image", "auc"] - 0.5
    assert table.loc["none", "less"] == pytest.approx(gain)
    assert table.loc["none", "less_low"] == pytest.approx(table.loc["image", "low"] - 0.5)
    fold = patient_folds(films, 0)
    of_folds = [roc_auc_score(films["target"][fold == k], image[fold == k]) for k in range(5)]
    assert min(of_folds) < table.loc["image", "auc"] < max(of_folds)


def test_films_without_a_held_out_score_are_left_out(films):
    rng = np.random.default_rng(3)
    image = (films["target"] + rng.normal(0, 0.6, len(films))).to_numpy()
    held_out = patient_folds(films, 0) == 2
    metadata = pd.DataFrame({"x": rng.random(len(films))})
    scored = films.assign(probability=np.where(held_out, image, np.nan))
    table = tabulate_metadata(scored, metadata)
    target = films["target"][held_out]
    assert table.loc["image", "auc"] == pytest.approx(roc_auc_score(target, image[held_out]))
    expected = roc_auc_score(target, metadata["x"][held_out])
    assert table.loc["x", "auc"] == pytest.approx(expected)


@pytest.mark.parametrize("function", ["metadata", "leakage"])
def test_test_patients_are_refused(films, function):
    films.loc[3, "split"] = "test"
    with pytest.raises(TrainError, match=r"1 films of test patients \(3\.png the first\)"):
        if function == "metadata":
            predict_from_metadata(films)
        else:
            measure_leakage(np.zeros((160, 1, 1, 4), np.float32), films)


# --------------------------------------------------------------------------------------- leakage


def test_features_that_know_the_patient_alone_leak_all_there_is(films):
    rng = np.random.default_rng(3)
    of_patient = rng.normal(size=(81, 2, 2, 60))  # nothing of the finding
    features = of_patient[films["patient"].astype(int)] + rng.normal(0, 0.1, (160, 2, 2, 60))
    summary, repeats = measure_leakage(features, films, strength=1e-2, repeats=4)
    assert summary["patient_wise"]["low"] < 0.5 < summary["patient_wise"]["high"]
    assert summary["row_wise"]["value"] > 0.85
    assert summary["gap"]["low"] > 0.2
    assert summary["gap"]["value"] == pytest.approx(
        summary["row_wise"]["value"] - summary["patient_wise"]["value"]
    )
    assert repeats["row_wise"].mean() == pytest.approx(summary["row_wise"]["value"])
    assert len(repeats) == 4
    # The other film of a patient stands in another of five folds with a chance of 0.8.
    assert summary["siblings"] == pytest.approx(0.8, abs=0.1)
    assert repeats["siblings"].mean() == pytest.approx(summary["siblings"])


def test_features_that_know_the_finding_alone_leak_nothing(films):
    rng = np.random.default_rng(4)
    features = rng.normal(size=(160, 1, 1, 5))
    features[..., 0] += 2 * films["target"].to_numpy()[:, None, None]
    summary, _ = measure_leakage(features, films, strength=1e-2, repeats=4)
    assert summary["patient_wise"]["value"] > 0.8
    assert abs(summary["gap"]["value"]) < 0.02
    assert summary["gap"]["low"] < 0.01 and summary["gap"]["high"] > -0.01


def test_patients_with_one_film_have_no_sibling(films):
    single = films.iloc[::2].reset_index(drop=True)
    features = np.random.default_rng(5).normal(size=(80, 1, 1, 5))
    summary, _ = measure_leakage(features, single, repeats=2)
    assert summary["siblings"] == 0


# ---------------------------------------------------------------------------------- wrong labels


def test_films_are_ranked_by_the_probability_of_their_own_label():
    predictions = pd.DataFrame(
        {
            "path": list("abcd"),
            "target": [1, 0, 1, 0],
            "probability": [0.3, 0.9, 0.8, 0.2],
        }
    )
    ranked = rank_labels(predictions)
    assert ranked["path"].tolist() == ["b", "a", "c", "d"]
    assert ranked["self_confidence"].tolist() == pytest.approx([0.1, 0.3, 0.8, 0.8])


def test_a_rare_label_is_not_suspicious_as_such():
    # The model says no more of the first film than its prevalence, so it has nothing against it.
    predictions = pd.DataFrame({"target": [1] + [0] * 9, "probability": [0.1] * 9 + [0.4]})
    ranked = rank_labels(predictions)
    assert ranked["probability"][0] == 0.4
    assert ranked["self_confidence"][1:].tolist() == pytest.approx([0.5] * 9)


def test_a_ranking_is_measured_against_the_truth():
    ranked = pd.DataFrame(
        {"self_confidence": np.arange(10) / 10, "patient": [str(i) for i in range(10)]}
    )
    wrong = np.isin(np.arange(10), [0, 1, 5])
    table, measured = measure_label_ranking(ranked, wrong, tops=(2, 6, 50))
    assert table.index.tolist() == [2, 6]  # no more films than there are
    assert table["wrong"].tolist() == [2, 3]
    assert table["precision"].tolist() == pytest.approx([1, 0.5])
    assert table["recall"].tolist() == pytest.approx([2 / 3, 1])
    assert table["chance"].tolist() == pytest.approx([0.3, 0.3])
    assert measured["value"] == pytest.approx(18 / 21)  # 3 x 7 pairs, three of them reversed


def test_flipped_labels_of_a_good_model_come_first():
    rng = np.random.default_rng(6)
    truth = rng.integers(0, 2, 400)
    probability = 1 / (1 + np.exp(-(4 * truth - 2 + rng.normal(0, 1, 400))))
    wrong = rng.random(400) < 0.05
    predictions = pd.DataFrame(
        {
            "target": np.where(wrong, 1 - truth, truth),
            "probability": probability,
            "patient": np.arange(400),
            "wrong": wrong,
        }
    )
    ranked = rank_labels(predictions)
    table, measured = measure_label_ranking(ranked, ranked["wrong"], tops=(10,))
    assert table.loc[10, "precision"] >= 0.8
    assert measured["low"] > 0.9


def test_a_run_is_audited_with_its_own_folds_features_and_scores(small_run, trained_run, tmp_path):
    run = small_run
    train = run.split("train", trained_run[1])
    table = compare_with_metadata(run, train)
    assert list(table.index) == ["patient number", "view", "sex", "all of these", "image"]
    fold = patient_folds(train, run.facts["seed"])
    by_fold = [roc_auc_score(p["target"], p["probability"]) for _, p in train.groupby(fold)]
    assert table.loc["image", "auc"] == pytest.approx(np.mean(by_fold), abs=0.03)
    summary, repeats = measure_run_leakage(run, train, tmp_path / "features", repeats=1)
    assert summary["patient_wise"]["value"] == pytest.approx(np.mean(by_fold), abs=0.03)
    assert len(repeats) == 1 and any((tmp_path / "features").rglob("*.npy"))
