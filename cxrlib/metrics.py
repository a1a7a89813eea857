"""What a classifier's scores are worth, each number with an interval over patients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, roc_curve

RESAMPLES = 2000
SETS = {"train": "training, held out", "test": "test"}  # what tables and figures call them
RULES = "'youden', 'sensitivity=0.9' or 'specificity=0.9' (any share), or a number"


def choose_threshold(
    target: np.ndarray, probability: np.ndarray, rule: str | float = "youden"
) -> float:
    """Return the probability from which a film is called positive.

    Give it scores of training patients by models that did not see them, never test patients.

    Parameters
    ----------
    target : (n,) of 0 and 1
    probability : (n,) in 0..1
    rule : 'youden' maximises sensitivity + specificity - 1 (Youden, Cancer 1950);
        'sensitivity=0.9' is the highest threshold that reaches it, 'specificity=0.9' the lowest;
        a number in 0..1 is taken as it is.

    Raises
    ------
    ValueError
        An unknown rule, or films of one class only.
    """
    if len(np.unique(target)) < 2:
        raise ValueError("an operating point needs films with the finding and films without")
    false_rate, true_rate, thresholds = roc_curve(target, probability, drop_intermediate=False)
    name, _, share = str(rule).partition("=")
    try:
        if name == "youden" and not share:
            best = np.argmax(true_rate - false_rate)
        elif name == "sensitivity" and 0 < float(share) <= 1:
            best = np.argmax(true_rate >= float(share))
        elif name == "specificity" and 0 < float(share) <= 1:
            best = np.flatnonzero(1 - false_rate >= float(share))[-1]
        elif not share and 0 <= float(name) <= 1:
            return float(name)
        else:
            raise ValueError
    except ValueError:
        raise ValueError(f"operating point '{rule}': give {RULES}") from None
    # Midway to the next score below, so that rounding does not decide about a film.
    below = probability[probability < thresholds[best]]
    upper = min(thresholds[best], 1.0)
    return float((upper + below.max()) / 2) if len(below) else float(upper)


def evaluate(predictions: pd.DataFrame, threshold: float, seed: int = 0) -> dict:
    """Measure scores against labels, with 95 % intervals over patients.

    Parameters
    ----------
    predictions : DataFrame with target (0 or 1), probability (0..1), patient, view
    threshold : films at or above it are called positive
    seed : of the bootstrap

    Returns
    -------
    dict
        films, patients, positives, prevalence; auc, average_precision, sensitivity, specificity,
        ppv, npv, auc_PA and auc_AP (films of one view among themselves), each as a dict of value,
        low and high, None where undefined; confusion as {tn, fp, fn, tp}. All plain: it can be
        stored as JSON.
    """
    target = predictions["target"].to_numpy()
    probability = predictions["probability"].to_numpy()
    patients = predictions["patient"].to_numpy()
    weights = resample_patients(patients, RESAMPLES, seed)
    called = probability >= threshold
    tn, fp, fn, tp = confusion_matrix(target, called, labels=[0, 1]).ravel().tolist()
    result = {
        "films": len(target),
        "patients": len(set(patients)),
        "positives": int(target.sum()),
        "prevalence": float(target.mean()),
        "auc": _with_interval(auc, target, probability, weights),
        "average_precision": _with_interval(average_precision, target, probability, weights),
        "confusion": {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
    }
    for name, hits, among in (
        ("sensitivity", called & (target == 1), target == 1),
        ("specificity", ~called & (target == 0), target == 0),
        ("ppv", called & (target == 1), called),
        ("npv", ~called & (target == 0), ~called),
    ):
        result[name] = _with_interval(_share, hits, among, weights)
    for view in ("PA", "AP"):
        of_view = (predictions["view"] == view).to_numpy()
        result[f"auc_{view}"] = _with_interval(
            auc, target[of_view], probability[of_view], weights[:, of_view]
        )
    return result


def resample_patients(patients: Sequence, resamples: int, seed: int) -> np.ndarray:
    """Draw patients with replacement, all films of a patient together.

    The films of one patient resemble each other; resampling films would make intervals too narrow
    (cluster bootstrap, Davison and Hinkley, 1997, section 3.8).

    Returns
    -------
    float32 array, (resamples, films)
        How often each film stands in each resample.
    """
    _, of_film = np.unique(np.asarray(patients), return_inverse=True)
    count = of_film.max() + 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return times[:, of_film].astype(np.float32)


def auc(target: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of each resample; NaN where a class is absent.

    The weighted Mann-Whitney statistic, ties counting one half, for all resamples at once.

    Parameters
    ----------
    target, probability : (n,)
    weights : (resamples, n)
    """
    positive, negative = _by_score(target, probability, weights)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return _ratio((positive * below).sum(axis=1), pairs)


def average_precision(
    target: np.ndarray, probability: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the average precision of each resample, as scikit-learn defines it; see `auc`."""
    positive, negative = _by_score(target, probability, weights)
    at_least = np.cumsum(positive[:, ::-1], axis=1)
    called = at_least + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(at_least, called, out=np.zeros_like(called), where=called > 0)
    return _ratio((precision * positive[:, ::-1]).sum(axis=1), positive.sum(axis=1))


def format_interval(metric: dict) -> str:
    """Return 'value (low to high)' of a metric of `evaluate`."""
    if metric["value"] is None:
        return "undefined"
    return f"{metric['value']:.2f} ({metric['low']:.2f} to {metric['high']:.2f})"


def tabulate_metrics(metrics: dict[str, dict]) -> pd.DataFrame:
    """Return what `evaluate` measured as text, one row a metric, one column a set of patients."""

    def cell(value):
        return format_interval(value) if isinstance(value, dict) else f"{round(value, 3)}"

    return pd.DataFrame(
        {
            SETS.get(patients, patients): {
                k: cell(v) for k, v in measured.items() if k != "confusion"
            }
            for patients, measured in metrics.items()
        }
    )


def _by_score(target, probability, weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of positives and of negatives at each distinct score, ascending."""
    order = np.argsort(probability, kind="stable")
    starts = np.flatnonzero(np.diff(probability[order], prepend=-np.inf))
    weights, target = weights[:, order].astype(np.float64), target[order]
    return tuple(np.add.reduceat(weights * (target == side), starts, axis=1) for side in (1, 0))


def _share(hits: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _ratio(weights @ hits.astype(np.float32), weights @ among.astype(np.float32))


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(
        over, under, out=np.full(len(under), np.nan), where=under > 0, dtype=np.float64
    )


def _with_interval(statistic, first, second, weights) -> dict[str, float | None]:
    """Return the statistic of the films as they are, and its percentile interval."""
    value = np.nan
    if len(first):
        value = statistic(first, second, np.ones((1, len(first)), np.float32))[0]
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    low, high = np.nanpercentile(statistic(first, second, weights), [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}
