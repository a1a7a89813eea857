"""What a run is worth at another place, against its own, and what recalibration there would buy.

`scores` are of `cxrlib.model.elsewhere.score_study`.
"""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pandas as pd

from cxrlib.audit.metadata import predict_from_metadata, tabulate_metadata
from cxrlib.audit.recalibrate import WAYS, Change, apply_change, fit_change, logits
from cxrlib.data.study import Study
from cxrlib.metrics.bootstrap import FEW, RESAMPLES, UNDEFINED, resample_patients
from cxrlib.metrics.calibration import fit_logistic
from cxrlib.metrics.report import evaluate, measure_decisions
from cxrlib.model.elsewhere import TRAINING
from cxrlib.model.facts import RunError
from cxrlib.model.run import Run

MEASURES = {
    "AUC": "auc",
    "AUC, films of one view": "auc_view_matched",
    "sensitivity": "sensitivity",
    "sensitivity, refused missed": "missed",
    "specificity": "specificity",
    "calibration slope": "calibration_slope",
    "calibration intercept": "calibration_intercept",
    "observed to expected": "observed_to_expected",
    "Brier score": "brier",
}
ENDS = ("", "_low", "_high")
JUDGED = ("gain", "slope", "intercept", "sensitivity", "specificity")


def subtract(here: dict, home: dict) -> dict:
    """Return the difference of two metrics of independent samples, with its 95 % interval.

    From both intervals, which may be lopsided: the method of variance estimates recovery (Newcombe,
    Statistics in Medicine 1998, of proportions; Zou and Donner, same journal 2008, of any).
    """
    if here["value"] is None or home["value"] is None:
        return dict(UNDEFINED)
    difference = here["value"] - home["value"]
    down = np.hypot(here["value"] - here["low"], home["high"] - home["value"])
    up = np.hypot(here["high"] - here["value"], home["value"] - home["low"])
    return {"value": difference, "low": difference - down, "high": difference + up}


