"""What a classifier's scores are worth, each number with an interval over patients."""

import numpy as np
import pandas as pd
from scipy.stats import beta
from sklearn.metrics import confusion_matrix

from cxrlib.metrics.bootstrap import (
    RESAMPLES,
    auc,
    average_precision,
    mean,
    percentile_interval,
    resample_patients,
    resample_share,
    with_interval,
)
from cxrlib.metrics.calibration import calibration_error, count_bins, decompose_brier

SETS = {"train": "training, held out", "test": "test"}  # what tables and figures call them
AGE_BANDS = (0, 40, 60, 121)  # years; a band holds its lower end


def evaluate(predictions: pd.DataFrame, threshold: float, seed: int = 0) -> dict:
    """Measure scores against labels, with 95 % intervals over patients.

    Parameters
    ----------
    predictions : DataFrame with target (0 or 1), probability (0..1), patient, view; sex ('F', 'M')
        and age (years) where they are known
    threshold : films at or above it are called positive
    seed : of the bootstrap

    Returns
    -------
    dict
        films, patients, positives, prevalence; auc, average_precision, sensitivity, specificity,
        ppv, npv, auc_PA and auc_AP (films of one view among themselves), auc_view_matched (see
        `auc`), brier, each as a dict of value, low and high, None where undefined; confusion as
        {tn, fp, fn, tp}; calibration (see `decompose_brier` and `calibration_error`); subgroups,
        a list of dicts (see `evaluate_subgroups`). All plain: it can be stored as JSON.
    """
    target = predictions["target"].to_numpy()
    probability = predictions["probability"].to_numpy()
    patients = predictions["patient"].to_numpy()
    view = predictions["view"].to_numpy()
    weights = resample_patients(patients, RESAMPLES, seed)
    called = probability >= threshold
    tn, fp, fn, tp = confusion_matrix(target, called, labels=[0, 1]).ravel().tolist()
    result = {
        "films": len(target),
        "patients": len(set(patients)),
        "positives": int(target.sum()),
        "prevalence": float(target.mean()),
        "auc": _auc_with_interval(target, probability, patients, weights),
        "average_precision": with_interval(average_precision, (target, probability), weights),
        **measure_decisions(target, called, patients, weights),
        "confusion": {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }
    for name in ("PA", "AP"):
        of_view = view == name
        result[f"auc_{name}"] = _auc_with_interval(
            target[of_view], probability[of_view], patients[of_view], weights[:, of_view]
        )
    result["auc_view_matched"] = with_interval(auc, (target, probability), weights, strata=view)
    result["brier"] = with_interval(mean, ((probability - target) ** 2,), weights)
    result["calibration"] = decompose_brier(target, probability) | {
        "expected_calibration_error": calibration_error(target, probability),
        "bins": count_bins(len(target)),
    }
    result["subgroups"] = evaluate_subgroups(predictions, threshold, weights)
    return result


def measure_decisions(
    target: np.ndarray, called: np.ndarray, patients: np.ndarray, weights: np.ndarray
) -> dict[str, dict]:
    """Return sensitivity, specificity, ppv and npv, each as a dict of value, low and high.

    Parameters
    ----------
    target : (n,) of 0 and 1
    called : (n,) of bool, the decisions
    patients : (n,)
    weights : (resamples, n), as `resample_patients` gives them
    """
    ill = target == 1
    return {
        name: percentile_interval(*resample_share(hits, among, patients, weights))
        for name, hits, among in (
            ("sensitivity", called & ill, ill),
            ("specificity", ~called & ~ill, ~ill),
            ("ppv", called & ill, called),
            ("npv", ~called & ~ill, ~called),
        )
    }


def evaluate_subgroups(
    predictions: pd.DataFrame, threshold: float, weights: np.ndarray
) -> list[dict]:
    """Measure films by view, and by sex and age band where they are known.

    Returns
    -------
    list of dicts, one a subgroup
        group ('view', 'sex' or 'age'), name, films, patients, positives; auc, sensitivity and
        specificity as dicts of value, low and high.
    """
    groups = {"view": predictions["view"].replace("", "unknown")}
    if "sex" in predictions and predictions["sex"].ne("").any():
        groups["sex"] = predictions["sex"].replace("", "unknown")
    if "age" in predictions and predictions["age"].notna().any():
        names = [
            f"{low} to {high - 1}" for low, high in zip(AGE_BANDS, AGE_BANDS[1:], strict=False)
        ]
        names[-1] = f"{AGE_BANDS[-2]} and older"
        bands = pd.cut(predictions["age"], AGE_BANDS, right=False, labels=names)
        groups["age"] = bands.astype(object).fillna("unknown")
    target = predictions["target"].to_numpy()
    probability = predictions["probability"].to_numpy()
    patients = predictions["patient"].to_numpy()
    result = []
    for group, names in groups.items():
        for name in sorted(set(names)):
            part = (names == name).to_numpy()
            some = weights[:, part]
            decisions = measure_decisions(
                target[part], probability[part] >= threshold, patients[part], some
            )
            result.append(
                {
                    "group": group,
                    "name": name,
                    "films": int(part.sum()),
                    "patients": len(set(patients[part])),
                    "positives": int(target[part].sum()),
                    "auc": _auc_with_interval(
                        target[part], probability[part], patients[part], some
                    ),
                    "sensitivity": decisions["sensitivity"],
                    "specificity": decisions["specificity"],
                }
            )
    return result


def format_interval(metric: dict, digits: int = 2) -> str:
    """Return 'value (low to high)' of a metric of `evaluate`."""
    if metric["value"] is None:
        return "undefined"
    value, low, high = (f"{metric[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def tabulate_metrics(metrics: dict[str, dict]) -> pd.DataFrame:
    """Return what `evaluate` measured as text, one row a metric, one column a set of patients."""

    def cell(value):
        return format_interval(value) if isinstance(value, dict) else f"{round(value, 3)}"

    nested = ("confusion", "calibration", "subgroups")
    return pd.DataFrame(
        {
            SETS.get(patients, patients): {
                k: cell(v) for k, v in measured.items() if k not in nested
            }
            for patients, measured in metrics.items()
        }
    )


def tabulate_subgroups(metrics: dict) -> pd.DataFrame:
    """Return the subgroups that `evaluate` measured as text, one row a subgroup."""
    rows = [
        {k: format_interval(v) if isinstance(v, dict) else v for k, v in subgroup.items()}
        for subgroup in metrics["subgroups"]
    ]
    return pd.DataFrame(rows).set_index(["group", "name"])


def _auc_with_interval(target, probability, patients, weights) -> dict[str, float | None]:
    """Return the AUC with its interval.

    Where every pair is ordered alike, the bootstrap says nothing. Then a binomial bound on as many
    pairs, one film with the finding and one without, as can be formed of patients used once.
    """
    measured = with_interval(auc, (target, probability), weights)
    sides = [len(set(patients[target == side])) for side in (0, 1)]
    pairs = min(*sides, len(set(patients)) // 2)
    if measured["value"] in (0, 1) and pairs:
        certain = bool(measured["value"])
        bound = beta.ppf(0.025 if certain else 0.975, *((pairs, 1) if certain else (1, pairs)))
        measured["low" if certain else "high"] = float(bound)
    return measured
