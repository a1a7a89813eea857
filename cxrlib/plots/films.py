"""Figures of films and studies. Grids of radiographs, counts of findings and patients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from cxrlib.data.images import read_image
from cxrlib.plots.style import BOX_COLOUR, LINES, NEGATIVE, new_axes, plain


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
