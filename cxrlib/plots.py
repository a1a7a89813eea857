"""One function a figure. Each draws on `ax`, or on a new figure, and returns what it drew on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve, roc_curve

from cxrlib.explain import map_evidence
from cxrlib.images import read_image
from cxrlib.metrics import SETS, format_interval
from cxrlib.run import Run

# Okabe and Ito's colours; lines and hatches differ too, for print in grey.
POSITIVE, NEGATIVE, THIRD = "#D55E00", "#0072B2", "#009E73"
LINES = [(NEGATIVE, "-"), (POSITIVE, "--"), (THIRD, ":")]
BOX_COLOUR = "#F0E442"


def show_films(
    films: pd.DataFrame,
    findings: pd.DataFrame | None = None,
    captions: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Show films in a grid, aspect ratio kept.

    Parameters
    ----------
    films : DataFrame with filename and path; one picture a row
    findings : rows with filename and xmin..ymax in pixels of the file, drawn as boxes
    captions : a text above each film; else its file name
    columns : films a row
    """
    rows = -(-len(films) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.85 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    captions = films["filename"] if captions is None else captions
    for ax, film, caption in zip(axes.flat, films.itertuples(), captions, strict=False):
        ax.imshow(read_image(film.path), cmap="gray", vmin=0, vmax=1)
        ax.set_title(caption, fontsize=9)
        if findings is not None:
            boxes = findings[findings["filename"] == film.filename].dropna(subset=["xmin"])
            for box in boxes.itertuples():
                corner, width, height = (
                    (box.xmin, box.ymin),
                    box.xmax - box.xmin,
                    box.ymax - box.ymin,
                )
                ax.add_patch(Rectangle(corner, width, height, fill=False, color=BOX_COLOUR, lw=1.5))
    return figure


def plot_findings(films: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the number of films with each finding, by view; a film with two counts in both."""
    ax = ax or new_axes((6, 3.2))
    each = films[["labels", "view"]].explode("labels")
    counts = each.groupby("labels")["view"].value_counts().unstack(fill_value=0)  # noqa: PD010
    counts = counts.loc[counts.sum(axis=1).sort_values().index]
    counts.index.name = None
    start = np.zeros(len(counts))
    for (colour, _), hatch, view in zip(LINES, ("", "///", "..."), counts.columns, strict=False):
        name = view or "unknown"
        ax.barh(counts.index, counts[view], left=start, color=colour, hatch=hatch, label=name)
        start += counts[view].to_numpy()
    ax.set_xlabel("films")
    ax.legend(title="view", frameon=False)
    return plain(ax)


def plot_patients(films: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how many patients have one film, two films, and so on."""
    ax = ax or new_axes((5, 3))
    counts = films.groupby("patient").size().value_counts().sort_index()
    ax.bar(counts.index, counts, color=NEGATIVE)
    ax.set(xlabel="films of a patient", ylabel="patients")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return plain(ax)


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


def plot_evidence(run: Run, path: str | Path, caption: str = "", ax: Axes | None = None) -> Axes:
    """Draw a film under its map of evidence, in logits: red speaks for the finding, blue against.

    The scale ends at the largest absolute cell, and a cell is the more transparent the nearer it
    is to 0; `map_evidence` says what a cell means.
    """
    ax = ax or new_axes((4.4, 3.8))
    evidence, _ = map_evidence(run, path)
    film = read_image(path, run.facts["image_size"])
    limit = np.abs(evidence).max()
    frame = (0, film.shape[1], film.shape[0], 0)
    ax.imshow(film, cmap="gray", vmin=0, vmax=1, extent=frame)
    scale = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
    colours = scale.to_rgba(evidence)
    colours[..., 3] = 0.6 * np.abs(evidence) / limit
    ax.imshow(colours, extent=frame)
    bar = ax.figure.colorbar(scale, ax=ax, shrink=0.8)
    bar.set_label("evidence (logits)", fontsize=8)
    ax.set_title(caption, fontsize=9)
    ax.axis("off")
    return ax


def plot_summary(run: Run, film: str | Path) -> Figure:
    """Draw a run on one page: evidence on a film, ROC curves, and histogram of the test films."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    scores = dict(list(run.predictions.groupby("split", sort=False)))
    plot_evidence(run, film, "evidence on a test film", left)
    plot_roc(scores, run.facts["metrics"], run.threshold, middle)
    plot_scores(scores["test"], run.threshold, right)
    middle.set_title(f"{run.facts['finding']} against No Finding", fontsize=9)
    right.set_title("test films", fontsize=9)
    return figure


def new_axes(size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1]


def plain(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax
