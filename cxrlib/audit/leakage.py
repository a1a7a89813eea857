"""What a leak would gain: patients on both sides of a split."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, StratifiedKFold, cross_val_predict
from tqdm.auto import tqdm

from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval, resample_patients
from cxrlib.model.backbone import extract_features
from cxrlib.model.folds import FOLDS, number_folds, patient_folds, refuse_test_films
from cxrlib.model.head import span_of_films
from cxrlib.model.run import Run, load_run_backbone


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
