"""Figures of scores: ROC and other curves, histograms, calibration."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve, roc_curve

from cxrlib.metrics.calibration import tabulate_reliability
from cxrlib.metrics.report import SETS, format_interval
from cxrlib.plots.style import (
    EVEN,
    LINES,
    NEGATIVE,
    POSITIVE,
    WIDE,
    literal,
    new_axes,
    plain,
    styled,
)

SQUARE = {"xlim": (0, 1), "ylim": (0, 1), "aspect": "equal"}  # two shares


def plot_history(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the history of a fit.

    Of a linear head it is the AUC in each fold over the strength C of its features. Of a dense head
    it is the loss over the epochs, of fine-tuning the AUC of training and of validation.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> ax = cxr.plot_history(pd.read_csv("medical/models/cardiomegaly/history.csv"))
    >>> ax.get_ylabel()
    'AUC in held-out fold'
    """
    ax = ax or new_axes(WIDE)
    if "strength" in history:
        folds = history.pivot_table("auc", "strength", "fold")
        ax.plot(folds, color="0.7", lw=1, marker=".")
        ax.plot(folds.mean(axis=1), color=NEGATIVE, marker="o", label="mean of folds")
        return plain(
            ax, {}, xscale="log", xlabel="C (larger: weaker penalty)", ylabel="AUC in held-out fold"
        )
    names = {"loss": "training"}
    labels = {"xlabel": "epoch", "ylabel": "binary cross-entropy"}
    if "val_auc" in history:
        names = {"auc": "training, augmented", "val_auc": "validation"}
        labels = {"xlabel": "epoch (0: before fine-tuning)", "ylabel": "AUC"}
    for (colour, line), (column, name) in zip(LINES, names.items(), strict=False):
        ax.plot(history["epoch"], history[column], line, color=colour, marker="o", label=name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return plain(ax, {}, **labels)


def plot_roc(
    predictions: dict[str, pd.DataFrame],
    metrics: dict[str, dict],
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw ROC curves with AUC and its 95 % interval, and the operating point on each.

    `predictions` are, by name, DataFrames with target (0 or 1) and probability (0..1); `metrics`,
    by the same names, what `evaluate` measured at the `threshold`.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> test = scores[scores["split"] == "test"]
    >>> ax = cxr.plot_roc({"test": test}, {"test": cxr.evaluate(test, 0.527)}, 0.527)
    >>> ax.get_legend().get_texts()[0].get_text()
    'test: AUC 0.95 (0.88 to 0.99)'
    """
    ax = ax or new_axes(EVEN)
    for colour, line, name, films in styled(predictions):
        false_rate, true_rate = _curve(roc_curve, films)
        measured = metrics[name]
        label = literal(f"{SETS.get(name, name)}: AUC {format_interval(measured['auc'])}")
        style = {"color": colour, "label": label, "drawstyle": "steps-post", "clip_on": False}
        ax.plot(false_rate, true_rate, line, **style)
        rates = measured["specificity"]["value"], measured["sensitivity"]["value"]
        if threshold is not None and None not in rates:
            ax.plot(1 - rates[0], rates[1], "o", color=colour, clip_on=False)
    ax.plot([0, 1], [0, 1], color="0.6", lw=1, label="chance")
    ax.set(xlabel="1 - specificity", ylabel="sensitivity")
    return plain(ax, {"loc": "lower right"}, **SQUARE)


def plot_precision_recall(
    predictions: dict[str, pd.DataFrame], metrics: dict[str, dict], ax: Axes | None = None
) -> Axes:
    """Draw precision (PPV) over recall (sensitivity), with average precision; see `plot_roc`.

    The dotted line of each colour is the prevalence: the precision of a coin.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> test = scores[scores["split"] == "test"]
    >>> ax = cxr.plot_precision_recall({"test": test}, {"test": cxr.evaluate(test, 0.527)})
    """
    ax = ax or new_axes(EVEN)
    for colour, line, name, films in styled(predictions):
        precision, recall = _curve(precision_recall_curve, films)
        measured = metrics[name]
        average = format_interval(measured["average_precision"])
        label = literal(f"{SETS.get(name, name)}: average precision {average}")
        style = {"color": colour, "label": label, "drawstyle": "steps-post", "clip_on": False}
        ax.plot(recall, precision, line, **style)
        ax.axhline(measured["prevalence"], color=colour, lw=1, ls=(0, (1, 4)))
    ax.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)")
    return plain(ax, {"loc": "lower left"}, **SQUARE)


def plot_scores(predictions: pd.DataFrame, threshold: float, ax: Axes | None = None) -> Axes:
    """Draw the histogram of probabilities by label, in bins that end at the threshold.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> ax = cxr.plot_scores(scores[scores["split"] == "test"], threshold=0.527)
    """
    ax = ax or new_axes(WIDE)
    bins = np.unique(np.clip(threshold + np.arange(-20, 21) / 20, 0, 1)).tolist()
    for target, colour, hatch, name in (
        (0, NEGATIVE, "", "labelled negative"),
        (1, POSITIVE, "///", "labelled positive"),
    ):
        scores = predictions.loc[predictions["target"] == target, "probability"]
        ax.hist(scores, bins, color=colour, alpha=0.6, hatch=hatch, edgecolor="white", label=name)
    ax.axvline(threshold, color="black", ls="--", label=f"threshold {threshold:.2f}")
    return plain(ax, {}, xlabel="probability of the finding", ylabel="radiographs", xlim=(0, 1))


def plot_confusion(metrics: dict, finding: str, ax: Axes | None = None) -> Axes:
    """Draw films by label and decision, from the `confusion` that `evaluate` measured.

    >>> import cxrlib as cxr
    >>> measured = {"confusion": {"tn": 38, "fp": 3, "fn": 5, "tp": 19}}
    >>> ax = cxr.plot_confusion(measured, "Cardiomegaly")
    """
    ax = ax or new_axes(EVEN)
    table = np.array([metrics["confusion"][name] for name in ("tn", "fp", "fn", "tp")])
    display = ConfusionMatrixDisplay(
        table.reshape(2, 2), display_labels=["without", literal(finding)]
    )
    display.plot(ax=ax, cmap="Blues", colorbar=False, text_kw={"fontsize": 12})
    ax.set(xlabel="decision", ylabel="label")
    return ax


def plot_reliability(predictions: dict[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Draw observed shares over mean probabilities in bins of equal count, and their counts below.

    Bars are 95 % intervals over patients. `predictions` are, by name, DataFrames with target (0
    or 1), probability (0..1) and patient.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> ax = cxr.plot_reliability(dict(list(scores.groupby("split"))))
    """
    ax = ax or new_axes((4.8, 5.4))
    counts = ax.inset_axes((0, -0.42, 1, 0.22), sharex=ax)
    for marker, (colour, line, name, films) in zip("os^D", styled(predictions), strict=False):
        bins = tabulate_reliability(films)
        reach = [bins["share"] - bins["low"], bins["high"] - bins["share"]]
        style = {"color": colour, "linestyle": line, "marker": marker, "ms": 4, "clip_on": False}
        label = literal(SETS.get(name, name))
        ax.errorbar(
            bins["probability"], bins["share"], reach, label=label, lw=1, elinewidth=0.7, **style
        )
        counts.plot(bins["probability"], bins["films"], **style | {"linestyle": "none"})
    ax.plot([0, 1], [0, 1], color="0.6", lw=1, label="calibrated")
    most = max(np.max(line.get_ydata()) for line in counts.lines)
    plain(counts, ylabel="radiographs", ylim=(0, 1.2 * most))  # markers are drawn whole
    ax.set(xlabel="mean probability in a bin", ylabel="share with the label")
    return plain(ax, {"loc": "upper left", "frameon": False}, **SQUARE)


def plot_prevalences(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw PPV and NPV with their intervals over the prevalence; see `tabulate_prevalences`.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> ax = cxr.plot_prevalences(cxr.tabulate_prevalences(scores, threshold=0.527))
    """
    ax = ax or new_axes(WIDE)
    for (colour, line), name in zip(LINES, ("ppv", "npv"), strict=False):
        style: dict = {"color": colour, "label": name.upper(), "clip_on": False}
        ax.plot(table["prevalence"], table[name], line, **style)
        low, high = table[f"{name}_low"], table[f"{name}_high"]
        ax.fill_between(table["prevalence"], low, high, color=colour, alpha=0.15, lw=0)
    ax.set(xscale="log", xlabel="prevalence", ylabel="share of calls that are right")
    ax.set_xticks(table["prevalence"], [f"{p:g}" for p in table["prevalence"]], minor=False)
    ax.minorticks_off()
    reach = table["prevalence"].min(), table["prevalence"].max()
    return plain(ax, {"frameon": False}, xlim=reach, ylim=(0, 1))


def plot_net_benefit(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw net benefit over the threshold, beside treating everyone and no one.

    `table` is as `tabulate_net_benefit` gives it.

    >>> import cxrlib as cxr
    >>> test = cxr.load_run("medical/models/cardiomegaly").split("test")
    >>> cxr.plot_net_benefit(cxr.tabulate_net_benefit(test)).get_xlabel()
    'threshold probability'
    """
    ax = ax or new_axes(WIDE)
    threshold, highest = table["threshold"], max(table["model_high"].max(), 0.01)
    ax.plot(threshold, table["model"], color=NEGATIVE, label="by the scores")
    band: dict = {"color": NEGATIVE, "alpha": 0.15, "lw": 0}
    ax.fill_between(threshold, table["model_low"], table["model_high"], **band)
    ax.plot(threshold, table["treat_all"], "--", color=POSITIVE, label="everyone")
    ax.axhline(0, color="0.5", lw=1, ls=":", label="no one")
    labels = {"xlabel": "threshold probability", "ylabel": "net benefit per radiograph"}
    return plain(
        ax, {"frameon": False}, xlim=(0, 1), ylim=(-0.2 * highest, 1.05 * highest), **labels
    )


def _curve(curve, films: pd.DataFrame) -> tuple:
    """Return the first two arrays that scikit-learn gives, empty ones where a class is absent."""
    both = films["target"].nunique() == 2
    return curve(films["target"], films["probability"])[:2] if both else ([], [])