def compare_with_home(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """Compare a run at another place with its own test patients.

    One row per measure: home and here, with 95 % intervals over patients in `..._low` and
    `..._high`, resampled apart in each place; difference (here less home), with low and high, see
    `subtract`. A calibration intercept of 0, and a slope and observed to expected of 1, are
    perfect. One row counts films that were refused, or cannot be read, as called negative.
    RunError where the run has no scored test patients, or films here are of one label.
    """
    home = run.split("test")
    if home.empty:
        raise RunError(f"{run.folder} has no scored test patients: call score_test first")
    seed, rows = run.facts["seed"], {}
    there, here = _measure(run, home.assign(status="ok"), seed), _measure(run, scores, seed + 1)
    for name, key in MEASURES.items():
        difference = subtract(here[key], there[key])
        rows[name] = [*there[key].values(), *here[key].values(), *difference.values()]
    columns = [f"{x}{end}" for x in ("home", "here") for end in ENDS]
    columns += ["difference", "low", "high"]
    return pd.DataFrame(rows, columns, dtype=float).T.rename_axis("measure").dropna(how="all")


def _measure(run: Run, scores: pd.DataFrame, seed: int) -> dict:
    asked = scores[scores["status"] != TRAINING].fillna({"probability": -1.0})
    weights = resample_patients(asked["patient"], RESAMPLES, seed)
    missed = measure_decisions(asked, run.threshold, weights)["sensitivity"]
    return evaluate(scored_films(scores), run.threshold, seed) | {"missed": missed}


def scored_films(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the films that have a score; RunError where they are of one label."""
    films = scores[scores["status"] == "ok"].reset_index(drop=True)
    if films["target"].nunique() < 2:
        counts = scores["status"].value_counts().to_dict()
        raise RunError(
            f"the films that have a score are all of one label, or there are none: {counts}"
        )
    return films


def compare_case_mix(run: Run, scores: pd.DataFrame, home: Study) -> pd.DataFrame:
    """Describe the films of the run's question at home, both sides, and of another place.

    One row per property and per finding, shares among films where it is known (NaN where it is
    nowhere). Films that were refused count; those that training has seen do not. `home` is the
    study that the run was trained on.
    """
    films = pd.concat([run.split(side, home) for side in ("train", "test")])
    sides = {"home": films, "here": scores[scores["status"] != TRAINING]}
    table = pd.DataFrame({name: _describe(part) for name, part in sides.items()})
    shares = {name: x["labels"].explode().value_counts() / len(x) for name, x in sides.items()}
    labelled = pd.DataFrame(shares).fillna(0.0).add_prefix("share labelled ", axis=0)
    return pd.concat([table, labelled])


def _describe(films: pd.DataFrame) -> dict[str, float]:
    view, sex = (films[name].replace("", np.nan).dropna() for name in ("view", "sex"))
    refused = films["status"].ne("ok").mean() if "status" in films else np.nan
    return {
        "films": len(films),
        "patients": films["patient"].nunique(),
        "share with the finding": films["target"].mean(),
        "share of AP": view.eq("AP").mean(),
        "share of women": sex.eq("F").mean(),
        "mean age": films["age"].mean(),
        "standard deviation of age": films["age"].std(),
        "share refused or unreadable": refused,
    }


def measure_shortcuts(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return `tabulate_metadata` of the other place: what a shortcut would be worth there.

    The metadata models are trained on folds of its patients; TrainError with fewer than five of a
    class.
    """
    films = scored_films(scores).assign(split="train")
    return tabulate_metadata(films, predict_from_metadata(films, seed), seed)


def measure_recalibration(
    run: Run,
    scores: pd.DataFrame,
    sizes: Sequence[int] = (20, 50, 100),
    repeats: int = 200,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[int]]:
    """Measure what recalibration on so many local patients buys, on all the others.

    Patients are drawn anew in each repeat. Where those drawn do not allow a way (see `fit_change`),
    the next simpler one is taken: the intercept alone for a slope, else nothing.

    Returns the sizes that leave fewer than ten patients to measure on, behind a table with one row
    per size and way: gain (in log loss, nats per film) with low and high; slope and intercept (of
    the calibration afterwards), sensitivity and specificity, each with `..._low` and `..._high`:
    medians, 2.5th and 97.5th percentiles over the repeats; fell_back, the share of repeats that
    took a simpler way. The first row is the run as it is, on all films. Repeats share films, so
    percentiles show the luck of drawing, and not all that is uncertain.
    """
    films, rng = scored_films(scores), np.random.default_rng(seed)
    names, nothing = films["patient"].unique(), Change(1, 0, run.threshold)
    judged = [_judge(films, nothing) | {"patients": 0, "how": "nothing", "fell_back": 0.0}]
    for size in (n for n in sizes if n <= len(names) - FEW):
        for _ in range(repeats):
            drawn = films["patient"].isin(rng.choice(names, size, replace=False))
            for how in WAYS if films.loc[~drawn, "target"].nunique() == 2 else ():
                change, fell_back = nothing, True
                for way in (how, "intercept") if "slope" in how else (how,):
                    with suppress(RunError):
                        change, fell_back = fit_change(run, films[drawn], way), way != how
                        break
                row = {"patients": size, "how": how, "fell_back": float(fell_back)}
                judged.append(row | _judge(films[~drawn], change))
    by = pd.DataFrame(judged).groupby(["patients", "how"], sort=False)
    low, high = by.quantile(0.025).add_suffix("_low"), by.quantile(0.975).add_suffix("_high")
    table = by.median().join(low).join(high).assign(fell_back=by["fell_back"].mean())
    columns = [f"{x}{end}" for x in JUDGED for end in ENDS]
    table = table[[*columns, "fell_back"]].rename(columns={"gain_low": "low", "gain_high": "high"})
    return table, [n for n in sizes if n > len(names) - FEW]


def _judge(films: pd.DataFrame, change: Change) -> dict[str, float]:
    """Measure films that a change has not seen."""
    after, target = apply_change(films, change), films["target"].to_numpy()
    called, sign = after["decision"].to_numpy() == "positive", 1 - 2 * target
    slope, _, intercept = fit_logistic(logits(after), target, np.ones((1, len(after))))
    gain = np.logaddexp(0, sign * logits(films)) - np.logaddexp(0, sign * logits(after))
    rates = called[target == 1].mean(), (~called)[target == 0].mean()
    return dict(zip(JUDGED, (gain.mean(), slope[0], intercept[0], *rates), strict=True))
