"""The figure of a learning curve."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cxrlib.plots.style import NEGATIVE, WIDE, new_axes, plain


def plot_learning_curve(
    points: pd.DataFrame, curve: pd.DataFrame, metric: str = "AUC", ax: Axes | None = None
) -> Axes:
    """Draw what `learning_curve` measured and, dashed and hatched, what its power law foresees.

    `metric` is 'AUC' or 'Brier score'.

    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> three = {"metric": "AUC", "value": [0.8, 0.85, 0.87], "low": 0.75, "high": 0.9}
    >>> points = pd.DataFrame(three | {"patients": [20, 40, 80]})
    >>> kinds = ["fitted", "fitted", "extrapolated"]
    >>> ax = cxr.plot_learning_curve(points, points.assign(kind=kinds))
    >>> ax.get_xlabel()
    'training patients'
    """
    ax = ax or new_axes(WIDE)
    points, curve = (table[table["metric"] == metric] for table in (points, curve))
    reach = [points["value"] - points["low"], points["high"] - points["value"]]
    style: dict = {"fmt": "o", "ms": 4, "color": "0.35", "elinewidth": 0.8, "clip_on": False}
    ax.errorbar(points["patients"], points["value"], reach, label="measured", **style)
    law = curve[curve["kind"].isin(["fitted", "extrapolated"])]
    ahead = law["kind"] == "extrapolated"
    joint = ahead | ahead.shift(-1, fill_value=False)  # from the last fitted point on
    for part, line, hatch, name in (
        (law[~ahead], "-", "", "power law"),
        (law[joint], "--", "///", "extrapolated"),
    ):
        ax.plot(part["patients"], part["value"], line, color=NEGATIVE, label=name)
        band: dict = {"facecolor": NEGATIVE, "edgecolor": "0.5", "alpha": 0.2, "hatch": hatch}
        ax.fill_between(part["patients"], part["low"], part["high"], lw=0, **band)
    ax.set(xscale="log", xlim=(curve["patients"].min(), curve["patients"].max()))
    ticks = np.append(points["patients"].iloc[1::2], law["patients"].iloc[-1])
    ax.set_xticks(ticks, [f"{n}" for n in ticks])
    ax.minorticks_off()
    return plain(
        ax, {"frameon": False}, xlabel="training patients", ylabel=f"{metric}, held-out patients"
    )
