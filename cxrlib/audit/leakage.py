"""What a leak would gain: patients on both sides of a split."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold
from tqdm.auto import tqdm

from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval, resample_patients
from cxrlib.model.backbone import extract_features
from cxrlib.model.folds import FOLDS, number_folds, patient_folds, refuse_test_films
from cxrlib.model.logistic import score_by
from cxrlib.model.run import Run, load_run_backbone
from cxrlib.model.span import span_of_films


def measure_leakage(
    features: np.ndarray,
    films: pd.DataFrame,
    strength: float = 1e-3,
    repeats: int = 10,
    seed: int = 0,
) -> tuple[dict[str, dict], pd.DataFrame]:
    """Score one and the same model under row-wise and under patient-wise cross-validation.

    Row-wise folds deal out films, as tutorials do, so that a patient stands on both sides (Kaufman
    et al., ACM TKDD 2012, call it leakage). The patient-wise ones are those of `fit_head`, and
    `features` and `films` are as for it: of training patients. `strength` is C of the logistic
    regression, `repeats` counts the partitions of each kind.

    Returns
    -------
    summary : dict
        row_wise, patient_wise, gap (row-wise less patient-wise): AUC of films within a fold, mean
        of the repeats, each as a dict of value, low and high, 95 % intervals over patients.
        siblings: the share of films that a row-wise model is tested on after it has seen another
        film of the patient.
    repeats : DataFrame, one row per repeat: row_wise, patient_wise, siblings
    """
    refuse_test_films(films)
    target, patient = films["target"].to_numpy(), films["patient"].to_numpy()
    rows = span_of_films(features)[0]
    weights = resample_patients(patient, RESAMPLES, seed)
    folds, siblings = [], []
    for repeat in range(seed, seed + repeats):
        by_row = number_folds(StratifiedKFold(FOLDS, shuffle=True, random_state=repeat), target)
        folds += [by_row, patient_folds(films, repeat)]
        siblings.append(pd.Series(by_row).groupby(patient).transform("nunique").gt(1).mean())
    without = [fold != number for fold in folds for number in range(FOLDS)]
    fits = np.array(folds) + FOLDS * np.arange(len(folds))[:, None]
    both = zip(score_by(rows, target, without, fits, strength), folds, strict=True)
    areas = [auc(target, each, weights, strata=fold) for each, fold in tqdm(both, desc="AUC")]
    areas = np.array(areas).reshape(repeats, 2, -1)
    by_row, by_patient = areas.mean(axis=0)
    means = {"row_wise": by_row, "patient_wise": by_patient, "gap": by_row - by_patient}
    summary = {name: interval(values) for name, values in means.items()}
    table = pd.DataFrame(areas[..., 0], columns=["row_wise", "patient_wise"])
    return summary | {"siblings": float(np.mean(siblings))}, table.assign(siblings=siblings)


def measure_run_leakage(
    run: Run, films: pd.DataFrame, cache: Path | None = None, repeats: int = 10, seed: int = 0
) -> tuple[dict[str, dict], pd.DataFrame]:
    """Return `measure_leakage` of a run's training films, with its backbone, grid and penalty."""
    backbone = load_run_backbone(run.folder, run.facts)
    features = extract_features(backbone, films["path"], run.facts["grid"], cache)
    strength = run.facts["fit"].get("strength", 1e-3)  # a dense head has none
    return measure_leakage(features, films, strength, repeats, seed)
