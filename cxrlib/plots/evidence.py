"""Where on a radiograph the evidence lies, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from cxrlib.plots.curves import plot_roc, plot_scores
from cxrlib.plots.style import EVEN, EVIDENCE, literal, new_axes

if TYPE_CHECKING:
    from cxrlib.model.run import Run


def plot_evidence(
    film: np.ndarray,
    evidence: np.ndarray,
    caption: str = "",
    ax: Axes | None = None,
    finding: str = "the finding",
    limit: float = EVIDENCE,
) -> Axes:
    """Draw a radiograph under its map of evidence: red speaks for the finding, blue against it.

    `film` is (side, side) in 0..1, as `read_image` gives it with a size; `evidence` is (height,
    width) in logits, as `map_evidence` gives it. It is drawn per 1 % of the image's area: one
    colour means the same on every radiograph and for every network. The colours end at `limit`. The
    map is interpolated, and the more transparent the nearer it is to 0. The film has less contrast
    than on its own, so that a dark place does not look like a strong one.

    >>> import cxrlib as cxr
    >>> run, path = cxr.load_run("medical/models/cardiomegaly"), "medical/images/00060009_000.jpg"
    >>> evidence, _ = cxr.map_evidence(run, path)
    >>> film = cxr.read_image(path, run.image_size)
    >>> ax = cxr.plot_evidence(film, evidence, "a test film", finding=run.finding)
    """
    ax = ax or new_axes(EVEN)
    density = evidence * (evidence.size / 100)
    frame = (0, film.shape[1], film.shape[0], 0)
    ax.imshow(film, cmap="gray", vmin=-0.6, vmax=1.4, extent=frame)
    how: dict = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "hanning"}
    alpha = 0.8 * np.minimum(np.abs(density) / limit, 1)
    heat = ax.imshow(density, alpha=alpha, extent=frame, **how)
    scale = ScalarMappable(heat.norm, heat.cmap)
    bar = ax.figure.colorbar(scale, ax=ax, shrink=0.8, extend="both")
    bar.set_label(literal(f"evidence for {finding} (logits per 1 % of the image)"), fontsize=8)
    ax.set_title(literal(caption), fontsize=9)
    ax.axis("off")
    return ax


def plot_summary(run: Run, film: np.ndarray, evidence: np.ndarray) -> Figure:
    """Draw a run on one page: evidence on a film, ROC curves, and histogram of the test films.

    The run is scored on its test films; `film` and `evidence` are as `plot_evidence` takes them.

    >>> import cxrlib as cxr
    >>> run, path = cxr.load_run("medical/models/cardiomegaly"), "medical/images/00060001_000.jpg"
    >>> evidence, _ = cxr.map_evidence(run, path)
    >>> figure = cxr.plot_summary(run, cxr.read_image(path, run.image_size), evidence)
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    plot_evidence(film, evidence, "evidence on a test radiograph", left, run.finding)
    plot_roc({name: run.split(name) for name in run.metrics}, run.metrics, run.threshold, middle)
    plot_scores(run.split("test"), run.threshold, right)
    middle.set_title(literal(f"{run.finding} against {run.facts['negative']}"), fontsize=9)
    right.set_title("test radiographs", fontsize=9)
    return figure


def resize_map(heat: np.ndarray, side: int) -> np.ndarray:
    """Return a map, (height, width), at (side, side), interpolated between the cells' centres."""
    image = Image.fromarray(np.asarray(heat, np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
