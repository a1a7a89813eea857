"""The questions of an audit, each with a table, a figure and a verdict, of any model's predictions.

Nothing here loads TensorFlow: tables from any framework are audited in seconds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from cxrlib.audit.copies import find_near_copies
from cxrlib.audit.groups import compare_groups, groups_of
from cxrlib.audit.metadata import predict_from_columns, tabulate_metadata
from cxrlib.audit.mislabels import rank_labels
from cxrlib.audit.plots import plot_intervals
from cxrlib.data.study import Study
from cxrlib.metrics.bootstrap import FEW, RESAMPLES, resample_patients
from cxrlib.metrics.calibration import measure_calibration
from cxrlib.metrics.report import evaluate, format_interval, tabulate_metrics
from cxrlib.metrics.thresholds import tabulate_net_benefit
from cxrlib.model.folds import TrainError, patient_folds
from cxrlib.plots.curves import (
    plot_net_benefit,
    plot_precision_recall,
    plot_reliability,
    plot_roc,
    plot_scores,
)

SHOWN, NOT_SHOWN, UNTOLD = "shown", "not shown", "cannot be told from these films"
MARGIN = 0.1  # of AUC or a rate, within which groups count as served alike
NEAR_ONE = (0.8, 1.25)  # of slope and of observed to expected, within which they count as 1
DOUBTFUL = 0.1  # of the probability of its label, from which down a film is listed
THESE = "these radiographs"


@dataclass(frozen=True)
class Answer:
    """A claim about a model, what these films say of it, and what is shown for it."""

    claim: str
    verdict: str
    reason: str
    table: pd.DataFrame
    draw: Callable[[], Figure] | None = None


def ask_all(
    films: pd.DataFrame, everything: pd.DataFrame, threshold: float, study: Study | None, seed: int
) -> Iterator[Answer]:
    """Yield an answer per question.

    `everything` is what `read_predictions` gives and `films` the `audited_rows` of it; films at or
    above `threshold` are called positive.
    """
    weights = resample_patients(films["patient"], RESAMPLES, seed)
    few = min(films.groupby("target")["patient"].nunique())
    metrics = evaluate(films, threshold, seed)
    yield _ranks(films, metrics, threshold, few)
    yield _is_calibrated(films, metrics, weights, few)
    yield _helps(films, seed, few)
    yield _serves_alike(films, threshold, weights)
    yield _beats_metadata(films, seed)
    yield _keeps_apart(everything, study)
    yield _labels_are_right(films)


def _ranks(films: pd.DataFrame, metrics: dict, threshold: float, few: int) -> Answer:
    def draw() -> Figure:
        figure, axes = plt.subplots(1, 3, figsize=(12.6, 4), layout="constrained")
        plot_roc({THESE: films}, {THESE: metrics}, threshold, axes[0])
        plot_precision_recall({THESE: films}, {THESE: metrics}, axes[1])
        plot_scores(films, threshold, axes[2])
        return figure

    area = metrics["auc"]
    return Answer(
        "Scores rank films with the finding higher.",
        UNTOLD if few < FEW else SHOWN if area["low"] > 0.5 else NOT_SHOWN,
        f"The AUC is {format_interval(area)}, and 0.50 is chance. The class with fewer patients "
        f"has {few}.",
        tabulate_metrics({THESE: metrics}),
        draw,
    )


def _is_calibrated(films: pd.DataFrame, metrics: dict, weights: np.ndarray, few: int) -> Answer:
    target, probability = (films[name].to_numpy() for name in ("target", "probability"))
    fit = measure_calibration(target, probability, weights)
    ratios = [fit[name] for name in ("slope", "observed_to_expected")]
    low, high = NEAR_ONE
    if few < FEW or any(ratio["value"] is None for ratio in ratios):
        verdict = UNTOLD
    elif any(not ratio["low"] <= 1 <= ratio["high"] for ratio in ratios):
        verdict = NOT_SHOWN
    else:
        within = all(low <= ratio["low"] and ratio["high"] <= high for ratio in ratios)
        verdict = SHOWN if within else UNTOLD
    rows = {name: format_interval(value) for name, value in fit.items()}
    rows |= {name: f"{value:.3g}" for name, value in metrics["calibration"].items()}
    return Answer(
        "A probability means what it says.",
        verdict,
        f"The calibration slope is {rows['slope']} and observed to expected is "
        f"{rows['observed_to_expected']}. Both are 1 where probabilities are right; {low:g} to "
        f"{high:g} counts as right.",
        pd.DataFrame({THESE: rows}),
        lambda: plot_reliability({THESE: films}).figure,
    )


def _helps(films: pd.DataFrame, seed: int, few: int) -> Answer:
    curve = tabulate_net_benefit(films, seed=seed)
    better = curve[curve["gain_low"] > 0]["threshold"]
    where = f"At the prevalence of these films ({films['target'].mean():.2f}), deciding by the "
    if len(better):
        reason = f"scores beats treating everyone and no one at {len(better)} of {len(curve)} "
        reason += f"thresholds, from {better.min():.2f} to {better.max():.2f}."
    else:
        reason = "scores does not beat treating everyone or no one at any threshold."
    shown = curve[(curve["threshold"] * 100).round() % 10 == 0].set_index("threshold")
    return Answer(
        "Deciding by the scores helps.",
        UNTOLD if few < FEW else SHOWN if len(better) else NOT_SHOWN,
        where + reason,
        shown[["model", "treat_all", "gain", "gain_low", "gain_high"]].round(3),
        lambda: plot_net_benefit(curve).figure,
    )


def _serves_alike(films: pd.DataFrame, threshold: float, weights: np.ndarray) -> Answer:
    table, left_out = compare_groups(films, threshold, weights)
    apart = table[(table["low"] > 0) | (table["high"] < 0)]
    within = table["low"].gt(-MARGIN).all() and table["high"].lt(MARGIN).all()
    reason = (
        f"{len(table)} differences between a group and all others were measured, with intervals "
        "that hold together in 95 % of samples. "
        + (f"{len(apart)} differ: {'; '.join(apart.index)}. " if len(apart) else "None differs. ")
        + f"All within {MARGIN:g} would show it."
    )
    if left_out:
        reason += f" Left out, for fewer than {FEW} patients of a class: {', '.join(left_out)}."
    elif table.empty:
        reason = "The table tells no groups: no column has two to ten values."
    return Answer(
        "All groups are served alike.",
        UNTOLD if table.empty else NOT_SHOWN if len(apart) else SHOWN if within else UNTOLD,
        reason,
        table.round(3),
        (lambda: plot_intervals(table, "difference", "this group less all others", 0).figure)
        if len(table)
        else None,
    )


def _beats_metadata(films: pd.DataFrame, seed: int) -> Answer:
    claim = "The scores know more than the metadata."
    columns = {name: x.astype("category").cat.codes for name, x in groups_of(films).items()}
    columns["age"] = films["age"]
    columns["patient number"] = pd.to_numeric(films["patient"], errors="coerce")
    columns = {name: x.astype(float) for name, x in columns.items() if len(x.unique()) > 1}
    if not columns:
        return Answer(claim, UNTOLD, "The table has no metadata that varies.", pd.DataFrame())
    try:
        fold = patient_folds(films, seed)
    except TrainError as error:
        return Answer(claim, UNTOLD, str(error), pd.DataFrame())
    predictors = {name: pd.DataFrame({name: x}) for name, x in columns.items()}
    if len(predictors) > 1:
        predictors["all of these"] = pd.DataFrame(columns)
    scores = predict_from_columns(predictors, films["target"], fold, seed)
    table = tabulate_metadata(films, scores, films["probability"].to_numpy(), seed)
    rival = table.drop(index="image")["auc"].idxmax()
    best = table.loc[rival]
    less = format_interval(dict(zip(("value", "low", "high"), best[3:], strict=True)))
    return Answer(
        claim,
        SHOWN if best["less_low"] > 0 else NOT_SHOWN,
        f"The best that metadata can do alone is '{rival}', with an AUC of {best['auc']:.2f}, on "
        f"folds of patients. The model's AUC is higher by {less}.",
        table.round(2),
        lambda: plot_intervals(table).figure,
    )


def _keeps_apart(everything: pd.DataFrame, study: Study | None) -> Answer:
    claim = "Patients and copies stay on one side."
    side = everything["fold"].where(everything["fold"] != "", everything["split"])
    if side.nunique() < 2:
        said = "The table has neither a split nor folds, so no side is known."
        return Answer(claim, UNTOLD, said, pd.DataFrame())
    patient, found = everything["patient"], []
    said = f"{side.nunique()} sides, {patient.nunique()} patients."
    if study is not None:
        known = study.films.set_index(study.films["filename"].map(_stem))
        place = everything["id"].map(_stem)
        there = place.isin(known.index)
        name = study.folder.resolve().name
        said += f" {there.sum()} of {len(everything)} rows are films of the study {name}."
        patient = place.map(known["patient"]).fillna(patient)
        paths = place[there].map(known["path"])
        for one, other in find_near_copies(paths, patient[there]):
            if side[one] != side[other]:
                found.append((*everything.loc[[one, other], "id"], "two patients, one picture"))
    crossing = side.groupby(patient).transform("nunique") > 1
    for name in sorted(set(patient[crossing])):
        films = everything.loc[patient == name, "id"]
        found.append((films.iloc[0], films.iloc[-1], f"patient {name} on two sides"))
    return Answer(
        claim,
        NOT_SHOWN if found else SHOWN if study is not None else UNTOLD,
        f"{said} {crossing.sum()} films are of {patient[crossing].nunique()} patients who stand on "
        f"two sides. {len(found) - patient[crossing].nunique()} pairs of films of two patients are "
        f"near copies. " + ("" if study is not None else "Without --study, copies are not found."),
        pd.DataFrame(found[:20], columns=["film", "other film", "what"]),
    )


def _labels_are_right(films: pd.DataFrame) -> Answer:
    ranked = rank_labels(films)
    doubtful = (ranked["self_confidence"] < DOUBTFUL).sum()
    shown = ranked.head(10)[["id", "target", "probability", "self_confidence"]]
    return Answer(
        "The labels are right.",
        UNTOLD,
        f"Of {doubtful} films the model gives the label less than {DOUBTFUL:g}, at even odds of "
        "both labels. A wrong label and a hard film look alike here: look at the films.",
        shown.set_index("id").round(3),
    )


def _stem(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] or name
