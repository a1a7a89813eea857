"""Colours, lines and axes that all figures share."""

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

# Okabe and Ito's colours; lines and hatches differ too, for print in grey.
POSITIVE, NEGATIVE, THIRD, FOURTH = "#D55E00", "#0072B2", "#009E73", "#CC79A7"
LINES = [(NEGATIVE, "-"), (POSITIVE, "--"), (THIRD, ":"), (FOURTH, "-.")]
BOX_COLOUR = "#F0E442"


def new_axes(size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1]


def plain(ax: Axes, legend: dict | None = None, **labels) -> Axes:
    """Label the axes, draw a legend if `legend` gives its options, and take away outer spines."""
    ax.set(**labels)
    ax.spines[["top", "right"]].set_visible(False)
    if legend is not None:
        ax.legend(fontsize=8, **legend)
    return ax


def literal(text: str) -> str:
    r"""Return text that figures show as it is: two dollar signs would make a formula of it.

    >>> literal("$100 or $200")
    '\\$100 or \\$200'
    """
    return str(text).replace("$", r"\$")
