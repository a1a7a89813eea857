"""Move a threshold and a prevalence, and see what both do to every number at once."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import RocCurveDisplay
from traitlets import Any, Float, Unicode, observe

from cxrlib.metrics.report import THRESHOLDS
from cxrlib.metrics.thresholds import at_prevalence
from cxrlib.plots.curves import plot_confusion, plot_net_benefit, plot_scores
from cxrlib.plots.style import NEGATIVE
from cxrlib.widgets.base import Widget, script

NAMES = {"false_alarms": "false alarms per 100", "missed": "missed per 100"}


class Explorer(Widget):
    """Histogram, ROC curve, confusion matrix and what follows from them, at one threshold.

    `predictions` has target (0 or 1), probability (0..1) and patient; a film at or above the
    threshold is called positive. PPV and NPV follow from sensitivity, specificity and the
    prevalence by Bayes' theorem; at the films' own prevalence they are the shares among the films.

    Attributes
    ----------
    threshold, prevalence : float in 0..1, what the sliders stand at
    numbers : Series, what the widget shows at them
        Counts tp, fp, fn and tn. sensitivity, specificity, ppv and npv in 0..1, NaN where
        undefined. False alarms and missed findings among 100 films of the prevalence. Net benefit
        per film, see `tabulate_net_benefit`, NaN at a threshold of 1.

    Raises
    ------
    ValueError
        Films of one class only, or a score that is missing.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> explorer = cxr.Explorer(scores, threshold=0.5, finding="Cardiomegaly")
    >>> explorer.prevalence = 0.05
    >>> explorer.numbers[["sensitivity", "ppv"]].round(2).to_dict()
    {'sensitivity': 0.83, 'ppv': 0.28}
    """

    _esm = script("controls.js", "explorer.js")
    threshold = Float(min=0, max=1).tag(sync=True)
    prevalence = Float(min=0, max=1).tag(sync=True)
    numbers = Any()
    finding = Unicode().tag(sync=True)
    films = Unicode().tag(sync=True)

    def __init__(self, predictions: pd.DataFrame, threshold: float, finding: str = "the finding"):
        if not np.isfinite(predictions["probability"]).all():
            raise ValueError("a probability is missing: leave out films without a score")
        self._predictions = predictions
        probability = predictions["probability"].astype(np.float64).sort_values()
        scores = {
            target: part.to_numpy() for target, part in probability.groupby(predictions["target"])
        }
        if scores.keys() != {0, 1}:
            raise ValueError("an operating point needs films with the finding and films without")
        self._negative, self._positive = scores[0], scores[1]
        super().__init__(
            threshold=threshold,
            prevalence=float(predictions["target"].mean()),
            finding=finding,
            films=f"{len(predictions)} radiographs of {predictions['patient'].nunique()} patients, "
            f"{len(self._positive)} with {finding}",
        )

    @observe("threshold", "prevalence")
    def _count(self, _=None) -> None:
        self.numbers = self._measure(np.array([self.threshold])).iloc[0].rename(None)

    def _measure(self, thresholds: np.ndarray) -> pd.DataFrame:
        """Return `numbers`, one row per threshold."""
        fn, tn = (np.searchsorted(x, thresholds) for x in (self._positive, self._negative))
        tp, fp = len(self._positive) - fn, len(self._negative) - tn
        rates = {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp)}
        worth = at_prevalence(**rates, prevalence=self.prevalence)
        table = pd.DataFrame({"tp": tp, "fp": fp, "fn": fn, "tn": tn} | rates | worth)
        odds = thresholds / np.where(thresholds < 1, 1 - thresholds, np.nan)
        found = self.prevalence * table["sensitivity"]
        table["net benefit"] = found - odds * table["false_alarms"] / 100
        return table.rename(columns=NAMES)

    def static_figure(self) -> Figure:
        now = self.numbers
        figure = Figure((14, 3.4), layout="constrained")
        left, middle, benefit, right = figure.subplots(1, 4)
        plot_scores(self._predictions, self.threshold, left)
        target, probability = self._predictions["target"], self._predictions["probability"]
        RocCurveDisplay.from_predictions(
            target, probability, ax=middle, curve_kwargs={"color": NEGATIVE}
        )
        middle.plot(1 - now["specificity"], now["sensitivity"], "o", color=NEGATIVE)
        middle.set(xlabel="1 - specificity", ylabel="sensitivity")
        at = np.array(THRESHOLDS)
        model = self._measure(at)["net benefit"]
        curve = {"threshold": at, "model": model, "model_low": model, "model_high": model}
        curve["treat_all"] = self.prevalence - (1 - self.prevalence) * at / (1 - at)
        plot_net_benefit(pd.DataFrame(curve), benefit)
        benefit.axvline(self.threshold, color="black", ls="--")
        counts = {name: int(now[name]) for name in ("tn", "fp", "fn", "tp")}
        plot_confusion({"confusion": counts}, self.finding, right)
        shares = now[["sensitivity", "specificity", "ppv", "npv"]]
        text = ", ".join(f"{name} {value:.2f}" for name, value in shares.items())
        text += f", {now['false alarms per 100']:.1f} false alarms per 100 radiographs"
        title = f"threshold {self.threshold:.3f}, prevalence {self.prevalence:.3f}: {text}"
        figure.suptitle(title, fontsize=9)
        return figure

    def _answer(self, _, question: dict, __) -> None:
        if question.get("kind") == "scores":
            scores = [x.astype("<f8").tobytes() for x in (self._positive, self._negative)]
            self.send({"kind": "scores"}, scores)
