"""What a classifier's scores are worth, each number with an interval over patients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from cxrlib.metrics.bootstrap import (
    UNDEFINED,
    auc,
    average_precision,
    columns_of,
    interval,
    mean,
    ranking_interval,
    resampled,
    share,
    with_ends,
)
from cxrlib.metrics.calibration import decompose_brier, measure_calibration

SETS = {"train": "training, held out", "test": "test"}  # what tables and figures call them
AGES = [0, 40, 60, 121]  # years; a band holds its lower end
BANDS = ["0 to 39", "40 to 59", "60 and older"]
THRESHOLDS = tuple(percent / 100 for percent in range(1, 100))
TENTHS = tuple(tenth / 10 for tenth in range(1, 10))  # thresholds of net benefit
RATES = ("sensitivity", "specificity", "ppv", "npv")


def evaluate(predictions: pd.DataFrame, threshold: float, seed: int = 0) -> dict:
    """Measure scores against labels, with 95 % intervals over patients.

    Parameters
    ----------
    predictions : DataFrame with target (0 or 1), probability (0..1), patient and view ('' where it
        is unknown). Also sex ('F', 'M') and age (years), where they are known.
    threshold : films at or above it are called positive

    Returns
    -------
    dict
        Counts: films, patients, positives, prevalence. As a dict of value, low and high, None where
        undefined: auc, average_precision, sensitivity, specificity, ppv, npv, brier; auc_PA and
        auc_AP (films of one view among themselves), auc_view_matched (see `auc`);
        calibration_slope, calibration_intercept and observed_to_expected (see
        `measure_calibration`). confusion as {tn, fp, fn, tp}; calibration (see `decompose_brier`).
        net_benefit: rows of `tabulate_net_benefit` at thresholds of 0.1 to 0.9. subgroups: a list
        of dicts (see `evaluate_subgroups`). All is plain, so that it can be stored as JSON.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> cxr.evaluate(scores[scores["split"] == "test"], threshold=0.5)["confusion"]
    {'tn': 38, 'fp': 3, 'fn': 4, 'tp': 20}
    """
    target, probability, patients, weights = resampled(predictions, seed)
    view = predictions["view"].to_numpy()
    measured = measure_films(predictions, threshold, weights)
    subgroups = evaluate_subgroups(predictions, threshold, weights)
    by_view = {part["name"]: part["auc"] for part in subgroups if part["group"] == "view"}
    precision = average_precision(target, probability, weights)
    seen = view != ""
    areas = auc(target[seen], probability[seen], weights[:, seen], strata=view[seen])
    table = confusion_matrix(target, probability >= threshold, labels=[0, 1])
    return {
        **{name: measured[name] for name in ("films", "patients", "positives")},
        "prevalence": float(target.mean()),
        "auc": measured["auc"],
        "average_precision": ranking_interval(precision, target, patients),
        **{name: measured[name] for name in RATES},
        "confusion": dict(zip(("tn", "fp", "fn", "tp"), table.ravel().tolist(), strict=True)),
        **{f"auc_{name}": by_view.get(name, dict(UNDEFINED)) for name in ("PA", "AP")},
        "auc_view_matched": ranking_interval(areas, target[seen], patients[seen], view[seen]),
        "brier": interval(mean((probability - target) ** 2, weights)),
        **measure_calibration(target, probability, weights),
        "calibration": decompose_brier(target, probability),
        "net_benefit": tabulate_net_benefit(predictions, TENTHS, seed).to_dict("records"),
        "subgroups": subgroups,
    }


def measure_decisions(films: pd.DataFrame, threshold: float, weights: np.ndarray) -> dict:
    """Return sensitivity, specificity, ppv and npv, each as a dict of value, low and high."""
    target, probability, patients = columns_of(films)
    ill, called = target == 1, probability >= threshold
    right = (called & ill, ~called & ~ill, called & ill, ~called & ~ill)
    return {
        name: interval(share(hits, among, patients, weights))
        for name, hits, among in zip(RATES, right, (ill, ~ill, called, ~called), strict=True)
    }


def age_bands(years: pd.Series) -> pd.Series:
    """Return the band of each age, '' where it is unknown."""
    return pd.cut(years, AGES, right=False, labels=BANDS).astype(object).fillna("")


def evaluate_subgroups(
    predictions: pd.DataFrame, threshold: float, weights: np.ndarray
) -> list[dict]:
    """Measure films by view, and by sex and age band where they are known.

    A dict per subgroup: group ('view', 'sex' or 'age'), name, films, patients, positives; auc,
    sensitivity and specificity as dicts of value, low and high.
    """
    groups = {"view": predictions["view"]}
    if "sex" in predictions and predictions["sex"].ne("").any():
        groups["sex"] = predictions["sex"]
    if "age" in predictions and predictions["age"].notna().any():
        groups["age"] = age_bands(predictions["age"])
    result = []
    for group, names in groups.items():
        for name in sorted(set(names.replace("", "unknown"))):
            part = names.replace("", "unknown").eq(name).to_numpy()
            measured = measure_films(predictions[part], threshold, weights[:, part])
            kept = ("films", "patients", "positives", "auc", "sensitivity", "specificity")
            result.append({"group": group, "name": name} | {k: measured[k] for k in kept})
    return result


def tabulate_net_benefit(
    predictions: pd.DataFrame, thresholds: Sequence[float] = THRESHOLDS, seed: int = 0
) -> pd.DataFrame:
    """Return the decision curve (Vickers and Elkin, Med Decis Making 2006), at these films'
    prevalence.

    Net benefit counts films found less false alarms, at the rate that a threshold implies. Whoever
    treats from 0.2 on takes four false alarms for one film found. `predictions` has target,
    probability and patient. One row per threshold, per film: model, treat_all (nobody treated has
    0) and gain, the model less the better of both. 95 % intervals over patients stand in `..._low`
    and `..._high`.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> curve = cxr.tabulate_net_benefit(scores, [0.2, 0.5])
    >>> curve["treat_all"].round(2).tolist()
    [0.24, -0.22]
    """
    target, score, patients, weights = resampled(predictions, seed)
    ill, patients, rows = target == 1, pd.factorize(patients)[0], []
    prevalence = mean(ill, weights)
    for threshold in thresholds:
        called, cost = score >= threshold, (1 - prevalence) * threshold / (1 - threshold)
        model = prevalence * share(called & ill, ill, patients, weights)
        model = model - cost * share(called & ~ill, ~ill, patients, weights)
        everyone = prevalence - cost
        row: dict = {"threshold": threshold, "treat_all": float(everyone[0])}
        row |= with_ends("model", interval(model))
        rows.append(row | with_ends("gain", interval(model - np.maximum(everyone, 0))))
    return pd.DataFrame(rows)


def format_interval(metric: dict, digits: int = 2) -> str:
    """Return 'value (low to high)' of a metric of `evaluate`, or 'undefined'.

    >>> import cxrlib as cxr
    >>> cxr.format_interval({"value": 0.913, "low": 0.8525, "high": 0.958})
    '0.91 (0.85 to 0.96)'
    """
    if metric["value"] is None:
        return "undefined"
    value, low, high = (f"{metric[name]:z.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def tabulate_metrics(metrics: dict[str, dict]) -> pd.DataFrame:
    """Return what `evaluate` measured as text, one row per metric, one column per set of patients.

    Metrics that are undefined in every set are left out.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> table = cxr.tabulate_metrics({"test": cxr.evaluate(scores[scores["split"] == "test"], 0.5)})
    >>> table.loc["auc", "test"]
    '0.95 (0.88 to 0.99)'
    """
    nested = ("confusion", "calibration", "net_benefit", "subgroups")
    columns = {}
    for patients, measured in metrics.items():
        columns[SETS.get(patients, patients)] = {
            name: format_interval(value) if isinstance(value, dict) else f"{round(value, 3)}"
            for name, value in measured.items()
            if name not in nested
        }
    table = pd.DataFrame(columns).fillna("undefined")  # older runs lack some
    return table[table.ne("undefined").any(axis=1)]


def tabulate_subgroups(metrics: dict) -> pd.DataFrame:
    """Return the subgroups that `evaluate` measured as text, one row per subgroup.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> cxr.tabulate_subgroups(cxr.evaluate(scores, 0.5)).loc["view", "films"].to_dict()
    {'AP': 85, 'PA': 151}
    """
    rows = [
        {k: format_interval(v) if isinstance(v, dict) else v for k, v in subgroup.items()}
        for subgroup in metrics["subgroups"]
    ]
    return pd.DataFrame(rows).set_index(["group", "name"])


def measure_films(films: pd.DataFrame, threshold: float, weights: np.ndarray) -> dict:
    """Return counts of films, AUC and rates of decisions."""
    target, probability, patients = columns_of(films)
    return {
        "films": len(films),
        "patients": len(set(patients)),
        "positives": int(target.sum()),
        "auc": ranking_interval(auc(target, probability, weights), target, patients),
        **measure_decisions(films, threshold, weights),
    }
