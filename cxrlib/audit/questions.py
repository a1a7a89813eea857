"""The questions of an audit, each with a table, a figure and a verdict, of any model's predictions.

Nothing here loads TensorFlow: tables from any framework are audited in seconds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from cxrlib.audit.copies import find_near_copies, match_films
from cxrlib.audit.groups import compare_groups, groups_of
from cxrlib.audit.metadata import predict_from_columns, tabulate_metadata
from cxrlib.audit.mislabels import rank_labels
from cxrlib.audit.plots import plot_intervals
from cxrlib.data.dicom import name_view
from cxrlib.data.study import Study
from cxrlib.metrics.benefit import tabulate_net_benefit
from cxrlib.metrics.bootstrap import FEW, RESAMPLES, resample_patients
from cxrlib.metrics.report import evaluate, format_interval, tabulate_metrics
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
    metrics = evaluate(films.assign(view=films["view"].map(name_view)), threshold, seed)
    yield _ranks(films, metrics, threshold, few)
    yield _is_calibrated(films, metrics, few)
    yield _helps(films, metrics, seed, few)
    yield _serves_alike(films, threshold, weights)
    yield _beats_metadata(films, seed, few)
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


def _is_calibrated(films: pd.DataFrame, metrics: dict, few: int) -> Answer:
    ratios = [metrics[name] for name in ("calibration_slope", "observed_to_expected")]
    low, high = NEAR_ONE
    known = [ratio for ratio in ratios if ratio["value"] is not None]
    within = all(low <= ratio["low"] and ratio["high"] <= high for ratio in known)
    verdict = SHOWN if within and known == ratios else UNTOLD
    if any(not ratio["low"] <= 1 <= ratio["high"] for ratio in known):
        verdict = NOT_SHOWN
    slope, ratio = map(format_interval, ratios)
    rows = {"slope": slope, "observed to expected": ratio}
    rows["intercept"] = format_interval(metrics["calibration_intercept"])
    rows |= {name: f"{value:.3g}" for name, value in metrics["calibration"].items()}
    return Answer(
        "A probability means what it says.",
        UNTOLD if few < FEW else verdict,
        f"The calibration slope is {slope} and observed to expected is {ratio}. Both are 1 where "
        f"probabilities are right; {low:g} to {high:g} counts as right.",
        pd.DataFrame({THESE: rows}),
        lambda: plot_reliability({THESE: films}).figure,
    )


def _helps(films: pd.DataFrame, metrics: dict, seed: int, few: int) -> Answer:
    curve = tabulate_net_benefit(films, seed=seed)
    # Of so many thresholds, some would seem to help by chance.
    better = curve[(curve["gain_low"] > 0) & (metrics["auc"]["low"] > 0.5)]["threshold"]
    where = f"At the prevalence of these films ({films['target'].mean():.2f}), deciding by the "
    if len(better):
        reason = f"scores beats treating everyone and no one at {len(better)} of {len(curve)} "
        reason += f"thresholds, from {better.min():.2f} to {better.max():.2f}."
    else:
        reason = "scores is not shown to beat treating everyone and no one at any threshold."
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
        + (f"{len(apart)} differ: {'; '.join(apart.index)}. " if len(apart) else "")
        + f"Intervals of all groups within {MARGIN:g} of 0 would show it."
    )
    if table.empty:
        reason = "No group was measured: groups are columns of two to ten values, and ages."
    if left_out:
        few = f"with fewer than {FEW} patients of a class, in the group or outside"
        reason += f" Left out, {few}: {', '.join(left_out)}."
    return Answer(
        "All groups are served alike.",
        NOT_SHOWN if len(apart) else SHOWN if within and len(table) and not left_out else UNTOLD,
        reason,
        table.round(3),
        (lambda: plot_intervals(table, "difference", "this group less all others", 0).figure)
        if len(table)
        else None,
    )


def _beats_metadata(films: pd.DataFrame, seed: int, few: int) -> Answer:
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
        UNTOLD if few < FEW else SHOWN if best["less_low"] > 0 else NOT_SHOWN,
        f"The best that metadata can do alone is '{rival}', with an AUC of {best['auc']:.2f}, on "
        f"folds of patients. The model's AUC is higher by {less}.",
        table.round(2),
        lambda: plot_intervals(table).figure,
    )


def _keeps_apart(everything: pd.DataFrame, study: Study | None) -> Answer:
    claim = "Patients and copies stay on one side."
    side = everything["split"].str.cat(everything["fold"], " ").str.strip()
    if side.nunique() < 2:
        said = "The table names neither two sides of a split nor two folds."
        return Answer(claim, UNTOLD, said, pd.DataFrame())
    people, found, whole = [everything["patient"]], [], False
    said = f"{side.nunique()} sides ({', '.join(sorted(set(side))[:10])})."
    if study is not None:
        film = match_films(everything["id"], study)
        people.append(film.map(study.films["patient"]))
        pairs, unread = find_near_copies(film.dropna().map(study.films["path"]), people[0])
        found = [
            (*everything.loc[[*pair], "id"], "two patients, one picture")
            for pair in pairs
            if side[pair[0]] != side[pair[1]]
        ]
        compared, whole = film.count() - unread, film.notna().all() and not unread
        said += f" {compared} of {len(everything)} rows were compared as films of the study "
        said += f"{study.folder.resolve().name}; {len(found)} pairs of films of two patients, "
        said += "on two sides, are near copies."
    else:
        said += " Without --study, copies are not found."
    # By the table's patients or the study's: either may be a guess, one per film.
    crossing = max((p[side.groupby(p).transform("nunique") > 1] for p in people), key=len)
    said += f" {len(crossing)} films are of {crossing.nunique()} patients who stand on two sides."
    verdict = NOT_SHOWN if found or len(crossing) else SHOWN if whole else UNTOLD
    for name in sorted(set(crossing))[:20]:
        films = everything.loc[crossing.index[crossing == name], "id"].groupby(side).first()
        found.append((films.iloc[0], films.iloc[-1], f"patient {name} on two sides"))
    columns = ["film", "other film", "what"]
    return Answer(claim, verdict, said, pd.DataFrame(found[:20], columns=columns))


def _labels_are_right(films: pd.DataFrame) -> Answer:
    ranked = rank_labels(films)
    doubtful = (ranked["self_confidence"] < DOUBTFUL).sum()
    shown = ranked.head(10)[["id", "target", "probability", "self_confidence"]]
    return Answer(
        "The labels are right.",
        UNTOLD,
        f"The model gives {doubtful} films their label with a probability below {DOUBTFUL:g}, were "
        "both labels equally common. A wrong label and a hard film look alike here: look at them.",
        shown.set_index("id").round(3),
    )
