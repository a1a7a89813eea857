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
from cxrlib.plots.style import BOX_COLOUR, LINES, NEGATIVE, WIDE, literal, new_axes, plain


def show_films(
    films: pd.DataFrame,
    findings: pd.DataFrame | None = None,
    captions: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Show `films`, one per row of filename and path, in a grid, aspect ratio kept.

    `findings` with filename and xmin..ymax, in pixels of the file, are drawn as boxes. `captions`
    take the place of file names above the films, and `columns` is films per row.

    >>> import cxrlib as cxr
    >>> study = cxr.read_study("medical")
    >>> figure = cxr.show_films(study.films.head(2), study.findings, columns=2)
    """
    rows = max(1, -(-len(films) // columns))
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.85 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    boxes = films.head(0) if findings is None else findings.dropna(subset=["xmin"])
    captions = films["filename"] if captions is None else captions
    for ax, film, caption in zip(axes.flat, films.itertuples(), captions, strict=False):
        ax.imshow(read_image(film.path), cmap="gray", vmin=0, vmax=1)
        ax.set_title(literal(str(caption).strip(" ,;")), fontsize=9)  # no view, no comma before it
        for box in boxes[boxes["filename"] == film.filename].itertuples():
            size = box.xmax - box.xmin, box.ymax - box.ymin
            style: dict = {"fill": False, "color": BOX_COLOUR, "lw": 1.5}
            ax.add_patch(Rectangle((box.xmin, box.ymin), *size, **style))
    return figure


def plot_findings(films: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the number of films with each finding, by view where it is known.

    A film with two findings counts in both.

    >>> import cxrlib as cxr
    >>> ax = cxr.plot_findings(cxr.read_study("medical").films)
    """
    ax = ax or new_axes(WIDE)
    each = films[["labels", "view"]].explode("labels")
    counts = pd.crosstab(each["labels"], each["view"])
    counts = counts.loc[counts.sum(axis=1).sort_values(kind="stable").index]
    start, names = np.zeros(len(counts)), [literal(name) for name in counts.index]
    for (colour, _), hatch, view in zip(LINES, ("", "///", "...", "xx"), counts, strict=False):
        style: dict = {"color": colour, "hatch": hatch, "label": literal(view or "unknown")}
        ax.barh(names, counts[view], left=start, **style)
        start += counts[view].to_numpy()
    legend = {"title": "view", "frameon": False} if films["view"].any() else None
    return plain(ax, legend, xlabel="radiographs")


def plot_patients(films: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how many patients have one film, two films, and so on.

    >>> import cxrlib as cxr
    >>> ax = cxr.plot_patients(cxr.read_study("medical").films)
    """
    ax = ax or new_axes(WIDE)
    counts = films["patient"].value_counts().value_counts()
    ax.bar(counts.index, counts, color=NEGATIVE)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return plain(ax, xlabel="radiographs of a patient", ylabel="patients")
