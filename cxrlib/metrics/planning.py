"""How many test patients an interval of a wanted width takes."""

import numpy as np
import pandas as pd
from scipy.special import logit, ndtri
from scipy.stats import rankdata

from cxrlib.metrics.bootstrap import resampled
from cxrlib.metrics.calibration import measure_calibration
from cxrlib.metrics.report import measure_films

Z = ndtri(0.975)
WIDTHS = {
    "auc": 0.1,
    "sensitivity": 0.1,
    "specificity": 0.1,
    "calibration_slope": 0.4,
    "calibration_intercept": 0.4,
    "observed_to_expected": 0.4,
}


def films_for_auc(area: float, prevalence: float, width: float) -> float:
    """Return how many films, one per patient, give an AUC a 95 % interval of this width.

    From the variance of Hanley and McNeil (Radiology 1982), as Newcombe makes it symmetric in the
    classes (Statistics in Medicine 2006, method 4).
    """
    spread = area * (1 - area)
    pairs = (1 - area) / (2 - area) + area / (1 + area)
    square = (width / 2 / Z) ** 2 * prevalence * (1 - prevalence)
    root = (spread * pairs / 2) ** 2 + 4 * square * spread * (1 - pairs)
    return (spread * pairs / 2 + np.sqrt(root)) / (2 * square)


def films_for_rate(rate: float, share: float, width: float) -> float:
    """Return how many films give a rate, measured on a share of them, an interval of this width.

    Sensitivity is measured on the share that has the finding, specificity on the others (Buderer,
    Academic Emergency Medicine 1996).
    """
    return rate * (1 - rate) * (2 * Z / width) ** 2 / share


def films_for_calibration(probability: np.ndarray, metric: str, width: float) -> float:
    """Return how many films give a calibration metric of a calibrated model an interval so wide.

    `probability`, (n,), stands for those of the test films, and `metric` is a key of
    `measure_calibration` (Riley et al., Statistics in Medicine 2021).
    """
    if metric == "observed_to_expected":
        return (1 / probability.mean() - 1) / (np.arcsinh(width / 2) / Z) ** 2
    score = logit(np.clip(probability, 1e-6, 1 - 1e-6))
    curve = probability * (1 - probability)
    a, b, c = ((curve * score**power).mean() for power in range(3))
    variance = 1 / a if metric == "calibration_intercept" else a / (a * c - b**2)
    return variance / (width / 2 / Z) ** 2


def plan_test(
    predictions: pd.DataFrame,
    threshold: float,
    widths: dict[str, float] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Say how wide each 95 % interval of a test is, and how many patients the wanted width takes.

    Published formulas count independent films; see `films_for_auc`, `films_for_rate` and
    `films_for_calibration`. Films of a patient resemble each other, so their number is multiplied
    by the design effect of the films at hand. (Kish, Survey Sampling, 1965; of an AUC Obuchowski,
    Biometrics 1997.) New patients are taken to bring films in the same way.

    Parameters
    ----------
    predictions : DataFrame with target (0 or 1), probability (0..1) and patient, of a test set
    threshold : films at or above it are called positive
    widths : wanted width of the interval by metric, of those in WIDTHS; others as there

    Returns
    -------
    DataFrame, one row per metric
        value, low, high, width (high less low), wanted (width), design_effect (at least 1: films
        here per independent film); films, with_finding, without, patients: how many the wanted
        width takes, at the prevalence of these films. NaN where a metric is undefined, or an AUC 1.

    Raises
    ------
    ValueError
        Films of one class, or a width that is not above 0 or of no such metric.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> scores = pd.read_csv("medical/models/cardiomegaly/predictions.csv")
    >>> plan = cxr.plan_test(scores[scores["split"] == "test"], 0.527, {"sensitivity": 0.2})
    >>> plan.loc["sensitivity", ["width", "wanted", "patients"]].round(2).tolist()
    [0.35, 0.2, 97.0]
    """
    wanted = WIDTHS | (widths or {})
    for name, width in wanted.items():
        if name not in WIDTHS or not width > 0:
            raise ValueError(
                f"width {width} of '{name}': give a width above 0 of {', '.join(WIDTHS)}"
            )
    target, probability, patients, weights = resampled(predictions, seed)
    if len(set(target)) < 2:
        raise ValueError("a test is planned from films of both classes: give more films")
    measured = measure_films(predictions, threshold, weights)
    measured |= measure_calibration(target, probability, weights)
    films, people, share = measured["films"], measured["patients"], target.mean()
    plan = pd.DataFrame({name: measured[name] for name in wanted}).T.astype(float)
    value, needed = plan["value"], {}
    for name, width in wanted.items():
        if name == "auc":
            needed[name] = films_for_auc(value[name], share, width) or np.nan
        elif name in ("sensitivity", "specificity"):
            part = share if name == "sensitivity" else 1 - share
            near = (value[name] * part * films + 2) / (part * films + 4)  # away from 0 and 1
            needed[name] = films_for_rate(near, part, width)
        else:
            needed[name] = films_for_calibration(probability, name, width)
    pulls = _influence(target, probability, threshold)
    effect = (pulls.groupby(patients).sum() ** 2).sum() / (pulls**2).sum()
    effect = effect.clip(lower=1).fillna(1)  # films that do not pull at all give none
    total = np.ceil((pd.Series(needed) * effect).where(value.notna()))
    return plan.assign(
        width=plan["high"] - plan["low"],
        wanted=pd.Series(wanted),
        design_effect=effect,
        films=total,
        with_finding=np.ceil(total * share),
        without=np.ceil(total * (1 - share)),
        patients=np.ceil(total * people / films),
    ).rename_axis("metric")


def _influence(target: np.ndarray, probability: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return how far each film pulls each metric, to the first order and up to a factor."""
    ill, called = target == 1, probability >= threshold
    score = logit(np.clip(probability, 1e-6, 1 - 1e-6))
    place, ranks = np.empty(len(target)), rankdata(probability)
    for side in (ill, ~ill):  # the share of the other class that lies below
        place[side] = (ranks[side] - rankdata(probability[side])) / (~side).sum()

    def within(side, values):
        return np.where(side, values - values[side].mean(), 0)

    left, every = target - probability, np.ones_like(ill)
    middle = np.average(score, weights=probability * (1 - probability) + 1e-12)
    return pd.DataFrame(
        {
            "auc": within(ill, place) / ill.sum() - within(~ill, place) / (~ill).sum(),
            "sensitivity": within(ill, called),
            "specificity": within(~ill, ~called),
            "calibration_slope": within(every, left * (score - middle)),
            "calibration_intercept": within(every, left),
            "observed_to_expected": within(every, left),
        }
    )
