"""Runs against each other: held-out scores of the same training patients, and what a film costs."""

from collections.abc import Sequence
from functools import reduce
from timeit import repeat

import numpy as np
import pandas as pd

from cxrlib.metrics.bootstrap import compare_auc, with_ends
from cxrlib.model.facts import RunError
from cxrlib.model.run import Run

TIMED = 5  # films


def compare_runs(runs: Sequence[Run], seed: int = 0) -> pd.DataFrame:
    """Compare runs of one question by held-out scores of the training patients whom all share.

    The test patients are not read, so the choice among runs does not flatter the one that is kept.
    Differences are paired: both runs score the same films, in the same resamples of patients.

    Parameters
    ----------
    runs : two or more of the same study and finding; the first is what others are compared with
    seed : of the resamples

    Returns
    -------
    DataFrame, one row per run
        run (name of its folder), films (scored by all runs). auc, auc_low, auc_high (0..1); gain,
        gain_low, gain_high (AUC less that of the first run). Intervals are 95 %, over patients.
        seconds (median per film on this machine, without reading; of the head alone for
        embeddings).

    Raises
    ------
    RunError
        Fewer than two runs, of several findings, or with labels, patients or films that disagree.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> run = cxr.load_run("medical/models/cardiomegaly")
    >>> cxr.compare_runs([run, run])[["films", "gain", "gain_low"]].to_numpy().tolist()
    [[171.0, 0.0, 0.0], [171.0, 0.0, 0.0]]
    """
    names = [run.folder.name for run in runs]
    questions = {(run.finding, run.facts["negative"]) for run in runs}
    if len(runs) < 2 or len(questions) > 1:
        asked = ", ".join(f"'{finding}' against '{other}'" for finding, other in sorted(questions))
        raise RunError(f"{len(runs)} runs of {asked or 'no question'}: give two or more of one.")
    each = [run.split("train").set_index("path") for run in runs]
    shared = reduce(pd.Index.intersection, [scores.index for scores in each]).sort_values()
    rows = [scores.loc[shared] for scores in each]
    for name, scores in zip(names, rows, strict=True):
        for column in ("target", "patient"):
            if (differs := scores[column].ne(rows[0][column])).any():
                raise RunError(
                    f"{names[0]} and {name} disagree on the {column} of {differs.idxmax()}: they "
                    "are of different studies. Train both on one."
                )
    target, patients = rows[0]["target"], rows[0]["patient"]
    if min(patients[target == side].nunique() for side in (0, 1)) < 2:
        raise RunError(
            f"{', '.join(names)} share held-out scores of {len(shared)} films, too few to compare. "
            "Train them on one study with one seed."
        )
    table = []
    for run, name, scores in zip(runs, names, rows, strict=True):
        pair = (scores["probability"], rows[0]["probability"])
        measured = compare_auc(target, *pair, patients, seed)
        row: dict = {"run": name, "films": len(shared)}
        row |= with_ends("auc", measured["first"]) | with_ends("gain", measured["difference"])
        table.append(row | {"seconds": _time(run)})
    return pd.DataFrame(table)


def _time(run: Run) -> float:
    """Return the median seconds that a film takes, once the model is warm."""
    film = np.zeros((1, *run.model.input_shape[1:]), np.float32)
    took = repeat(lambda: run.predict(film), number=1, repeat=1 + TIMED)
    return float(np.median(took[1:]))
