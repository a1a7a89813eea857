"""What a classifier can learn without looking at a film: its metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from cxrlib.data.table import ORIGINAL
from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval, resample_patients
from cxrlib.model.folds import patient_folds, refuse_test_films

if TYPE_CHECKING:
    from cxrlib.model.run import Run


def predict_from_metadata(films: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Predict the label of training films from what is known without looking at them.

    Random forests (Breiman, Machine Learning 2001) of 50 trees with leaves of ten films or more, on
    the folds of `fit_head`: each film is scored by trees that did not see its patient. `films` are
    as `choose_films` gives them. Returns probabilities, a column for each of patient number, view,
    sex, age and original size that varies in the study, and 'all of these'. Raises TrainError at a
    test patient's film, or too few patients.
    """
    refuse_test_films(films)
    known = {
        "patient number": pd.to_numeric(films["patient"], errors="coerce"),
        "view": films["view"].map({"PA": 0, "AP": 1}),
        "sex": films["sex"].map({"F": 0, "M": 1}),
        **films[["age", *ORIGINAL]],
    }
    size = dict.fromkeys(ORIGINAL, "original size")
    return predict_from_columns(pd.DataFrame(known).rename(columns=size), films, seed)


def predict_from_columns(known: pd.DataFrame, films: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Predict the label of films from columns of numbers, as `predict_from_metadata` does.

    `known` is NaN where a number is unknown. Columns of one name predict together; those that do
    not vary are left out.
    """
    known = known.loc[:, known.nunique(dropna=False).to_numpy() > 1].astype(float)
    columns = {name: known[[name]] for name in known.columns.unique()}
    if len(columns) > 1:
        columns["all of these"] = known
    folds = PredefinedSplit(patient_folds(films, seed)) if columns else None
    forest = RandomForestClassifier(
        n_estimators=50, min_samples_leaf=10, class_weight="balanced", random_state=seed
    )
    how = {"y": films["target"], "cv": folds, "method": "predict_proba"}
    scores = {n: cross_val_predict(forest, x.to_numpy(), **how)[:, 1] for n, x in columns.items()}
    return pd.DataFrame(scores, index=films.index)


def tabulate_metadata(films: pd.DataFrame, metadata: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the AUC of each metadata model and of the image model on the same films.

    Pairs of films are compared within a fold: a score means one thing in one fold only, and pooled
    folds would push an uninformative predictor below 0.5 (Airola et al., Computational Statistics
    and Data Analysis 2011).

    `films` were given to `predict_from_metadata`, `metadata` is what it returned. Films have the
    held-out probability of the image model, too; those without one (NaN), as a fine-tuned network
    has, are left out. One row per model: auc, low, high; less, less_low and less_high: the image
    model's AUC less this one. 95 % intervals over patients, the same resamples for all.
    """
    image, fold = films["probability"], patient_folds(films, seed)
    scores, films, fold = (x[image.notna()] for x in (metadata.assign(image=image), films, fold))
    weights = resample_patients(films["patient"], RESAMPLES, seed)
    target, rows = films["target"].to_numpy(), {}
    areas = {name: auc(target, scores[name].to_numpy(), weights, strata=fold) for name in scores}
    for name, area in areas.items():
        rows[name] = [*interval(area).values(), *interval(areas["image"] - area).values()]
    columns = ["auc", "low", "high", "less", "less_low", "less_high"]
    return pd.DataFrame(rows, columns, dtype=float).T.rename_axis("model")


def compare_with_metadata(run: Run, films: pd.DataFrame) -> pd.DataFrame:
    """Return `tabulate_metadata` of a run, on its own folds.

    `films` are all its training films, as `run.split("train", study)` gives them.
    """
    seed = run.facts["seed"]
    return tabulate_metadata(films, predict_from_metadata(films, seed), seed)
