"""Whether a probability means what it says, and what it means at another prevalence."""

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from cxrlib.metrics.bootstrap import LARGE, interval, resampled, share


def decompose_brier(target: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Return the Brier score and its parts: brier = miscalibration - discrimination + uncertainty.

    Beside them stand the `calibration_error` and the number of its bins.

    What isotonic recalibration saves is miscalibration, what it then gains over the prevalence is
    discrimination, and uncertainty is the score of the prevalence (Dimitriadis, Gneiting and
    Jordan, PNAS 2021). Where scores take few values and their observed shares rise with them, these
    are Murphy's reliability, resolution and uncertainty (J Appl Meteorol 1973).
    """
    recalibrated = IsotonicRegression().fit_transform(probability, target)
    uncertainty = float(target.mean() * (1 - target.mean()))
    brier, best = (float(np.mean((p - target) ** 2)) for p in (probability, recalibrated))
    return {
        "brier": brier,
        "miscalibration": brier - best,
        "discrimination": uncertainty - best,
        "uncertainty": uncertainty,
        "expected_calibration_error": calibration_error(target, probability),
        "bins": count_bins(len(target)),
    }


def count_bins(films: int) -> int:
    """Return how many bins suit so many films: at most ten, of at least ten films each."""
    return max(1, min(10, films // 10))


def equal_count_bins(probability: np.ndarray) -> np.ndarray:
    """Return the bin of each film, 0 the lowest: of equal count, ties together, or fewer for it."""
    bins = count_bins(len(probability))
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, probability, side="right"), return_inverse=True)[1]


def calibration_error(target: np.ndarray, probability: np.ndarray) -> float:
    """Return the mean gap between observed share and mean probability of each film's bin.

    The expected calibration error (Naeini, Cooper and Hauskrecht, AAAI 2015), in bins of equal
    count. By chance it is above 0 for perfect calibration, too.
    """
    bin_of = equal_count_bins(probability)
    gaps = np.bincount(bin_of, target) - np.bincount(bin_of, probability)
    return float(np.abs(gaps).sum() / len(target))


def tabulate_reliability(predictions: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the points of a reliability diagram (Murphy and Winkler, Appl Statist 1977).

    One row per bin of `equal_count_bins`: films, probability (their mean), share (of the label
    among them), low and high (its 95 % interval over patients).
    """
    target, probability, patients, weights = resampled(predictions, seed)
    rows, bin_of = [], equal_count_bins(probability)
    for number in range(bin_of.max() + 1):
        inside = bin_of == number
        row = {"films": inside.sum(), "probability": probability[inside].mean()}
        rows.append(row | interval(share(inside & (target == 1), inside, patients, weights)))
    return pd.DataFrame(rows).rename(columns={"value": "share"})


def measure_calibration(
    target: np.ndarray, probability: np.ndarray, weights: np.ndarray
) -> dict[str, dict]:
    """Return calibration_slope, calibration_intercept and observed_to_expected.

    Each is a dict of value, low and high. Of a logistic curve from logits to labels (Cox,
    Biometrika 1958): the slope, 1 where probabilities are calibrated and below 1 where they are too
    extreme; the intercept at a slope of 1, above 0 where they are too low. And films with the label
    over the sum of probabilities (Van Calster et al., BMC Medicine 2019). `weights` are of
    `resample_patients`. A slope is None where the scores separate the labels or are all equal.
    """
    score = logit(np.clip(probability, 1e-6, 1 - 1e-6))
    parts = np.array_split(weights, 1 + weights.size // LARGE)
    fits = [fit_logistic(score, target, part) for part in parts]
    slope, _, intercept = (np.concatenate(column) for column in zip(*fits, strict=True))
    expected = weights @ probability.astype(np.float64)
    expected[expected == 0] = np.nan
    return {
        "calibration_slope": interval(slope),
        "calibration_intercept": interval(intercept),
        "observed_to_expected": interval((weights @ target.astype(np.float64)) / expected),
    }


def fit_logistic(
    score: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return slope and intercept of the logistic curve from scores to labels in each resample.

    And the intercept where the slope is held at 1. NaN where there is none: one class only, or
    scores that separate the classes or are all equal.
    """
    # Of a resample with one class a whole row of the other is NaN, and compares as False below.
    well, ill = (np.where((weights > 0) & (target == side), score, np.nan) for side in (0, 1))
    least, most = np.fmin.reduce, np.fmax.reduce
    both = ~np.isnan(least(well, axis=1) + least(ill, axis=1))
    mixed = (most(well, axis=1) > least(ill, axis=1)) & (most(ill, axis=1) > least(well, axis=1))
    ones = np.ones((len(score), 1))
    fixed = _newton(ones, score, target, weights, np.flatnonzero(both))
    centre, spread = score.mean(), score.std() or 1.0  # far from 0, the steps would not arrive
    columns = np.column_stack([ones, (score - centre) / spread])
    free, tilt = _newton(columns, 0, target, weights, np.flatnonzero(mixed)).T
    return tilt / spread, free - tilt * centre / spread, fixed[:, 0]


def _newton(columns, offset, target, weights, resamples) -> np.ndarray:
    """Return the coefficients of one or two columns in those of the `resamples`, else NaN."""
    products = columns[:, :, None] * columns[:, None]
    result = np.full((len(weights), columns.shape[1]), np.nan)
    for rows in np.array_split(resamples, 1 + len(resamples) // 32):  # few fit the cache
        beta = np.zeros((len(rows), columns.shape[1]))
        for _ in range(50):
            share = expit(beta @ columns.T + offset)
            gradient = (weights[rows] * (target - share)) @ columns
            done = np.abs(gradient).max(axis=1) < 1e-6
            result[rows[done]] = beta[done]
            rows, beta, gradient, share = rows[~done], beta[~done], gradient[~done], share[~done]
            if not len(rows):
                break
            curve = np.tensordot(weights[rows] * share * (1 - share), products, 1)
            curve += 1e-9 * np.eye(len(products[0]))  # of scores that are all equal there is none
            beta += np.clip(np.linalg.solve(curve, gradient[:, :, None])[:, :, 0], -3, 3)
    return result


def fit_platt(score: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept of the logistic curve from scores to probabilities.

    Scores are logits, (n,), of films that the model did not see. Targets are smoothed (Platt,
    1999), as two weighted copies of each film: else a perfect model would get an infinite slope.
    """
    ill, well = target.sum(), (1 - target).sum()
    soft = np.where(target == 1, (ill + 1) / (ill + 2), 1 / (well + 2))
    curve = LogisticRegression(C=np.inf, solver="newton-cholesky").fit(
        np.tile(score, 2)[:, None],
        np.repeat([1, 0], len(score)),
        np.concatenate([soft, 1 - soft]),
    )
    return float(curve.coef_[0, 0]), float(curve.intercept_[0])


def shift_prevalence(probability: np.ndarray, old: float, new: float) -> np.ndarray:
    """Return probabilities at another prevalence, by Bayes' rule.

    It is exact where two populations differ in the share of films with the finding alone, and each
    kind of film looks the same (Saerens, Latinne and Decaestecker, Neural Computation 2002).

    Parameters
    ----------
    probability : (n,) in 0..1, calibrated at prevalence `old`
    old, new : prevalence, between 0 and 1

    Raises
    ------
    ValueError
        A prevalence that is not between 0 and 1.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> cxr.shift_prevalence([0.1, 0.5, 0.9], old=0.5, new=0.05).round(2)
    array([0.01, 0.05, 0.32])
    """
    for name, value in (("old", old), ("new", new)):
        if not 0 < value < 1:
            raise ValueError(f"{name} prevalence is {value}: give a share between 0 and 1")
    return expit(logit(np.asarray(probability, float)) + logit(new) - logit(old))
