"""Fit a run to another place by one or two numbers, and write it as a run of its own."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from cxrlib.data.files import file_digest, whole_folder
from cxrlib.metrics.calibration import fit_logistic
from cxrlib.metrics.report import evaluate
from cxrlib.metrics.thresholds import choose_threshold
from cxrlib.model._keras import keras
from cxrlib.model.facts import MODELS, RunError, is_fast
from cxrlib.model.fast import PARTS
from cxrlib.model.head import scale_logit
from cxrlib.model.run import (
    DIGITS,
    IDENTITY,
    KNOWN_WEIGHTS,
    UNSCORED,
    Run,
    decide,
    load_run,
    write_facts,
)
from cxrlib.model.save import keep_foreign

WAYS = ("intercept", "intercept and slope", "threshold")


class Change(NamedTuple):
    """What recalibration changes: slope and intercept of the logits, and the threshold."""

    slope: float
    intercept: float
    threshold: float


def logits(films: pd.DataFrame) -> np.ndarray:
    """Return the logit of each probability, held within 0.000001 and 0.999999."""
    return logit(films["probability"].clip(1e-6, 1 - 1e-6).to_numpy())


def apply_change(films: pd.DataFrame, change: Change) -> pd.DataFrame:
    """Return films with probability and decision as they are after a change."""
    changed = expit(change.slope * logits(films) + change.intercept).round(DIGITS)
    return films.assign(probability=changed, decision=decide(changed, change.threshold))


def fit_change(run: Run, films: pd.DataFrame, how: str) -> Change:
    """Fit one of `WAYS` to films with target and probability.

    'intercept' moves all logits alike, 'intercept and slope' stretches them too, both by maximum
    likelihood (Steyerberg et al., Statistics in Medicine 2004; Janssen et al., J Clin Epidemiol
    2008). 'threshold' applies the run's own rule of `choose_threshold` to these films. RunError
    where films are of one label, or have no slope above 0.
    """
    if how not in WAYS:
        raise RunError(f"how is '{how}': give '{WAYS[0]}', '{WAYS[1]}' or '{WAYS[2]}'")
    target, threshold = films["target"].to_numpy(), run.threshold
    if films["target"].nunique() < 2:
        raise RunError(
            f"the {len(films)} films to recalibrate on are all of one label: draw more patients, "
            "or others by another seed"
        )
    if how == "threshold":
        rule = run.facts["threshold"]["rule"]
        return Change(1, 0, choose_threshold(target, films["probability"].to_numpy(), rule))
    fitted = fit_logistic(logits(films), target, np.ones((1, len(films))))
    slope, intercept, alone = (float(values[0]) for values in fitted)
    if how == "intercept":
        return Change(1, alone, threshold)
    if not slope > 0:  # NaN is not
        raise RunError(
            f"the scores of {len(films)} films separate the labels, or rank them the wrong way "
            "round, so there is no slope: give how='intercept', or more patients"
        )
    return Change(slope, intercept, threshold)


def recalibrate(
    run: Run,
    scores: pd.DataFrame,
    folder: str | Path,
    how: str = "intercept",
    patients: int = 50,
    seed: int = 0,
) -> Run:
    """Recalibrate a run on some patients of another place, and write it as a run of its own.

    So many `patients` of `scores`, which `score_study` gave, are drawn at random; all others
    measure the run before and after. The new run is its parent with another last layer or
    threshold, less the parent's engine. It still names the study that its parent was trained on,
    and its metrics are of that study's held-out training films, as the new run scores them;
    `recalibrated` in `run.json` holds what concerns the new place. `score_study` leaves out the
    patients of both. RunError as `fit_change`, or where there are too few patients, or `folder`
    holds something that is no run.
    """
    folder, facts = Path(folder), run.facts
    keep_foreign(folder)
    if folder.resolve() == run.folder.resolve():
        raise RunError(f"{folder} is the run to recalibrate: give another folder")
    films = scores[scores["status"] == "ok"]
    names = np.unique(films["patient"])
    if not 0 < patients < len(names):
        raise RunError(
            f"patients is {patients}, and {len(names)} have a score: give fewer, so that others "
            "are left to measure"
        )
    drawn = films["patient"].isin(np.random.default_rng(seed).choice(names, patients, False))
    local, rest = films[drawn], films[~drawn]
    change = fit_change(run, local, how)
    measured = {
        "before": evaluate(rest, run.threshold, seed),
        "after": evaluate(apply_change(rest, change), change.threshold, seed),
    }
    home = apply_change(run.split("train"), change)
    place, old = str(local["study"].iloc[0]), facts["fit"]["calibration"]
    scaled = {"slope": change.slope * old["slope"]}
    scaled["intercept"] = change.slope * old["intercept"] + change.intercept
    by_threshold, weights = how == "threshold", facts["backbone"]["weights"]
    chosen = f"{patients} patients of {place}" if by_threshold else facts["threshold"]["chosen_on"]
    if weights not in KNOWN_WEIGHTS:
        weights = os.path.relpath(run.folder / weights, folder)
    new = facts | {
        "backbone": facts["backbone"] | {"weights": weights},
        "fit": facts["fit"] | {"calibration": old | scaled},
        "threshold": facts["threshold"] | {"value": change.threshold, "chosen_on": chosen},
        "prevalence": facts["prevalence"] if by_threshold else float(local["target"].mean()),
        "metrics": {"train": evaluate(home, change.threshold, facts["seed"])},
        "recalibrated": {
            "parent": run.folder.resolve().name,
            "parent_digest": file_digest(run.folder / "run.json"),
            "place": place,
            "how": how,
            "seed": seed,
            "patients": patients,
            "films": len(local),
            "positives": int(local["target"].sum()),
            **change._asdict(),
            "measured": measured,
        },
    }
    new.pop("engine", None)
    seen = pd.concat([local.assign(path=local["file"])[IDENTITY], run.unscored])
    with whole_folder(folder) as part:
        model = keras.models.load_model(run.folder / MODELS[run.facts["stage"]], safe_mode=True)
        scale_logit(model, change.slope, change.intercept)
        model.save(part / MODELS[run.facts["stage"]])
        for name in ("history.csv", *(PARTS if is_fast(facts) else ())):
            shutil.copy(run.folder / name, part)
        home.to_csv(part / "predictions.csv", index=False)
        seen.to_csv(part / UNSCORED, index=False)
        new["files"] = {path.name: file_digest(path) for path in sorted(part.iterdir())}
        write_facts(part, new)
    return load_run(folder)
