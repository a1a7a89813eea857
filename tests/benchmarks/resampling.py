"""Measure the bootstrap over patients against a loop over scikit-learn's metrics.

    python tests/benchmarks/resampling.py

2,000 films of 900 patients, 2,000 resamples, six statistics: AUC, average precision, sensitivity,
specificity, PPV and NPV. The loop runs a tenth of the resamples, between two runs of the other.
"""

import time

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from cxrlib.metrics.bootstrap import (
    RESAMPLES,
    auc,
    average_precision,
    interval,
    resample_patients,
)
from cxrlib.metrics.report import measure_decisions

FILMS, PATIENTS, SHARE = 2000, 900, 10


def all_at_once(target, probability, patients):
    weights = resample_patients(patients, RESAMPLES, 0)
    for statistic in (auc, average_precision):
        interval(statistic(target, probability, weights))
    films = {"target": target, "probability": probability, "patient": patients}
    measure_decisions(pd.DataFrame(films), 0.5, weights)


def one_by_one(target, probability, patients):
    for weight in resample_patients(patients, RESAMPLES // SHARE, 0)[1:]:
        roc_auc_score(target, probability, sample_weight=weight)
        average_precision_score(target, probability, sample_weight=weight)
        tn, fp, fn, tp = confusion_matrix(target, probability >= 0.5, sample_weight=weight).ravel()
        tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn)


def seconds(function, *films) -> float:
    started = time.perf_counter()
    function(*films)
    return time.perf_counter() - started


def main():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, PATIENTS, FILMS)
    target = rng.integers(0, 2, FILMS)
    films = target, 1 / (1 + np.exp(-rng.normal(target - 0.5, 1))), patients
    first, loop, second = (seconds(f, *films) for f in (all_at_once, one_by_one, all_at_once))
    ours, theirs = min(first, second), loop * SHARE
    print(f"{RESAMPLES} resamples of {FILMS} films, six statistics")
    print(f"all resamples at once: {ours:.2f} s (runs: {first:.2f} and {second:.2f} s)")
    print(f"a loop over scikit-learn: {theirs:.1f} s, {theirs / ours:.0f} times as long")


if __name__ == "__main__":
    main()
