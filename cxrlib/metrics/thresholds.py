"""Operating points: thresholds chosen on training patients, and what they mean elsewhere."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from cxrlib.metrics.bootstrap import interval, resampled, share, with_ends
from cxrlib.metrics.report import format_interval, measure_decisions

RULES = "'youden', 'sensitivity=0.9', 'specificity=0.9', 'cost=5' (any number), or a threshold"
PREVALENCES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


def choose_threshold(
    target: np.ndarray, probability: np.ndarray, rule: str | float = "youden"
) -> float:
    """Return the probability from which a film is called positive.

    Parameters
    ----------
    target, probability : (n,), 0 or 1, and 0..1. Of training patients, by models that did not see
        them, never of test patients.
    rule : 'youden' maximises sensitivity + specificity - 1 (Youden, Cancer 1950). 'sensitivity=0.9'
        is the highest threshold that reaches it, 'specificity=0.9' the lowest. 'cost=5' minimises
        the cost where a missed film costs as much as five false alarms, at the prevalence of these
        films (Metz, Semin Nucl Med 1978). A number in 0..1 is taken as it is.

    Raises
    ------
    ValueError
        An unknown rule, or films of one class only.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> import numpy as np
    >>> target, probability = np.array([0, 0, 1, 0, 1]), np.array([0.1, 0.2, 0.4, 0.5, 0.8])
    >>> round(cxr.choose_threshold(target, probability, "sensitivity=1"), 2)
    0.3
    """
    if len(np.unique(target)) < 2:
        raise ValueError("an operating point needs films with the finding and films without")
    false_rate, true_rate, thresholds = roc_curve(target, probability, drop_intermediate=False)
    name, _, number = str(rule).partition("=")
    try:
        if name == "youden" and not number:
            best = np.argmax(true_rate - false_rate)
        elif name == "sensitivity" and 0 < float(number) <= 1:
            best = np.argmax(true_rate >= float(number))
        elif name == "specificity" and 0 < float(number) <= 1:
            best = np.flatnonzero(1 - false_rate >= float(number))[-1]
        elif name == "cost" and 0 < float(number) < np.inf:
            missed = (1 - true_rate) * np.sum(target == 1)
            best = np.argmin(float(number) * missed + false_rate * np.sum(target == 0))
        elif not number and 0 <= float(name) <= 1:
            return float(name)
        else:
            raise ValueError
    except ValueError:
        raise ValueError(f"operating point '{rule}': give {RULES}") from None
    # Midway to the next score below, so that rounding does not decide about a film.
    below = probability[probability < thresholds[best]]
    upper = min(thresholds[best], 1.0)
    return float((upper + below.max()) / 2) if len(below) else float(upper)


def at_prevalence(sensitivity, specificity, prevalence) -> dict:
    """Return ppv, npv, false_alarms and missed (films per 100) by Bayes' rule, of floats or arrays.

    PPV or NPV is NaN where no film is called so.
    """
    found, missed = prevalence * sensitivity, prevalence * (1 - sensitivity)
    alarms, cleared = (1 - prevalence) * (1 - specificity), (1 - prevalence) * specificity
    with np.errstate(invalid="ignore"):
        return {
            "ppv": np.divide(found, found + alarms),
            "npv": np.divide(cleared, cleared + missed),
            "false_alarms": 100 * alarms,
            "missed": 100 * missed,
        }


def tabulate_operating_points(
    train: pd.DataFrame, test: pd.DataFrame, rules: Sequence[str | float], seed: int = 0
) -> pd.DataFrame:
    """Choose a threshold by each rule on training patients and apply it to test patients.

    Of DataFrames with target, probability and patient, those of `train` scored held out. One row
    per rule of `choose_threshold`: threshold; sensitivity and specificity of both, as text with
    95 % intervals over patients.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> train, test = (scores[scores["split"] == side] for side in ("train", "test"))
    >>> table = cxr.tabulate_operating_points(train, test, ["youden", "sensitivity=0.9"])
    >>> table["threshold"].to_dict()
    {'youden': 0.527, 'sensitivity=0.9': 0.176}
    """
    sides = {"train": train, "test": test}
    weights = {name: resampled(films, seed)[-1] for name, films in sides.items()}
    rows: dict[str | float, dict] = {}
    for rule in rules:
        cut = choose_threshold(train["target"].to_numpy(), train["probability"].to_numpy(), rule)
        rows[rule] = {"threshold": round(cut, 3)}
        for name, films in sides.items():
            measured = measure_decisions(films, cut, weights[name])
            for rate in ("sensitivity", "specificity"):
                rows[rule][f"{rate}, {name}"] = format_interval(measured[rate])
    return pd.DataFrame(rows).T.rename_axis("rule")


def tabulate_prevalences(
    predictions: pd.DataFrame,
    threshold: float,
    prevalences: Sequence[float] = PREVALENCES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what a positive and a negative call are worth where the finding is rarer or not.

    By Bayes' rule from sensitivity and specificity, which are taken to hold at any prevalence
    (Altman and Bland, BMJ 1994). `predictions` has target, probability and patient. A film at or
    above `threshold` is called positive; prevalences lie between 0 and 1. One row per prevalence:
    ppv, npv and false_alarms (films per 100 that are called positive and have no finding). 95 %
    intervals over patients stand in `..._low` and `..._high`.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> cxr.tabulate_prevalences(scores, 0.5, [0.01, 0.1])["ppv"].round(2).tolist()
    [0.07, 0.45]
    """
    target, probability, patients, weights = resampled(predictions, seed)
    ill, called = target == 1, probability >= threshold
    sensitivity = share(called & ill, ill, patients, weights)
    specificity = share(~called & ~ill, ~ill, patients, weights)
    rows: list[dict] = []
    for prevalence in prevalences:
        worth = at_prevalence(sensitivity, specificity, prevalence)
        rows.append({"prevalence": prevalence})
        for name in ("ppv", "npv", "false_alarms"):
            rows[-1] |= with_ends(name, interval(worth[name]))
    return pd.DataFrame(rows)
