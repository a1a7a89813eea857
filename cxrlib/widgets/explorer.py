"""Move a threshold and a prevalence, and see what both do to every number at once."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import RocCurveDisplay
from traitlets import Float, Unicode

from cxrlib.metrics.thresholds import at_prevalence
from cxrlib.plots.curves import plot_confusion, plot_scores
from cxrlib.plots.style import NEGATIVE
from cxrlib.widgets.base import Widget, script


class Explorer(Widget):
    """Histogram, ROC curve, confusion matrix and what follows from them, at one threshold.

    PPV and NPV follow from sensitivity, specificity and the prevalence by Bayes' theorem; at the
    films' own prevalence they are the shares among the films.

    Parameters
    ----------
    predictions : DataFrame with target (0 or 1), probability (0..1) and patient
    threshold : films at or above it are called positive
    finding : its name

    Attributes
    ----------
    threshold, prevalence : float in 0..1, what the sliders stand at
    numbers : Series, what the widget shows at them

    Raises
    ------
    ValueError
        Films of one class only, or a score that is no number.
    """

    _esm = script("viewer.js", "explorer.js")
    threshold = Float(min=0, max=1).tag(sync=True)
    prevalence = Float(min=0, max=1).tag(sync=True)
    finding = Unicode().tag(sync=True)
    films = Unicode().tag(sync=True)

    def __init__(self, predictions: pd.DataFrame, threshold: float, finding: str = "the finding"):
        if predictions["probability"].isna().any():
            raise ValueError("a probability is missing: leave out films without a score")
        self._predictions = predictions
        by_target = predictions.groupby("target")["probability"]
        scores = {target: np.sort(part.to_numpy(np.float64)) for target, part in by_target}
        if scores.keys() != {0, 1}:
            raise ValueError("an operating point needs films with the finding and films without")
        self._positive, self._negative = scores[1], scores[0]
        super().__init__(
            threshold=threshold,
            prevalence=float(predictions["target"].mean()),
            finding=finding,
            films=f"{len(predictions)} films of {predictions['patient'].nunique()} patients, "
            f"{len(self._positive)} with {finding}",
        )
        self.on_msg(self._answer)

    @property
    def numbers(self) -> pd.Series:
        """Counts tp, fp, fn and tn; sensitivity, specificity, ppv and npv in 0..1, NaN where
        undefined; false alarms and missed findings among 100 films of the prevalence."""
        tp = int((self._positive >= self.threshold).sum())
        fp = int((self._negative >= self.threshold).sum())
        fn, tn = len(self._positive) - tp, len(self._negative) - fp
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        worth = at_prevalence(sensitivity, specificity, self.prevalence)
        return pd.Series(
            {
                **{"tp": tp, "fp": fp, "fn": fn, "tn": tn},
                "sensitivity": sensitivity,
                "specificity": specificity,
                "ppv": worth["ppv"],
                "npv": worth["npv"],
                "false alarms per 100": worth["false_alarms"],
                "missed per 100": worth["missed"],
            }
        )

    def static_figure(self) -> Figure:
        now = self.numbers
        figure = Figure((11, 3.4), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        plot_scores(self._predictions, self.threshold, left)
        target, probability = self._predictions["target"], self._predictions["probability"]
        RocCurveDisplay.from_predictions(
            target, probability, ax=middle, curve_kwargs={"color": NEGATIVE}
        )
        middle.plot(1 - now["specificity"], now["sensitivity"], "o", color=NEGATIVE)
        middle.set(xlabel="1 - specificity", ylabel="sensitivity")
        counts = {name: int(now[name]) for name in ("tn", "fp", "fn", "tp")}
        plot_confusion({"confusion": counts}, self.finding, right)
        shares = now[["sensitivity", "specificity", "ppv", "npv"]]
        text = ", ".join(f"{name} {value:.2f}" for name, value in shares.items())
        figure.suptitle(
            f"threshold {self.threshold:.3f}, prevalence {self.prevalence:.3f}: {text}, "
            f"{now['false alarms per 100']:.1f} false alarms per 100 films",
            fontsize=9,
        )
        return figure

    def _answer(self, _, question: dict, __) -> None:
        if question.get("kind") == "scores":
            scores = [x.astype("<f8").tobytes() for x in (self._positive, self._negative)]
            self.send({"kind": "scores"}, scores)
