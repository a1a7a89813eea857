"""Statistics of films in resamples of patients, all resamples at once, and their intervals.

Row 0 of the weights, and so value 0 of each statistic, is of the films as they are.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import betaincinv, ndtri, stdtrit

RESAMPLES = 2000
UNDEFINED = {"value": None, "low": None, "high": None}
LARGE = 2**22  # weights at once, of which some copies are held
FEW = 10  # patients of an outcome: with fewer, resamples that lack it decide about the interval


def resample_patients(patients: Sequence | np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return how often each film stands in each resample, float32 (1 + resamples, films).

    Patients are drawn with replacement, all films of one together: they resemble each other, and
    resampled films would make intervals too narrow (Davison and Hinkley, 1997, section 3.8).
    """
    _, of_film = np.unique(np.asarray(patients), return_inverse=True)
    count = of_film.max() + 1
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + resamples, len(of_film)), np.float32)
    for row in weights[1:]:  # one by one, since counts of all at once take twice the memory
        row[:] = rng.multinomial(count, np.full(count, 1 / count))[of_film]
    return weights


def columns_of(films: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """Return target, probability and patient of films, each (n,)."""
    return tuple(films[name].to_numpy() for name in ("target", "probability", "patient"))


def resampled(films: pd.DataFrame, seed: int) -> tuple[np.ndarray, ...]:
    """Return `columns_of` films, and the weights of `resample_patients`."""
    return *columns_of(films), resample_patients(films["patient"], RESAMPLES, seed)


def auc(
    target: np.ndarray,
    probability: np.ndarray,
    weights: np.ndarray,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Return the area under the ROC curve of each resample; NaN where a class is absent.

    The weighted Mann-Whitney statistic, ties counting one half. With `strata` only pairs of films
    of one stratum are compared (the covariate-adjusted AUC, Janes and Pepe, Biometrika 2009, each
    stratum weighing as its number of pairs). Columns are (n,), weights of `resample_patients`.
    """
    if weights.size > LARGE and len(weights) > 1:
        halves = np.array_split(weights, 2)
        return np.concatenate([auc(target, probability, half, strata) for half in halves])
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
    if weights.size > LARGE and len(weights) > 1:
        halves = np.array_split(weights, 2)
        return np.concatenate([average_precision(target, probability, half) for half in halves])
    positive, negative = _by_score(target, probability, weights)
    at_least = np.cumsum(positive[:, ::-1], axis=1)
    called = at_least + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(at_least, called, out=np.zeros_like(called), where=called > 0)
    return _ratio((precision * positive[:, ::-1]).sum(axis=1), positive.sum(axis=1))


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of (n,) `values` in each resample."""
    # A product with float64 makes a copy of the weights, of twice their size.
    parts = np.array_split(weights, 1 + weights.size // LARGE)
    total = np.concatenate([part @ values.astype(np.float64) for part in parts])
    return _ratio(total, weights.sum(axis=1, dtype=np.float64))


def share(
    hits: np.ndarray, among: np.ndarray, patients: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the share of `hits` in `among` in each resample.

    `hits` and `among` are (n,) of bool, with hits only where among. Where fewer than ten patients
    have a hit, or a film without one, resamples that lack it would promise a share of 0 or 1. There
    values are drawn whose percentiles are the exact binomial limits (Clopper and Pearson, 1934) of
    an effective number of films (Korn and Graubard, Survey Methodology 1998): as many as would vary
    alone as these do by patient; of a share of 0 or 1, the number of patients.
    """
    counts = weights @ np.stack([hits, among], axis=1).astype(np.float32)
    shares = _ratio(counts[:, 0], counts[:, 1])
    _, of_film, films = np.unique(patients[among], return_inverse=True, return_counts=True)
    found = np.bincount(of_film, hits[among])
    if not len(films) or min((found > 0).sum(), (found < films).sum()) >= FEW:
        return shares
    value, trials = shares[0], len(films)
    variance = ((found - value * films) ** 2).sum() / films.sum() ** 2
    if variance and len(films) > 1:  # of one patient, rounding leaves some
        variance *= len(films) / (len(films) - 1)
        variance *= (stdtrit(len(films) - 1, 0.975) / ndtri(0.975)) ** 2
        trials = min(films.sum(), value * (1 - value) / variance)
    successes, failures = value * trials, (1 - value) * trials
    rank = np.random.default_rng(np.flatnonzero(among)).random(len(shares) - 1)
    low = rank < 0.5
    drawn = betaincinv(successes + ~low, failures + low, rank)  # NaN without a hit or without one
    return np.append(value, np.where(np.isnan(drawn), ~low, drawn))


def interval(values: np.ndarray) -> dict[str, float | None]:
    """Return a statistic, `values[0]`, and its 95 % percentile interval; None where undefined."""
    value = float(values[0])
    if np.isnan(value):
        return dict(UNDEFINED)
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return {"value": value, "low": float(min(low, value)), "high": float(max(high, value))}


def with_ends(name: str, measured: dict) -> dict[str, float | None]:
    """Return what `interval` gave as columns: `name`, and its ends in `..._low` and `..._high`."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), measured.values(), strict=True))


def ranking_interval(
    values: np.ndarray, target: np.ndarray, patients: np.ndarray, strata: np.ndarray | None = None
) -> dict[str, float | None]:
    """Return the `interval` of an AUC or average precision; None where a class is absent.

    Where all pairs are ordered alike, or all films are of one patient, resamples say nothing. Then
    the bound is binomial: on as many pairs of one stratum as patients, used once, can form.
    """
    sides = [target == side for side in (0, 1)]
    groups = [True] if strata is None else [strata == stratum for stratum in set(strata)]
    pairs = [[len(set(patients[group & side])) for side in sides] for group in groups]
    if not any(map(all, pairs)):
        return dict(UNDEFINED)
    once = min(len(set(patients[side])) for side in sides), len(set(patients)) // 2
    used = min(sum(map(min, pairs)), *once)
    bound = 0.025 ** (1 / used) if used else 0.0
    measured = interval(values)
    if measured["value"] == 1 or not used:
        measured["low"] = bound
    if measured["value"] == 0 or not used:
        measured["high"] = 1 - bound
    return measured


def compare_auc(
    target: np.ndarray, first: np.ndarray, second: np.ndarray, patients: np.ndarray, seed: int = 0
) -> dict[str, dict]:
    """Compare the AUC of two scores of the same films, in the same resamples of patients.

    Parameters
    ----------
    target, patients : (n,), 0 or 1, and whose film it is
    first, second : (n,), scores that rise with the finding, of any range

    Returns
    -------
    dict
        first, second (AUC, 0..1) and difference (first less second), each as a dict of value, low
        and high: 95 % intervals over patients.

    Raises
    ------
    ValueError
        A class of fewer than two patients.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> target, patients = [0, 0, 0, 1, 1, 1], ["a", "b", "c", "d", "e", "f"]
    >>> first, second = [0.1, 0.2, 0.6, 0.5, 0.8, 0.9], [0.3, 0.7, 0.6, 0.2, 0.8, 0.4]
    >>> compared = cxr.compare_auc(target, first, second, patients)
    >>> cxr.format_interval(compared["first"])
    '0.89 (0.50 to 1.00)'
    """
    target, first, second, patients = map(np.asarray, (target, first, second, patients))
    for side, name in ((1, "with the finding"), (0, "without")):
        if len(set(patients[target == side])) < 2:
            raise ValueError(f"a comparison needs films of two patients {name} at the least")
    weights = resample_patients(patients, RESAMPLES, seed)
    areas = [auc(target, score, weights) for score in (first, second)]
    named = zip(("first", "second"), areas, strict=True)
    return {name: ranking_interval(area, target, patients) for name, area in named} | {
        "difference": interval(areas[0] - areas[1])
    }


def _by_score(target, probability, weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of positives and of negatives at each distinct score, ascending."""
    order = np.argsort(probability, kind="stable")
    starts = np.flatnonzero(np.diff(probability[order], prepend=-np.inf))
    weights, target = weights[:, order].astype(np.float64), target[order]
    won, lost = (np.add.reduceat(weights * (target == side), starts, axis=1) for side in (1, 0))
    return won, lost


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(
        over, under, out=np.full(len(under), np.nan), where=under > 0, dtype=np.float64
    )
