"""What a classifier can learn without the finding: metadata, and patients on both sides."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, StratifiedKFold, cross_val_predict
from tqdm.auto import tqdm

from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval, resample_patients
from cxrlib.model.backbone import extract_features
from cxrlib.model.folds import FOLDS, number_folds, patient_folds, refuse_test_films
from cxrlib.model.head import span_of_films
from cxrlib.model.run import Run, load_run_backbone

PREDICTORS = {
    "patient number": ["number"],
    "view": ["view"],
    "original size": ["original_width", "original_height"],
    "age": ["age"],
    "sex": ["sex"],
}


def predict_from_metadata(films: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Predict the label of training films from what is known without looking at them.

    Random forests (Breiman, Machine Learning 2001) of 50 trees with leaves of ten films or more, on
    the folds of `fit_head`: each film is scored by trees that did not see its patient. `films` are
    as `choose_films` gives them. Returns probabilities, a column for each of PREDICTORS that varies
    in the study, and 'all of these'. Raises TrainError at a test patient's film, or too few
    patients.
    """
    refuse_test_films(films)
    known = pd.DataFrame(
        {
            "number": pd.to_numeric(films["patient"], errors="coerce"),
            "view": films["view"].map({"PA": 0.0, "AP": 1.0}),
            "sex": films["sex"].map({"F": 0.0, "M": 1.0}),
            **films[["age", "original_width", "original_height"]],
        }
    )
    known = known[[name for name in known if len(known[name].unique()) > 1]].astype(float)
    predictors = {name: known.filter(columns) for name, columns in PREDICTORS.items()}
    predictors = {name: columns for name, columns in predictors.items() if columns.size}
    if len(predictors) > 1:
        predictors["all of these"] = known
    how = {"cv": PredefinedSplit(patient_folds(films, seed)), "method": "predict_proba"}
    forest = RandomForestClassifier(
        n_estimators=50, min_samples_leaf=10, class_weight="balanced", random_state=seed
    )
    scores = {
        name: cross_val_predict(forest, columns.to_numpy(), films["target"], **how)
        for name, columns in predictors.items()
    }
    return pd.DataFrame({n: rows[:, 1] for n, rows in scores.items()}, index=films.index)


def tabulate_metadata(
    films: pd.DataFrame, metadata: pd.DataFrame, image: np.ndarray, seed: int = 0
) -> pd.DataFrame:
    """Return the AUC of each metadata model and of the image model on the same films.

    Pairs of films are compared within a fold: a score means one thing in one fold only, and pooled
    folds would push an uninformative predictor below 0.5 (Airola et al., Computational Statistics
    and Data Analysis 2011).

    Parameters
    ----------
    films, metadata, seed : as given to and returned by `predict_from_metadata`
    image : (films,), the held-out scores of the image model; films without one (NaN), as a
        fine-tuned network has, are left out

    Returns
    -------
    DataFrame, one row per model
        auc, low, high; less, less_low and less_high: the image model's AUC less this one. 95 %
        intervals over patients, the same resamples for all.
    """
    fold, known = patient_folds(films, seed), np.isfinite(image)
    films, scores, fold = films[known], metadata.assign(image=image)[known], fold[known]
    weights = resample_patients(films["patient"], RESAMPLES, seed)
    target = films["target"].to_numpy()
    areas = {name: auc(target, scores[name].to_numpy(), weights, strata=fold) for name in scores}
    rows = {}
    for name, area in areas.items():
        rows[name] = [*interval(area).values(), *interval(areas["image"] - area).values()]
    columns = ["auc", "low", "high", "less", "less_low", "less_high"]
    return pd.DataFrame(rows, index=columns, dtype=float).T.rename_axis("model")


def compare_with_metadata(run: Run, films: pd.DataFrame) -> pd.DataFrame:
    """Return `tabulate_metadata` of a run, on its own folds.

    `films` are all its training films, as `run.split("train", study)` gives them.
    """
    seed = run.facts["seed"]
    metadata = predict_from_metadata(films, seed)
    return tabulate_metadata(films, metadata, films["probability"].to_numpy(), seed)


def measure_leakage(
    features: np.ndarray,
    films: pd.DataFrame,
    strength: float = 1e-3,
    repeats: int = 10,
    seed: int = 0,
) -> tuple[dict[str, dict], pd.DataFrame]:
    """Score one and the same model under row-wise and under patient-wise cross-validation.

    Row-wise folds deal out films, as tutorials do, so that a patient stands on both sides (Kaufman
    et al., ACM TKDD 2012, call it leakage). The patient-wise ones are those of `fit_head`. Each AUC
    compares films within a fold, and is averaged over the repeats.

    Parameters
    ----------
    features, films : (films, grid, grid, channels) of training patients, as given to `fit_head`;
        TrainError at a test patient's film, or too few patients
    strength : C of the logistic regression, the inverse of its L2 penalty
    repeats : partitions of each kind

    Returns
    -------
    summary : dict
        row_wise, patient_wise, gap (row-wise less patient-wise), each as a dict of value, low and
        high, 95 % intervals over patients; siblings, the share of films that a row-wise model is
        tested on after it has seen another film of the patient, averaged over repeats.
    repeats : DataFrame, one row per repeat: row_wise, patient_wise, siblings
    """
    refuse_test_films(films)
    target, patient = films["target"].to_numpy(), films["patient"].to_numpy()
    rows = span_of_films(features.reshape(len(features), -1).astype(np.float32))[0]
    weights = resample_patients(patient, RESAMPLES, seed)
    model = LogisticRegression(C=strength, class_weight="balanced", solver="newton-cg")
    areas, siblings = {"row_wise": [], "patient_wise": []}, []
    for repeat in tqdm(range(seed, seed + repeats), desc="repeats", unit="repeat"):
        by_row = number_folds(StratifiedKFold(FOLDS, shuffle=True, random_state=repeat), target)
        for name, fold in zip(areas, (by_row, patient_folds(films, repeat)), strict=True):
            how = {"cv": PredefinedSplit(fold), "method": "decision_function"}
            score = cross_val_predict(model, rows, target, **how)
            areas[name].append(auc(target, score, weights, strata=fold))
        siblings.append(pd.Series(by_row).groupby(patient).transform("nunique").gt(1).mean())
    each = {name: np.array(values) for name, values in areas.items()}
    mean = {name: values.mean(axis=0) for name, values in each.items()}
    mean["gap"] = mean["row_wise"] - mean["patient_wise"]
    summary = {name: interval(v) for name, v in mean.items()}
    summary["siblings"] = float(np.mean(siblings))
    of_repeat = {name: values[:, 0] for name, values in each.items()}
    return summary, pd.DataFrame(of_repeat | {"siblings": siblings})


def measure_run_leakage(
    run: Run, films: pd.DataFrame, cache: Path | None = None, repeats: int = 10, seed: int = 0
) -> tuple[dict[str, dict], pd.DataFrame]:
    """Return `measure_leakage` with the backbone, grid and penalty of a run.

    `run` and `films` are as for `compare_with_metadata`, `cache` as for `extract_features`.
    """
    backbone = load_run_backbone(run.folder, run.facts)
    features = extract_features(backbone, films["path"], run.facts["grid"], cache)
    strength = run.facts["fit"].get("strength", 1e-3)  # a dense head has none
    return measure_leakage(features, films, strength, repeats, seed)
