"""How a classifier of radiographs fools its author: metadata, leakage, wrong labels."""

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from tqdm.auto import tqdm

from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval, resample_patients
from cxrlib.metrics.calibration import shift_prevalence
from cxrlib.model.head import FOLDS, patient_folds, refuse_test_films, span_of_films

PREDICTORS = {
    "patient number": ["number"],
    "view": ["view"],
    "original size": ["original_width", "original_height"],
    "age": ["age"],
    "sex": ["sex"],
}


def predict_from_metadata(films: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Predict the label of training films from what is known without looking at them.

    Random forests of 50 trees with leaves of ten films or more, on patient-grouped folds: each film
    is scored by trees that did not see its patient. Predictors that the study lacks, or that are
    the same on all films, are left out.

    Parameters
    ----------
    films : DataFrame as `choose_films` gives it; training patients only
    seed : of the folds, as `fit_head` takes it

    Returns
    -------
    DataFrame, (films, predictors), of probabilities
        Columns such as 'patient number', 'view', 'original size', 'age', 'sex', and 'all of these'.

    Raises
    ------
    TrainError
        A test patient's film, or too few patients.
    """
    refuse_test_films(films)
    known = pd.DataFrame(
        {
            "number": pd.to_numeric(films["patient"], errors="coerce"),
            "view": films["view"].map({"PA": 0.0, "AP": 1.0}),
            "sex": films["sex"].map({"F": 0.0, "M": 1.0}),
            **{name: films[name] for name in ("age", "original_width", "original_height")},
        }
    )
    varied = [name for name in known if len(known[name].unique()) > 1]
    predictors = {name: [c for c in columns if c in varied] for name, columns in PREDICTORS.items()}
    predictors = {name: columns for name, columns in predictors.items() if columns}
    if len(predictors) > 1:
        predictors["all of these"] = varied
    fold, target = patient_folds(films, seed), films["target"].to_numpy()
    scores = pd.DataFrame(index=films.index, columns=list(predictors), dtype=float)
    for name, columns in predictors.items():
        rows = known[columns].to_numpy(float)
        for number in range(FOLDS):
            held_out = fold == number
            forest = RandomForestClassifier(
                n_estimators=50, min_samples_leaf=10, class_weight="balanced", random_state=seed
            )
            forest.fit(rows[~held_out], target[~held_out])
            scores.loc[held_out, name] = forest.predict_proba(rows[held_out])[:, 1]
    return scores


def tabulate_metadata(
    films: pd.DataFrame, metadata: pd.DataFrame, image: np.ndarray, seed: int = 0
) -> pd.DataFrame:
    """Return the AUC of each metadata model and of the image model on the same films.

    Pairs of films are compared within a fold: a score means one thing in one fold only, and pooled
    folds would push an uninformative predictor below 0.5.

    Parameters
    ----------
    films, metadata : as given to and returned by `predict_from_metadata`
    image : (films,), the held-out scores of the image model; films without one (NaN), as a
        fine-tuned network has, are left out
    seed : of folds and bootstrap

    Returns
    -------
    DataFrame, one row a model
        auc, low, high; less, less_low and less_high: the image model's AUC less this one. 95 %
        intervals over patients, the same resamples for all.
    """
    fold, known = patient_folds(films, seed), np.isfinite(image)
    films, metadata, image, fold = films[known], metadata[known], image[known], fold[known]
    weights = resample_patients(films["patient"], RESAMPLES, seed)
    target = films["target"].to_numpy()
    areas = {
        name: auc(target, score, weights, strata=fold)
        for name, score in {**{n: metadata[n].to_numpy() for n in metadata}, "image": image}.items()
    }
    rows = {}
    for name, area in areas.items():
        measured = interval(area)
        less = interval(areas["image"] - area)
        rows[name] = {"auc": measured["value"], "low": measured["low"], "high": measured["high"]}
        rows[name] |= {"less": less["value"], "less_low": less["low"], "less_high": less["high"]}
    return pd.DataFrame(rows).T.rename_axis("model")


def measure_leakage(
    features: np.ndarray,
    films: pd.DataFrame,
    strength: float = 1e-3,
    repeats: int = 10,
    seed: int = 0,
) -> tuple[dict[str, dict], pd.DataFrame]:
    """Score one and the same model under row-wise and under patient-wise cross-validation.

    Row-wise folds deal out films, as tutorials do, so that a patient stands on both sides; the
    patient-wise ones are those of `fit_head`. Both are drawn `repeats` times. Each AUC compares
    films within a fold, and is averaged over the repeats.

    Parameters
    ----------
    features : (films, grid, grid, channels)
    films : DataFrame as `choose_films` gives it; training patients only
    strength : C of the logistic regression, the inverse of its L2 penalty
    repeats : partitions of each kind
    seed : of partitions and bootstrap

    Returns
    -------
    summary : dict
        row_wise, patient_wise, gap (row-wise less patient-wise), each as a dict of value, low and
        high, 95 % intervals over patients; siblings, the share of films that a row-wise model is
        tested on after it has seen another film of the patient, averaged over repeats.
    repeats : DataFrame, one row a repeat: row_wise, patient_wise, siblings

    Raises
    ------
    TrainError
        A test patient's film, or too few patients.
    """
    refuse_test_films(films)
    target, patient = films["target"].to_numpy(), films["patient"].to_numpy()
    rows = span_of_films(features.reshape(len(features), -1).astype(np.float32))[0]
    weights = resample_patients(patient, RESAMPLES, seed)
    areas, siblings = {"row_wise": [], "patient_wise": []}, []
    for repeat in tqdm(range(seed, seed + repeats), desc="repeats", unit="repeat"):
        folds = {
            "row_wise": _row_folds(target, repeat),
            "patient_wise": patient_folds(films, repeat),
        }
        for name, fold in folds.items():
            score = np.empty(len(films))
            for number in range(FOLDS):
                held_out = fold == number
                model = LogisticRegression(
                    C=strength, class_weight="balanced", solver="newton-cg"
                ).fit(rows[~held_out], target[~held_out])
                score[held_out] = model.decision_function(rows[held_out])
            areas[name].append(auc(target, score, weights, strata=fold))
        siblings.append(_share_with_sibling(patient, folds["row_wise"]))
    each = {name: np.array(values) for name, values in areas.items()}
    mean = {name: values.mean(axis=0) for name, values in each.items()}
    mean["gap"] = mean["row_wise"] - mean["patient_wise"]
    summary = {name: interval(v) for name, v in mean.items()}
    summary["siblings"] = float(np.mean(siblings))
    of_repeat = {name: values[:, 0] for name, values in each.items()}
    return summary, pd.DataFrame(of_repeat | {"siblings": siblings})


def rank_labels(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rank films by how little a model that did not see their patient believes their label.

    The self-confidence of confident learning: the probability that the model gives to the label
    (Northcutt, Jiang and Chuang, JAIR 2021), here at a prevalence of one half, since otherwise the
    rarer label would look suspicious as such. A low one is a reason to look, and no verdict: hard
    films come first, too.

    Parameters
    ----------
    predictions : DataFrame with target and probability, scored held out; both labels occur

    Returns
    -------
    DataFrame
        `predictions`, the most suspicious film first, with self_confidence (0..1).
    """
    target = predictions["target"].to_numpy()
    ill = shift_prevalence(predictions["probability"].to_numpy(), target.mean(), 0.5)
    ranked = predictions.assign(self_confidence=np.where(target == 1, ill, 1 - ill))
    return ranked.sort_values("self_confidence", kind="stable").reset_index(drop=True)


def measure_label_ranking(
    ranked: pd.DataFrame, wrong: np.ndarray, tops: tuple[int, ...] = (5, 10, 20), seed: int = 0
) -> tuple[pd.DataFrame, dict]:
    """Measure a ranking of suspicious labels where the wrong ones are known.

    Parameters
    ----------
    ranked : DataFrame as `rank_labels` gives it
    wrong : (films,) of bool, in the order of `ranked`
    tops : how many of the first films someone looks at
    seed : of the bootstrap

    Returns
    -------
    table : DataFrame, one row a top: wrong (found), precision, recall, chance (precision of films
        picked at random)
    area : dict of value, low and high
        How often a wrong label stands before a right one; 95 % interval over patients.
    """
    wrong = np.asarray(wrong, bool)
    found = {top: int(wrong[:top].sum()) for top in tops if top <= len(wrong)}
    table = pd.DataFrame({"wrong": found}).rename_axis("films looked at")
    table["precision"] = table["wrong"] / table.index
    table["recall"] = table["wrong"] / wrong.sum()
    table["chance"] = wrong.mean()
    weights = resample_patients(ranked["patient"], RESAMPLES, seed)
    suspicion = 1 - ranked["self_confidence"].to_numpy()
    return table, interval(auc(wrong.astype(int), suspicion, weights))


def _row_folds(target: np.ndarray, seed: int) -> np.ndarray:
    fold = np.empty(len(target), int)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(splitter.split(target, target)):
        fold[held_out] = number
    return fold


def _share_with_sibling(patient: np.ndarray, fold: np.ndarray) -> float:
    films = pd.DataFrame({"patient": patient, "fold": fold})
    here = films.groupby(["patient", "fold"])["fold"].transform("size")
    everywhere = films.groupby("patient")["fold"].transform("size")
    return float((everywhere > here).mean())
