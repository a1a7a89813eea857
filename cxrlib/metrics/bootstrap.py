"""Statistics of films in resamples of patients, all resamples at once, and their intervals."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
UNDEFINED = {"value": None, "low": None, "high": None}


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


def auc(
    target: np.ndarray,
    probability: np.ndarray,
    weights: np.ndarray,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Return the area under the ROC curve of each resample; NaN where a class is absent.

    The weighted Mann-Whitney statistic, ties counting one half, for all resamples at once. With
    `strata` only pairs of films of one stratum are compared (the covariate-adjusted AUC, Janes and
    Pepe, Biometrika 2009, each stratum weighing as its number of pairs): for views, what is left
    when a positive film is held against negative films of its own view.

    Parameters
    ----------
    target, probability : (n,)
    weights : (resamples, n)
    strata : (n,), or None for one stratum
    """
    strata = np.zeros(len(target)) if strata is None else np.asarray(strata)
    concordant = pairs = np.zeros(len(weights))
    for stratum in np.unique(strata):
        part = strata == stratum
        positive, negative = _by_score(target[part], probability[part], weights[:, part])
        below = np.cumsum(negative, axis=1) - negative / 2
        concordant = concordant + (positive * below).sum(axis=1)
        pairs = pairs + positive.sum(axis=1) * negative.sum(axis=1)
    return _ratio(concordant, pairs)


def average_precision(
    target: np.ndarray, probability: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the average precision of each resample, as scikit-learn defines it; see `auc`."""
    positive, negative = _by_score(target, probability, weights)
    at_least = np.cumsum(positive[:, ::-1], axis=1)
    called = at_least + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(at_least, called, out=np.zeros_like(called), where=called > 0)
    return _ratio((precision * positive[:, ::-1]).sum(axis=1), positive.sum(axis=1))


def resample_share(
    hits: np.ndarray, among: np.ndarray, patients: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the share of `hits` in `among`, and the same in each resample.

    A bootstrap has nothing to say of a share of 0 or 1: every resample gives it again. There the
    resamples are drawn so that their percentiles are the exact binomial limits (Clopper and
    Pearson, Biometrika 1934) of as many trials as there are patients.

    Parameters
    ----------
    hits, among : (n,) of bool
    patients : (n,)
    weights : (resamples, n), as `resample_patients` gives them
    """
    shares = np.vstack([np.ones(len(hits), np.float32), weights]) @ np.stack(
        [hits, among], axis=1
    ).astype(np.float32)
    value, *resampled = _ratio(shares[:, 0], shares[:, 1])
    trials = len(set(patients[among]))
    rng = np.random.default_rng(trials)
    if value == 0:
        resampled = rng.beta(1, trials, len(weights))
    elif value == 1:
        resampled = rng.beta(trials, 1, len(weights))
    return value, np.asarray(resampled)


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of (n,) `values` in each resample."""
    return _ratio(weights @ values.astype(np.float64), weights.sum(axis=1, dtype=np.float64))


def with_interval(statistic, columns: tuple, weights: np.ndarray, **options) -> dict:
    """Return a statistic of the films as they are, and its 95 % percentile interval.

    Parameters
    ----------
    statistic : function of `columns`, then weights (resamples, n); returns (resamples,)
    columns : arrays (n,)
    weights : (resamples, n), as `resample_patients` gives them
    options : passed on to `statistic`

    Returns
    -------
    dict of value, low and high; None where the statistic is undefined
    """
    if not len(columns[0]):
        return dict(UNDEFINED)
    ones = np.ones((1, len(columns[0])), np.float32)
    value = statistic(*columns, ones, **options)[0]
    return percentile_interval(value, statistic(*columns, weights, **options))


def percentile_interval(value: float, resampled: np.ndarray) -> dict[str, float | None]:
    """Return value, low and high: the 95 % percentile interval, stretched to hold the value."""
    if np.isnan(value):
        return dict(UNDEFINED)
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value))}


def _by_score(target, probability, weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of positives and of negatives at each distinct score, ascending."""
    order = np.argsort(probability, kind="stable")
    starts = np.flatnonzero(np.diff(probability[order], prepend=-np.inf))
    weights, target = weights[:, order].astype(np.float64), target[order]
    return tuple(np.add.reduceat(weights * (target == side), starts, axis=1) for side in (1, 0))


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(
        over, under, out=np.full(len(under), np.nan), where=under > 0, dtype=np.float64
    )
