"""Logistic regressions of more films than memory holds: all fits at once, block by block."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from cxrlib.model.span import (
    EPSILON,
    draw_rows,
    measure_moments,
    orthonormal_basis,
    standardise,
    sweep,
)

SAMPLE = 1000  # films that tell the curvature; a quarter as many directions are told well
CLOSE = 3e-6  # share of the variance of a score that may be wrong at the end
FORCING = 0.2  # what conjugate gradients leave of the squared gradient, in each Newton step
STEPS = 25, 50  # at most, of Newton and of conjugate gradients in each


def fit_logistics(
    features, target: np.ndarray, weights: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit L2-regularised logistic regressions to one set of films, all at once.

    Newton's method; each step is solved by conjugate gradients, preconditioned by the leading
    directions of a sample (after Frangella, Tropp and Udell, SIAM J. Matrix Anal. Appl. 2023).
    Each sweep over the films serves all fits, and memory holds one block of films.

    `weights`, float32 of (films, fits), are of each film's loss against a penalty of |coef|^2 / 2.
    `mean`, (p,), and `scale`, (fits, p), standardise. Returns coefficients, (fits, p + 1) with the
    intercept last, and the logits of all films, (films, fits), both float32.
    """
    films, fits = weights.shape
    target, mean = target.astype(np.float32)[:, None], mean.astype(np.float32)
    axes, along = orthonormal_basis(draw_rows(features, SAMPLE, mean, scale.mean(axis=0)))
    kept = -(-axes.shape[1] // 4)
    axes = np.ascontiguousarray(axes[:, -kept:])
    variance = (along[:, -kept:] ** 2).mean(axis=0)  # ascending
    penalty = np.append(np.ones(mean.size, np.float32), np.float32(0))
    coef, score = np.zeros((fits, mean.size + 1), np.float32), np.zeros((films, fits), np.float32)
    live = np.arange(fits)

    def pull(total, heights, which):
        return np.column_stack([(total - heights[:, None] * mean) / scale[which], heights])

    def solve(slope, mass):  # by the curvature along `axes`, one for all directions across them
        across = 1 / (1 + mass[:, None] * variance[0])
        gain = 1 / (1 + mass[:, None] * variance) - across
        step = across * slope[:, :-1] + ((slope[:, :-1] @ axes) * gain) @ axes.T
        step = np.column_stack([step, slope[:, -1] / mass])
        return step, np.einsum("ij,ij->i", slope, step)

    def loss(step, moved):
        logit, each = score[:, live] + moved, coef[live] + step
        each = np.einsum("ij,ij,j->i", each, each, penalty) / 2
        logit = np.logaddexp(0, logit) - target * logit
        return each + np.einsum("ij,ij->j", weights[:, live], logit, dtype=float)

    with tqdm(desc="sweeps over all films", unit="sweep", delay=5) as progress:
        for _ in range(STEPS[0]):
            chance = expit(score[:, live])
            miss = weights[:, live] * (chance - target)
            curve = weights[:, live] * chance * (1 - chance)
            mass, heights = (x.sum(axis=0, dtype=float).astype(np.float32) for x in (curve, miss))
            total = sweep(features, None, lambda rows, _, miss=miss: miss[rows], len(live))
            slope = pull(total, heights, live) + coef[live] * penalty
            way, size = solve(slope, mass)
            close = CLOSE * mass * score[:, live].var(axis=0, dtype=float)
            far = size > close  # `size` is twice what the loss can still fall
            progress.update()
            progress.set_postfix_str(f"{fits - far.sum()} of {fits} fits done", refresh=False)
            if not far.any():
                return coef, score
            live, curve, mass, slope = live[far], curve[:, far], mass[far], slope[far]
            way, size, rest = -way[far], size[far], -slope
            enough = np.maximum(FORCING * size, close[far] / 4)
            step, moved = np.zeros_like(way), np.zeros_like(curve)
            on = np.arange(len(live))  # the fits that conjugate gradients still improve
            for _ in range(STEPS[1]):
                raw = way[on, :-1] / scale[live[on]]
                shift = way[on, -1] - raw @ mean
                logit, bend = np.empty((films, len(on)), np.float32), curve[:, on]

                def curved(rows, product, logit=logit, bend=bend, shift=shift):
                    logit[rows] = product + shift
                    return bend[rows] * logit[rows]

                total = sweep(features, raw, curved, len(on))
                heights = np.einsum("ij,ij->j", bend, logit, dtype=float).astype(np.float32)
                bent = pull(total, heights, live[on]) + way[on] * penalty
                length = size[on] / np.einsum("ij,ij->i", way[on], bent)
                step[on] += length[:, None] * way[on]
                moved[:, on] += length * logit
                rest[on] -= length[:, None] * bent
                ahead, now = solve(rest[on], mass[on])
                way[on] = ahead + (now / size[on])[:, None] * way[on]
                size[on] = now
                progress.update()
                on = on[now > enough[on]]
                if not len(on):
                    break
            start, fall = loss(0, 0), np.einsum("ij,ij->i", slope, step)
            length = np.ones(len(live), np.float32)
            for _ in range(20):
                reached = loss(length[:, None] * step, length * moved)
                high = reached > start * (1 + 1e-6) + 1e-4 * length * fall
                if not high.any():
                    break
                length[high] /= 2
            coef[live] += length[:, None] * step
            score[:, live] += length * moved
    return coef, score


def fit_nested(
    features, target: np.ndarray, fold: np.ndarray, strengths: Sequence[float], nested: bool
) -> tuple[list[np.ndarray], np.ndarray, pd.DataFrame]:
    """Choose the penalty by cross-validation over `fold`, as `fit_head` does, in one set of fits.

    Where `nested`, each film also gets a logit by a choice that has not seen its fold. Returns
    weights of a head (mean, variance, kernel, bias), logits, (films,), NaN unless nested, and the
    history: strength, fold, auc.
    """
    sums, squares, counts = measure_moments(features, fold)
    names = range(len(counts))
    fold = np.unique(fold, return_inverse=True)[1]
    pairs = [(i, j) for j in names for i in range(j)] if nested else []
    left_out = [*pairs, *((i,) for i in names), ()]
    mean = standardise(features, sums.sum(axis=0), squares.sum(axis=0), len(fold))[0]
    weights, scales = [], []
    for out in left_out:
        kept, films = np.delete(names, out), ~np.isin(fold, out)
        scale = standardise(features, *(x[kept].sum(axis=0) for x in (sums, squares, counts)))[1]
        weights += [strength * balance(films, target) for strength in strengths]
        scales += [scale] * len(strengths)
    weights = np.stack(weights, axis=1).astype(np.float32)
    coef, score = fit_logistics(features, target, weights, mean, np.stack(scales))
    fit_of = {out: i * len(strengths) + np.arange(len(strengths)) for i, out in enumerate(left_out)}

    logit = np.full(len(fold), np.nan)
    for outer in [*((i,) for i in names if nested), ()]:
        rest = ~np.isin(fold, outer)
        without = np.array([fit_of[tuple(sorted({*outer, i}))] for i in names])
        held = np.take_along_axis(score[rest], without[fold[rest]], axis=1)
        best, middle, spread, history = choose_strength(held, target[rest], fold[rest], strengths)
        fit = fit_of[outer][best]
        logit[~rest] = (score[~rest, fit] - middle) / spread
    kernel, bias = coef[fit, :-1, None] / spread, (coef[fit, -1:] - middle) / spread
    return [mean, scales[-1] ** 2 - EPSILON, kernel, bias], logit, history


def choose_strength(score, target, fold, strengths) -> tuple[int, float, float, pd.DataFrame]:
    """Return which strength has the best AUC over `fold`, its mean and SD, and the history.

    `score`, (films, strengths), are held-out logits. They grow with C, and folds that chose another
    one are pooled for calibration: who divides by the SD of each brings them to one scale.
    """
    parts = [fold == number for number in np.unique(fold)]
    aucs = np.array([[roc_auc_score(target[x], each[x]) for x in parts] for each in score.T])
    best = int(aucs.mean(axis=1).argmax())
    rows = pd.MultiIndex.from_product([strengths, np.unique(fold)], names=["strength", "fold"])
    history = pd.Series(aucs.ravel(), rows, name="auc").reset_index()
    return best, score[:, best].mean(), score[:, best].std(), history


def score_by(rows, target: np.ndarray, trained_on: list, fit: np.ndarray, strength: float):
    """Return each film's logits, (scores, films), by those of several fits that `fit` numbers.

    `rows` are standardised, as `span_of_films` gives them. `trained_on` has a mask of films for
    each fit, and `strength` is C, the inverse of the L2 penalty.
    """
    weights = np.stack([strength * balance(train, target) for train in trained_on], axis=1)
    mean, scale = np.zeros(rows.shape[1]), np.ones((len(trained_on), rows.shape[1]), np.float32)
    _, score = fit_logistics(rows, target, weights.astype(np.float32), mean, scale)
    return score[np.arange(len(rows)), fit]


def balance(train: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return weights, (films,), by which both classes of the films in `train` count the same."""
    return train * train.sum() / 2 / np.bincount(target[train], minlength=2)[target]
