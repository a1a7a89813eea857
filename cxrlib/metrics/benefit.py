"""Whether deciding by the scores does more good than deciding without them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrlib.metrics.bootstrap import RESAMPLES, interval, mean, resample_patients, share

THRESHOLDS = tuple(percent / 100 for percent in range(1, 100))


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
    ill, score = predictions["target"].to_numpy() == 1, predictions["probability"].to_numpy()
    weights = resample_patients(predictions["patient"], RESAMPLES, seed)
    patients, prevalence, rows = pd.factorize(predictions["patient"])[0], mean(ill, weights), []
    for threshold in thresholds:
        called, cost = score >= threshold, (1 - prevalence) * threshold / (1 - threshold)
        model = prevalence * share(called & ill, ill, patients, weights)
        model = model - cost * share(called & ~ill, ~ill, patients, weights)
        everyone = prevalence - cost
        row: dict[str, float | None] = {"threshold": threshold, "treat_all": float(everyone[0])}
        for name, values in {"model": model, "gain": model - np.maximum(everyone, 0)}.items():
            ends = (name, f"{name}_low", f"{name}_high")
            row |= zip(ends, interval(values).values(), strict=True)
        rows.append(row)
    return pd.DataFrame(rows)
