"""Colours, lines and axes that all figures share."""

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

# Okabe and Ito's colours; lines and hatches differ too, for print in grey.
POSITIVE, NEGATIVE, THIRD = "#D55E00", "#0072B2", "#009E73"
LINES = [(NEGATIVE, "-"), (POSITIVE, "--"), (THIRD, ":")]
BOX_COLOUR = "#F0E442"


def new_axes(size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1]


def plain(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax
