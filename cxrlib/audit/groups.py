"""Groups of films, and what a model does in each."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from cxrlib.metrics.bootstrap import FEW, RESAMPLES, auc, resample_patients, share
from cxrlib.metrics.report import age_bands


def groups_of(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return, by name, each column that tells groups of films: two to ten values, known or ''."""
    others = table.drop(columns=["id", "patient", "target", "probability", "split", "fold", "age"])
    told = others.nunique().between(2, 10) & (others.ne("").sum() > 1)
    return {name: others[name] for name in others.columns[told]}


def compare_groups(films: pd.DataFrame, threshold: float) -> tuple[pd.DataFrame, list[str]]:
    """Compare each group of `audited_rows`, and each age band, with all others that are known.

    Returns a table, one row per group and measure (AUC, sensitivity, specificity): here, others,
    difference, low and high: intervals of the difference over patients, widened by Bonferroni's
    correction so that all hold together in 95 % of samples; and the groups that are left out, since
    they have, or leave, fewer than ten patients of a class.
    """
    groups, rows, enough, left_out = groups_of(films), {}, {}, []
    if films["age"].notna().any():
        groups["age"] = age_bands(films["age"])
    patients, ill = films["patient"].to_numpy(), films["target"].to_numpy() == 1
    for group, names in groups.items():
        known = sorted(set(names) - {""})
        for name in known if len(known) > 1 else ():
            sides = names.eq(name).to_numpy(), ~names.isin([name, ""]).to_numpy()
            if min(len(set(patients[x & of])) for x in sides for of in (ill, ~ill)) < FEW:
                left_out.append(f"{group} {name}")
            else:
                enough[f"{group} {name}"] = sides
    score, weights = films["probability"].to_numpy(), resample_patients(patients, RESAMPLES, 0)
    called = score >= threshold
    measures: dict[str, Callable] = {
        "AUC": lambda x: auc(ill[x].astype(int), score[x], weights[:, x]),
        "sensitivity": lambda x: share(called & ill & x, ill & x, patients, weights),
        "specificity": lambda x: share(~called & ~ill & x, ~ill & x, patients, weights),
    }
    tail = 2.5 / max(1, len(enough) * len(measures))  # per cent, on either side
    for group, sides in enough.items():
        for measure, value in measures.items():
            here, there = map(value, sides)
            low, high = np.nanpercentile((here - there)[1:], [tail, 100 - tail])
            rows[f"{group}: {measure}"] = [here[0], there[0], here[0] - there[0], low, high]
    columns = ["here", "others", "difference", "low", "high"]
    return pd.DataFrame(rows, columns, dtype=float).T, left_out
