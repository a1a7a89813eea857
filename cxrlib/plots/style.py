"""Colours, lines and axes that all figures share."""

from collections.abc import Iterator

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

# Okabe and Ito's colours; lines and hatches differ too, for print in grey.
POSITIVE, NEGATIVE, THIRD, FOURTH = "#D55E00", "#0072B2", "#009E73", "#CC79A7"
LINES = [(NEGATIVE, "-"), (POSITIVE, "--"), (THIRD, ":"), (FOURTH, "-.")]
BOX_COLOUR = "#F0E442"
WIDE, EVEN = (5.4, 3.5), (4.6, 4.4)  # inches, of figures of one kind
EVIDENCE = 0.3  # logits per 1 % of the image, where the colours of all maps of evidence end
SIDES = {"train": 0, "test": 1}  # the line of each, with the other or alone


def styled(parts: dict) -> Iterator[tuple]:
    """Yield colour, line, name and value of each part; a side of the split keeps its own colour."""
    order = SIDES if parts.keys() <= SIDES.keys() else {name: n for n, name in enumerate(parts)}
    for name, part in parts.items():
        yield *LINES[order[name] % len(LINES)], name, part


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
    """Return text that figures show as it is: two dollar signs would make a formula of it."""
    return str(text).replace("$", r"\$")
