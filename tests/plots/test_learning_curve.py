"""What a figure of a learning curve shows."""

import pandas as pd
import pytest

from cxrlib.plots.learning import plot_learning_curve


@pytest.mark.parametrize("metric", ["AUC", "Brier score"])
def test_what_was_not_measured_is_dashed_and_joins_the_rest(metric):
    sizes = {"patients": [20, 40, 80, 160]}
    law = pd.DataFrame(sizes | {"value": [0.7, 0.8, 0.85, 0.87], "low": 0.6, "high": 0.9})
    law["kind"] = ["fitted", "fitted", "extrapolated", "extrapolated"]
    now = law.iloc[:1].assign(kind="now")
    both = [x.assign(metric=name) for name in ("AUC", "Brier score") for x in (law, now)]
    curve = pd.concat(both)
    ax = plot_learning_curve(curve[curve["patients"] < 80], curve, metric)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines["power law"].get_xdata().tolist() == [20, 40]
    assert lines["extrapolated"].get_xdata().tolist() == [40, 80, 160]
    assert lines["extrapolated"].get_linestyle() == "--"
    assert ax.get_ylabel().startswith(metric)
