"""Figures of scores: ROC and other curves, histograms, calibration."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve, roc_curve

from cxrlib.metrics.calibration import tabulate_reliability
from cxrlib.metrics.report import SETS, format_interval
from cxrlib.plots.style import LINES, NEGATIVE, POSITIVE, new_axes, plain


def plot_history(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the history of a fit.

    Of a linear head, the AUC in each fold over the strength C of its features; of a dense head, the
    loss over the epochs; of fine-tuning, the AUC of training and of validation over the epochs.
    """
    ax = ax or new_axes((5, 3.4))
    if "strength" in history:
        for _, fold in history.groupby("fold"):
            ax.plot(fold["strength"], fold["auc"], color="0.7", lw=1, marker=".")
        mean = history.groupby("strength")["auc"].mean()
        ax.plot(mean.index, mean, color=NEGATIVE, marker="o", label="mean of folds")
        ax.set(
            xscale="log", xlabel="C (weaker penalty to the right)", ylabel="AUC in held-out fold"
        )
    elif "val_auc" in history:
        for (colour, line), column, name in zip(
            LINES, ("auc", "val_auc"), ("training, augmented", "validation"), strict=False
        ):
            ax.plot(history["epoch"], history[column], line, color=colour, marker="o", label=name)
        ax.set(xlabel="epoch (0: before fine-tuning)", ylabel="AUC")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        ax.plot(history["epoch"], history["loss"], color=NEGATIVE, marker="o", label="training")
        ax.set(xlabel="epoch", ylabel="binary cross-entropy")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return plain(ax)


def plot_roc(
    predictions: dict[str, pd.DataFrame],
    metrics: dict[str, dict],
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw ROC curves with AUC and its 95 % interval, and the operating point on each.

    Parameters
    ----------
    predictions : by name, DataFrames with target (0 or 1) and probability (0..1)
    metrics : by the same names, what `evaluate` measured
    threshold : of the operating point
    """
    ax = ax or new_axes((4.6, 4.4))
    for (colour, line), (name, scores) in zip(LINES, predictions.items(), strict=False):
        false_rate, true_rate, _ = roc_curve(scores["target"], scores["probability"])
        label = f"{SETS.get(name, name)}: AUC {format_interval(metrics[name]['auc'])}"
        ax.plot(false_rate, true_rate, line, color=colour, label=label, drawstyle="steps-post")
        if threshold is not None:
            point = metrics[name]
            ax.plot(
                1 - point["specificity"]["value"], point["sensitivity"]["value"], "o", color=colour
            )
    ax.plot([0, 1], [0, 1], color="0.6", lw=1, label="chance")
    ax.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    ax.legend(loc="lower right", fontsize=8)
    return plain(ax)


def plot_precision_recall(
    predictions: dict[str, pd.DataFrame], metrics: dict[str, dict], ax: Axes | None = None
) -> Axes:
    """Draw precision (PPV) over recall (sensitivity), with average precision; see `plot_roc`."""
    ax = ax or new_axes((4.6, 4.4))
    for (colour, line), (name, scores) in zip(LINES, predictions.items(), strict=False):
        precision, recall, _ = precision_recall_curve(scores["target"], scores["probability"])
        label = f"{SETS.get(name, name)}: AP {format_interval(metrics[name]['average_precision'])}"
        ax.plot(recall, precision, line, color=colour, label=label, drawstyle="steps-post")
        ax.axhline(metrics[name]["prevalence"], color=colour, lw=1, ls=(0, (1, 4)))
    ax.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)", ylim=(0, 1.03), aspect="equal")
    ax.legend(loc="lower left", fontsize=8)
    return plain(ax)


def plot_scores(predictions: pd.DataFrame, threshold: float, ax: Axes | None = None) -> Axes:
    """Draw the histogram of probabilities by label, in bins that end at the threshold."""
    ax = ax or new_axes((5.4, 3.2))
    bins = np.unique(np.clip(threshold + np.arange(-20, 21) / 20, 0, 1))
    for target, colour, hatch, name in (
        (0, NEGATIVE, "", "labelled negative"),
        (1, POSITIVE, "///", "labelled positive"),
    ):
        scores = predictions.loc[predictions["target"] == target, "probability"]
        ax.hist(scores, bins, color=colour, alpha=0.6, hatch=hatch, edgecolor="white", label=name)
    ax.axvline(threshold, color="black", ls="--", label=f"threshold {threshold:.2f}")
    ax.set(xlabel="probability of the finding", ylabel="films", xlim=(0, 1))
    ax.legend(fontsize=8)
    return plain(ax)


def plot_confusion(metrics: dict, finding: str, ax: Axes | None = None) -> Axes:
    """Draw films by label and decision, from the `confusion` that `evaluate` measured."""
    ax = ax or new_axes((4, 3.4))
    c = metrics["confusion"]
    table = np.array([[c["tn"], c["fp"]], [c["fn"], c["tp"]]])
    names = ["No Finding", finding]
    display = ConfusionMatrixDisplay(table, display_labels=names)
    display.plot(ax=ax, cmap="Blues", colorbar=False, text_kw={"fontsize": 12})
    ax.set(xlabel="decision", ylabel="label")
    return ax


def plot_reliability(predictions: dict[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """Draw observed shares over mean probabilities in bins of equal count, and their counts below.

    Bars are 95 % intervals over patients.

    Parameters
    ----------
    predictions : by name, DataFrames with target (0 or 1), probability (0..1) and patient
    """
    ax = ax or new_axes((4.8, 5.4))
    counts = ax.inset_axes((0, -0.42, 1, 0.22), sharex=ax)
    for number, (name, films) in enumerate(predictions.items()):
        bins = tabulate_reliability(films)
        colour, line = LINES[number]
        reach = [bins["share"] - bins["low"], bins["high"] - bins["share"]]
        style = {"color": colour, "linestyle": line, "marker": "os^"[number], "ms": 4, "lw": 1}
        label = SETS.get(name, name)
        ax.errorbar(bins["probability"], bins["share"], reach, label=label, elinewidth=0.7, **style)
        counts.plot(bins["probability"], bins["films"], **style | {"linestyle": "none"})
    ax.plot([0, 1], [0, 1], color="0.6", lw=1, label="calibrated")
    ax.set(xlabel="mean probability in a bin", ylabel="observed share with the label")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.legend(loc="upper left", fontsize=8, frameon=False)
    counts.margins(y=0.2)  # markers are drawn whole
    counts.set(ylabel="films in it", ylim=(0, None))
    plain(counts)
    return plain(ax)


def plot_prevalences(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw PPV and NPV with their intervals over the prevalence; see `tabulate_prevalences`."""
    ax = ax or new_axes((5.2, 3.4))
    for (colour, line), name in zip(LINES, ("ppv", "npv"), strict=False):
        ax.plot(table["prevalence"], table[name], line, color=colour, label=name.upper())
        low, high = table[f"{name}_low"], table[f"{name}_high"]
        ax.fill_between(table["prevalence"], low, high, color=colour, alpha=0.15, lw=0)
    ax.set(xscale="log", xlabel="prevalence", ylabel="share", ylim=(0, 1.02))
    ax.set_xticks(table["prevalence"], [f"{p:g}" for p in table["prevalence"]])
    ax.minorticks_off()
    ax.legend(frameon=False)
    return plain(ax)
