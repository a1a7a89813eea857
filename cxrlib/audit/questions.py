"""The questions of an audit, each with a table, a figure and a verdict, of any model's predictions.

Nothing here loads TensorFlow: tables from any framework are audited in seconds.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from cxrlib.audit.copies import find_near_copies, match_films
from cxrlib.audit.groups import compare_groups, groups_of
from cxrlib.audit.metadata import predict_from_columns, tabulate_metadata
from cxrlib.audit.mislabels import rank_labels
from cxrlib.audit.plots import plot_intervals
from cxrlib.data.study import Study
from cxrlib.data.table import name_view
from cxrlib.metrics.bootstrap import FEW
from cxrlib.metrics.report import evaluate, format_interval, tabulate_metrics, tabulate_net_benefit
from cxrlib.model.folds import TrainError
from cxrlib.plots import curves

SHOWN, NOT_SHOWN, UNTOLD = "shown", "not shown", "cannot be told from these films"
MARGIN = 0.1  # of AUC or a rate, within which groups count as served alike
NEAR_ONE = (0.8, 1.25)  # of slope and of observed to expected, within which they count as 1
DOUBTFUL = 0.1  # of the probability of its label, from which down a film is listed
THESE = "these radiographs"


class Answer(NamedTuple):
    """A claim about a model, what these films say of it, and what is shown for it."""

    claim: str
    verdict: str
    reason: str
    table: pd.DataFrame = pd.DataFrame()
    draw: Callable[[], Figure] | None = None


def ask_all(
    films: pd.DataFrame, everything: pd.DataFrame, threshold: float, study: Study | None
) -> list[Answer]:
    """Return an answer per claim.

    `everything` is what `read_predictions` gives and `films` the `audited_rows` of it; films at or
    above `threshold` are called positive.
    """
    few = min(films.groupby("target")["patient"].nunique())
    metrics = evaluate(films.assign(view=films["view"].map(name_view)), threshold)
    answers = {
        "Scores rank films with the finding higher.": _ranks(films, metrics, threshold, few),
        "A probability means what it says.": _is_calibrated(films, metrics, few),
        "Deciding by the scores helps.": _helps(films, metrics, few),
        "All groups are served alike.": _serves_alike(films, threshold),
        "The scores know more than the metadata.": _beats_metadata(films, few),
        "Patients and copies stay on one side.": _keeps_apart(everything, study),
        "The labels are right.": _labels_are_right(films),
    }
    return [Answer(claim, *answer) for claim, answer in answers.items()]


# Each question returns what its `Answer` says behind the claim.
def _ranks(films: pd.DataFrame, metrics: dict, threshold: float, few: int) -> tuple:
    def draw() -> Figure:
        figure, axes = plt.subplots(1, 3, figsize=(12.6, 4), layout="constrained")
        curves.plot_roc({THESE: films}, {THESE: metrics}, threshold, axes[0])
        curves.plot_precision_recall({THESE: films}, {THESE: metrics}, axes[1])
        curves.plot_scores(films, threshold, axes[2])
        return figure

    area = metrics["auc"]
    return (
        _decide(few, area["low"] > 0.5),
        f"The AUC is {format_interval(area)}, and 0.50 is chance. The class with fewer patients "
        f"has {few}.",
        tabulate_metrics({THESE: metrics}),
        draw,
    )


def _is_calibrated(films: pd.DataFrame, metrics: dict, few: int) -> tuple:
    ratios = [metrics["calibration_slope"], metrics["observed_to_expected"]]
    known = [ratio for ratio in ratios if ratio["value"] is not None]
    low, high = NEAR_ONE
    near = all(low <= ratio["low"] and ratio["high"] <= high for ratio in known)
    apart = any(not ratio["low"] <= 1 <= ratio["high"] for ratio in known)
    verdict = NOT_SHOWN if apart else SHOWN if near and known == ratios else UNTOLD
    slope, ratio = map(format_interval, ratios)
    rows = {"slope": slope, "observed to expected": ratio}
    rows["intercept"] = format_interval(metrics["calibration_intercept"])
    rows |= {name: f"{value:.3g}" for name, value in metrics["calibration"].items()}
    return (
        UNTOLD if few < FEW else verdict,
        f"The calibration slope is {slope} and observed to expected is {ratio}. Both are 1 where "
        f"probabilities are right; {low:g} to {high:g} counts as right.",
        pd.DataFrame({THESE: rows}),
        lambda: curves.plot_reliability({THESE: films}).figure,
    )


def _helps(films: pd.DataFrame, metrics: dict, few: int) -> tuple:
    curve = tabulate_net_benefit(films)
    # Of so many thresholds, some would seem to help by chance.
    better = curve[(curve["gain_low"] > 0) & (metrics["auc"]["low"] > 0.5)]["threshold"]
    reason = "is not shown to beat treating everyone and no one at any threshold."
    if len(better):
        reason = f"beats treating everyone and no one at {len(better)} of {len(curve)} thresholds, "
        reason += f"from {better.min():.2f} to {better.max():.2f}."
    tenths = curve[(curve["threshold"] * 100).round() % 10 == 0].set_index("threshold")
    return (
        _decide(few, len(better) > 0),
        f"At the prevalence of these films ({films['target'].mean():.2f}), deciding by the scores "
        + reason,
        tenths[["model", "treat_all", "gain", "gain_low", "gain_high"]].round(3),
        lambda: curves.plot_net_benefit(curve).figure,
    )


def _serves_alike(films: pd.DataFrame, threshold: float) -> tuple:
    table, left_out = compare_groups(films, threshold)
    apart = table.index[(table["low"] > 0) | (table["high"] < 0)]
    within = table["low"].gt(-MARGIN).all() and table["high"].lt(MARGIN).all()
    reason = (
        f"{len(table)} differences between a group and all others were measured, with intervals "
        "that hold together in 95 % of samples. "
        + (f"{len(apart)} differ: {'; '.join(apart)}. " if len(apart) else "")
        + f"Intervals of all groups within {MARGIN:g} of 0 would show it."
    )
    if table.empty:
        reason = "No group was measured: groups are columns of two to ten values, and ages."
    if left_out:
        few = f"with fewer than {FEW} patients of a class, in the group or outside"
        reason += f" Left out, {few}: {', '.join(left_out)}."
    shown = within and len(table) and not left_out
    return (
        NOT_SHOWN if len(apart) else SHOWN if shown else UNTOLD,
        reason,
        table.round(3),
        lambda: plot_intervals(table, "difference", "this group less all others", 0).figure,
    )


def _beats_metadata(films: pd.DataFrame, few: int) -> tuple:
    groups = {name: x.astype("category").cat.codes for name, x in groups_of(films).items()}
    number = pd.to_numeric(films["patient"], errors="coerce")
    known = pd.DataFrame({**groups, "age": films["age"], "patient number": number})
    try:
        scores = predict_from_columns(known, films)
    except TrainError as error:
        return UNTOLD, str(error)
    if scores.empty:
        return UNTOLD, "The table has no metadata that varies."
    table = tabulate_metadata(films, scores)
    rival = table.drop(index="image")["auc"].idxmax()
    best = table.loc[rival]
    less = format_interval(dict(zip(("value", "low", "high"), best[3:], strict=True)))
    return (
        _decide(few, best["less_low"] > 0),
        f"The best that metadata can do alone is '{rival}', with an AUC of {best['auc']:.2f}, on "
        f"folds of patients. The model's AUC is higher by {less}.",
        table.round(2),
        lambda: plot_intervals(table).figure,
    )


def _keeps_apart(everything: pd.DataFrame, study: Study | None) -> tuple:
    side = everything["split"].str.cat(everything["fold"], " ").str.strip()
    if side.nunique() < 2:
        return UNTOLD, "The table names neither two sides of a split nor two folds."
    people, found, whole = [everything["patient"]], [], False
    said = f"{side.nunique()} sides ({', '.join(sorted(set(side))[:10])})."
    if study is None:
        said += " Without --study, copies are not found."
    else:
        film = match_films(everything["id"], study)
        people.append(film.map(study.films["patient"]))
        pairs, unread = find_near_copies(film.dropna().map(study.films["path"]), people[0])
        pairs = [pair for pair in pairs if side[[*pair]].nunique() == 2]
        found = [(*everything["id"][[*p]], "two patients, one picture") for p in pairs]
        compared, whole = film.count() - unread, film.notna().all() and not unread
        said += f" {compared} of {len(everything)} rows were compared as films of the study "
        said += f"{study.folder.resolve().name}; {len(found)} pairs of films of two patients, "
        said += "on two sides, are near copies."
    # By the table's patients or the study's: either may be a guess, one per film.
    crossing = max((p[side.groupby(p).transform("nunique") > 1] for p in people), key=len)
    said += f" {len(crossing)} films are of {crossing.nunique()} patients who stand on two sides."
    verdict = NOT_SHOWN if found or len(crossing) else SHOWN if whole else UNTOLD
    for name in sorted(set(crossing))[:20]:
        films = everything.loc[crossing.index[crossing == name], "id"].groupby(side).first()
        found.append((films.iloc[0], films.iloc[-1], f"patient {name} on two sides"))
    return verdict, said, pd.DataFrame(found[:20], columns=["film", "other film", "what"])


def _labels_are_right(films: pd.DataFrame) -> tuple:
    ranked = rank_labels(films)
    doubtful = (ranked["self_confidence"] < DOUBTFUL).sum()
    shown = ranked.head(10)[["id", "target", "probability", "self_confidence"]]
    return (
        UNTOLD,
        f"The model gives {doubtful} films their label with a probability below {DOUBTFUL:g}, were "
        "both labels equally common. A wrong label and a hard film look alike here: look at them.",
        shown.set_index("id").round(3),
    )


def _decide(few: int, shown: bool) -> str:
    return UNTOLD if few < FEW else SHOWN if shown else NOT_SHOWN
