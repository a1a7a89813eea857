"""Labels that look wrong: films whose label a model that did not see their patient doubts."""

import numpy as np
import pandas as pd

from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval, resample_patients
from cxrlib.metrics.calibration import shift_prevalence


def rank_labels(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return predictions, the most suspicious label first, with self_confidence (0..1).

    `predictions` has target, of both classes, and probability, scored held out. Self-confidence is
    the probability that the model gives to the label (Northcutt, Jiang and Chuang, JAIR 2021). It
    is taken at a prevalence of one half, since otherwise every rare label would look suspicious. A
    low value is a reason to look at the film, not a verdict: hard films come first, too.
    """
    target = predictions["target"].to_numpy()
    ill = shift_prevalence(predictions["probability"].to_numpy(), target.mean(), 0.5)
    ranked = predictions.assign(self_confidence=np.where(target == 1, ill, 1 - ill))
    return ranked.sort_values("self_confidence", kind="stable").reset_index(drop=True)


def measure_label_ranking(
    ranked: pd.DataFrame, wrong: np.ndarray, tops: tuple[int, ...] = (5, 10, 20), seed: int = 0
) -> tuple[pd.DataFrame, dict]:
    """Measure a ranking of `rank_labels` where the wrong labels, bool (films,), are known.

    Returns a DataFrame, one row per top, of which so many films are looked at: wrong (found),
    precision, recall, chance (precision of films picked at random); and a dict of value, low and
    high: how often a wrong label stands before a right one, with its 95 % interval over patients.
    """
    wrong = np.asarray(wrong, bool)
    found = pd.Series({top: wrong[:top].sum() for top in tops if top <= len(wrong)}, dtype=int)
    columns = {"wrong": found, "precision": found / found.index, "recall": found / wrong.sum()}
    table = pd.DataFrame(columns).rename_axis("films looked at").assign(chance=wrong.mean())
    weights = resample_patients(ranked["patient"], RESAMPLES, seed)
    suspicion = 1 - ranked["self_confidence"].to_numpy()
    return table, interval(auc(wrong.astype(int), suspicion, weights))
