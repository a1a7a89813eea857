"""Held-out logits as `cxr.fit_head` gives them, several times as fast, for many ways.

The same standardisation, folds, penalties and nested choice; what is left out is the final head,
and a head's coefficients. A logistic regression with an L2 penalty sees the films through their
products with each other alone, so each fold needs one matrix of (films, films), and a Newton step
one Cholesky factor (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, 3.4).
"""

import numpy as np
import scipy.linalg
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from cxrlib.model.head import STRENGTHS
from cxrlib.model.span import measure_moments, standardise


def held_out_logits(features: np.ndarray, target: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return each film's logit, (films,), by a head that never saw its fold; not calibrated."""
    features = features.reshape(len(features), -1).astype(np.float32)
    sums, squares, counts = measure_moments(features, fold)
    names, logit = np.unique(fold), np.empty(len(fold))
    for index, number in enumerate(names):
        parts = (np.delete(x, index, axis=0).sum(axis=0) for x in (sums, squares, counts))
        mean, scale = standardise(features, *parts)
        rows = (features - mean) / scale
        products = (rows @ rows.T).astype(float)
        rest, out = fold != number, fold == number
        inner = products[np.ix_(rest, rest)], target[rest], fold[rest]
        scores = np.stack([cross_validate(*inner, strength) for strength in STRENGTHS])
        areas = [
            np.mean([roc_auc_score(target[fold == i], s[fold[rest] == i]) for i in set(inner[2])])
            for s in scores
        ]
        best = int(np.argmax(areas))
        coef, bias = fit(inner[0], inner[1], STRENGTHS[best])
        raw = products[np.ix_(out, rest)] @ coef + bias
        logit[out] = (raw - scores[best].mean()) / scores[best].std()
    return logit


def cross_validate(products, target, fold, strength: float) -> np.ndarray:
    score = np.empty(len(fold))
    for number in np.unique(fold):
        rest, out = fold != number, fold == number
        coef, bias = fit(products[np.ix_(rest, rest)], target[rest], strength)
        score[out] = products[np.ix_(out, rest)] @ coef + bias
    return score


def fit(products: np.ndarray, target: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Return a coefficient per film, (films,), and the intercept of a balanced regression."""
    weight = strength * (len(target) / 2 / np.bincount(target))[target]
    coef, bias = np.zeros(len(target)), 0.0

    def measure(coef, bias):
        logit = products @ coef
        miss = weight @ (np.logaddexp(0, logit + bias) - target * (logit + bias))
        return logit + bias, miss + coef @ logit / 2

    logit, loss = measure(coef, bias)
    for _ in range(50):
        chance = expit(logit)
        curve = np.maximum(weight * chance * (1 - chance), 1e-12)
        root = np.sqrt(curve)
        factor = scipy.linalg.cho_factor(
            np.eye(len(root)) + root[:, None] * products * root, overwrite_a=True
        )
        wanted = logit + weight * (target - chance) / curve
        both = root[:, None] * np.stack([wanted, np.ones(len(root))], axis=1)
        solved = (root[:, None] * scipy.linalg.cho_solve(factor, both)).T
        aim = solved[0].sum() / solved[1].sum()
        step, shift, length = solved[0] - aim * solved[1] - coef, aim - bias, 1.0
        while True:
            new = coef + length * step, bias + length * shift
            reached = measure(*new)
            if reached[1] <= loss + 1e-9 * abs(loss) or length < 1e-3:
                break
            length /= 2
        moved = np.abs(reached[0] - logit).max()
        (coef, bias), (logit, loss) = new, reached
        if moved < 1e-3:
            break
    return coef, bias
