"""Figures of audits. Each draws on `ax`, or on a new figure, as in `plots`."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from cxrlib.audit.perturb import change_film
from cxrlib.data.images import read_image
from cxrlib.plots.evidence import resize_map
from cxrlib.plots.style import BOX_COLOUR, EVEN, LINES, NEGATIVE, POSITIVE, literal, new_axes, plain

SIDE = 299  # of films that are shown, in pixels


def plot_intervals(
    table: pd.DataFrame,
    value: str = "auc",
    xlabel: str = "AUC",
    reference: float = 0.5,
    ax: Axes | None = None,
) -> Axes:
    """Draw a column of a table, row by row, from `low` to `high`; the row 'image' stands out.

    The table is as `tabulate_metadata` gives it; a vertical line stands at `reference`.
    """
    ax = ax or new_axes((5.6, 0.6 + 0.42 * len(table)))
    for row, (name, measured) in enumerate(table[::-1].iterrows()):
        colour, marker = (POSITIVE, "s") if name == "image" else (NEGATIVE, "o")
        ax.plot([measured["low"], measured["high"]], [row, row], color=colour, lw=2, clip_on=False)
        ax.plot(measured[value], row, marker, color=colour, clip_on=False)
    ax.axvline(reference, color="0.6", lw=1)
    ax.set_yticks(range(len(table)), [literal(name) for name in table.index[::-1]])
    return plain(ax, xlabel=xlabel, xlim=(0, 1) if value == "auc" else None)


def plot_leakage(summary: dict, repeats: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the AUC of each repeat (grey) and their means; see `measure_leakage`.

    The axis runs from chance to 1, so that a gap looks as large as it is.
    """
    ax = ax or new_axes(EVEN)
    both = ["row_wise", "patient_wise"]
    ax.plot([0, 1], repeats[both].T, color="0.75", lw=1, marker=".")
    ax.plot([0, 1], [summary[name]["value"] for name in both], color=NEGATIVE, lw=2, marker="o")
    ax.set_xticks([0, 1], ["split by film", "split by patient"])
    lowest = min(0.5, repeats[both].min(axis=None))
    return plain(ax, xlim=(-0.3, 1.3), ylim=(lowest, 1), ylabel="cross-validated AUC")


def plot_changes(table: pd.DataFrame, scores: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how each change moves the logit of each film, by label; see `perturb_films`."""
    ax = ax or new_axes((6.4, 4.2))
    changes = list(table.index[::-1])
    for shift, target, colour, marker, name in (
        (-0.17, 1, POSITIVE, "s", "labelled positive"),
        (0.17, 0, NEGATIVE, "o", "labelled negative"),
    ):
        part = scores[scores["target"] == target]
        moved, rows = part[changes].sub(part["unchanged"], axis=0), np.arange(len(changes)) + shift
        ax.plot(moved, np.tile(rows, (len(part), 1)), ".", color=colour, alpha=0.3, ms=5)
        ax.plot(moved.mean(), rows, marker, color=colour, mec="black", label=name)
    ax.axvline(0, color="0.6", lw=1)
    ax.set_yticks(range(len(changes)), changes)
    above = {"frameon": False, "loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2}
    return plain(ax, above, xlabel="change of the logit")


def show_changes(film: pd.Series) -> Figure:
    """Show one film, with path and mask, under each change of `change_film`."""
    changed = change_film(read_image(film["path"], SIDE), resize_map(film["mask"], SIDE) > 0.5)
    size = (2.1 * len(changed), 2.6)
    figure, axes = plt.subplots(1, len(changed), figsize=size, layout="constrained")
    for ax, (change, shown) in zip(axes, changed.items(), strict=True):
        ax.imshow(shown, cmap="gray", vmin=0, vmax=1)
        ax.set_title(change, fontsize=8)
        ax.axis("off")
    return figure


def show_maps(films: pd.DataFrame, maps: dict[str, np.ndarray], captions: list[str]) -> Figure:
    """Show films of `boxed_films`, one per row, under each method's map, with the box in yellow.

    Each map, (films, height, width) by method, is scaled from 0 to its own largest value; what is
    below a twentieth of it stays clear.
    """
    shape = len(films), len(maps) + 1
    how = {"figsize": (1.8 * shape[1], 1.95 * shape[0]), "layout": "constrained"}
    figure, axes = plt.subplots(*shape, **how, squeeze=False)
    for row, (film, caption) in enumerate(zip(films.itertuples(), captions, strict=True)):
        pixels = read_image(film.path, SIDE)
        for ax in axes[row]:
            ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=(0, 1, 1, 0))
            ax.axis("off")
            across = (np.arange(len(film.mask)) + 0.5) / len(film.mask)
            ax.contour(across, across, film.mask, [0.5], colors=BOX_COLOUR, linewidths=1)
        axes[row, 0].set_title(literal(caption), fontsize=8)
        for ax, (method, heats) in zip(axes[row, 1:], maps.items(), strict=True):
            heat = np.maximum(resize_map(heats[row], 100), 0)
            heat = heat / (heat.max() or 1)
            seen = np.where(heat > 0.05, 0.6, 0)
            ax.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=seen, extent=(0, 1, 1, 0))
            ax.set_title(method, fontsize=8)
    scale = ScalarMappable(Normalize(0, 1), "inferno")
    figure.colorbar(scale, ax=axes, shrink=0.6, aspect=30, label="share of the map's maximum")
    return figure


def plot_refusal(judged: pd.DataFrame, kinds: dict[str, list[str]]) -> Figure:
    """Draw each image's score by kind, and ROC curves of other images against radiographs.

    `judged` has kind ('film', or what it is instead) and the score of `frontal.find_reasons`:
    refused above 0; infinite ones stand at the right. `kinds` are, by name, those of one curve.
    """
    how = {"figsize": (10, 3.8), "width_ratios": (3, 2), "layout": "constrained"}
    figure, (left, right) = plt.subplots(1, 2, **how)
    score = judged["score"].clip(upper=1.15 * judged["score"].replace(np.inf, np.nan).max())
    names = judged["kind"].unique()[::-1]
    for row, name in enumerate(names):
        shown = score[judged["kind"] == name]
        spread = row + np.linspace(-0.25, 0.25, len(shown))
        left.plot(shown, spread, ".", color=NEGATIVE if name == "film" else POSITIVE, alpha=0.4)
    left.axvline(0, color="0.6", lw=1)
    left.set_yticks(range(len(names)), names)
    plain(left, xlabel="score: refused above 0")
    film, least = judged["kind"] == "film", 0.92
    for (colour, line), (name, members) in zip(LINES, kinds.items(), strict=False):
        stranger = judged["kind"].isin(members)
        chosen = film | stranger
        false_rate, true_rate, _ = roc_curve(stranger[chosen], score[chosen])
        right.step(false_rate, true_rate, line, where="post", color=colour, label=name)
        point = (score[film] > 0).mean(), (score[stranger] > 0).mean()
        right.plot(*point, "o", color=colour, clip_on=False)
        least = min(least, true_rate[false_rate == 0].max(), point[1])
    right.set(xlim=(-0.002, 0.1), ylim=(least - 0.02, 1.005))
    labels = {"xlabel": "share of radiographs refused", "ylabel": "share of other images refused"}
    plain(right, {"frameon": False, "loc": "lower right"}, **labels)
    return figure
