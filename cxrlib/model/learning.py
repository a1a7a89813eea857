"""What more training patients would bring: learning curves from features that are there already."""

import numpy as np
import pandas as pd
from scipy.special import expit
from tqdm.auto import tqdm

from cxrlib.metrics.bootstrap import auc, mean, resample_patients
from cxrlib.metrics.calibration import fit_platt
from cxrlib.model.folds import FOLDS, TrainError, patient_folds, refuse_test_films
from cxrlib.model.logistic import score_by
from cxrlib.model.span import span_of_films

LEAST = 20  # training patients of a class
SIZES = 8  # points of a curve
RESAMPLES = 400  # a curve is fitted to each
DECAYS = np.geomspace(0.1, 2, 25)  # exponents that a power law may have


def learning_curve(
    features: np.ndarray,
    films: pd.DataFrame,
    strength: float = 1e-3,
    repeats: int = 10,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure AUC and Brier score over the number of training patients, and what twice would bring.

    In each repeat the patients fall into folds as in `fit_head`. Nested subsets of the patients of
    four folds, classes in proportion, each fit a logistic regression. It scores the fifth fold,
    calibrated by held-out scores of the four. A power law a - b n^-c goes through the means, larger
    subsets weighing more (Figueroa et al., BMC Medical Informatics and Decision Making 2012;
    Viering and Loog, IEEE TPAMI 2023). Beyond 2,000 films, heads see the leading 2,000 directions
    of the features.

    Parameters
    ----------
    features, films : (films, grid, grid, channels) of training patients, as given to `fit_head`
    strength : C of the logistic regression, such as a run's `fit.strength` (docs/run.md)
    repeats : partitions into folds and orders of patients

    Returns
    -------
    points : DataFrame, one row per metric ('AUC', 'Brier score') and subset
        metric, patients (mean number of training patients), value, low, high
    curve : DataFrame, one row per metric and number of patients
        metric, patients (up to twice those there are), value, low, high (of the power law), kind:
        'fitted', 'extrapolated', and three more rows: 'now' (all patients train, as in a run),
        'twice' and 'gain' (twice less now). 95 % intervals over patients and repeats.

    Raises
    ------
    TrainError
        A film of the test patients, or fewer than 20 patients with the finding or without.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> import numpy as np
    >>> films = cxr.choose_films(cxr.read_study("medical"), "Cardiomegaly")
    >>> train = films[films["split"] == "train"]
    >>> noise = np.random.default_rng(0).normal(size=(len(train), 2, 2, 3))
    >>> features = noise + 0.3 * train["target"].to_numpy()[:, None, None, None]
    >>> points, curve = cxr.learning_curve(features, train, repeats=2)
    >>> curve[curve["kind"] == "twice"]["patients"].tolist()
    [190, 190]
    """
    refuse_test_films(films)
    target, patient = films["target"].to_numpy(), films["patient"].to_numpy()
    sides = pd.Series(target).groupby(patient).max()  # of each patient
    counts = {"without": (sides == 0).sum(), "with the finding": (sides == 1).sum()}
    for name, count in counts.items():
        if count < LEAST:
            raise TrainError(
                f"{count} training patients {name}: a learning curve needs at least {LEAST}. Add "
                "films, or choose another finding."
            )
    rows = span_of_films(features)[0]
    # Shares of the patients of four folds; the smallest holds eight patients of the rarer class.
    sizes = np.geomspace(LEAST / 2 / min(counts.values()), 1, SIZES)
    weights = resample_patients(patient, RESAMPLES, seed)
    measured = []
    for repeat in tqdm(range(seed, seed + repeats), desc="repeats", unit="repeat"):
        fold = patient_folds(films, repeat)
        logit = _score_held_out(rows, target, patient, fold, sizes, strength, repeat)
        measured.append([_measure(target, score, fold, weights) for score in logit])
    values = np.array(measured).transpose(2, 0, 3, 1)  # metric, repeat, resample, size
    rng, draws = np.random.default_rng(seed), np.arange(RESAMPLES + 1)[:, None]
    drawn = rng.integers(repeats, size=(RESAMPLES + 1, repeats))
    trained = sizes * len(sides) * (FOLDS - 1) / FOLDS
    ahead = np.unique(np.geomspace(trained[0], 2 * len(sides), 40).round())
    kinds = [*np.where(ahead <= trained[-1], "fitted", "extrapolated"), "now", "twice", "gain"]
    ahead = np.append(ahead, np.array([1, 2]) * len(sides))
    points, curves = [], []
    for metric, each in zip(("AUC", "Brier score"), values, strict=True):
        means = each[drawn, draws].mean(axis=1)
        means[0] = each[:, 0].mean(axis=0)
        points.append(_tabulate(metric, trained, means))
        reached = fit_power_law(trained, means, -1 if metric == "AUC" else 1)(ahead)
        reached = np.column_stack([reached, reached[:, -1] - reached[:, -2]])
        curves.append(_tabulate(metric, np.append(ahead, ahead[-1]), reached).assign(kind=kinds))
    return pd.concat(points, ignore_index=True), pd.concat(curves, ignore_index=True)


def fit_power_law(sizes: np.ndarray, values: np.ndarray, sign: int):
    """Return the function n -> a + sign b n^-c, b >= 0, that is nearest to each row of `values`.

    `values` are (rows, sizes), in 0..1, and so is a; the function takes (n,) and returns (rows, n).
    For each c of DECAYS the best a and b are a weighted linear regression; the best c is kept.
    """
    weight, x = sizes / sizes.sum(), sign * sizes ** -DECAYS[:, None]
    middle = x @ weight
    around = x - middle[:, None]
    slope = np.maximum((values * weight) @ around.T / (around**2 @ weight), 0)  # (rows, decays)
    floor = (values @ weight)[:, None] - slope * middle
    held = np.clip(floor, 0, 1)
    through = ((values * weight) @ x.T - held * middle) / (x**2 @ weight)
    slope = np.where(held == floor, slope, np.maximum(through, 0))
    error = (values[:, None] - held[..., None] - slope[..., None] * x) ** 2 @ weight
    best = error.argmin(axis=1)[:, None]
    a, b = (np.take_along_axis(part, best, axis=1) for part in (held, slope))
    return lambda n: a + sign * b * n ** -DECAYS[best]


def _score_held_out(rows, target, patient, fold, sizes, strength, seed) -> np.ndarray:
    """Return the logit, (sizes, films), of each film, by subsets of the patients of other folds."""
    table = pd.DataFrame({"patient": patient, "target": target, "fold": fold})
    people = table.groupby("patient").agg(target=("target", "max"), fold=("fold", "first"))
    people["draw"] = np.random.default_rng(seed).random(len(people))
    subsets = []
    for number in range(FOLDS):
        # Ranks within a class, so that each subset holds both in proportion.
        rest = people[people["fold"] != number].groupby("target")["draw"].rank(pct=True)
        place = rest.reindex(patient).to_numpy()
        subsets += [place <= share + 1e-9 for share in sizes]
    without = fold * len(sizes) + np.arange(len(sizes))[:, None]  # the fits without a film's fold
    return score_by(rows, target, subsets, without, strength)


def _measure(target, score, fold, weights) -> list[np.ndarray]:
    """Return AUC within folds and Brier score of each resample."""
    probability = np.empty(len(score))
    for number in range(FOLDS):
        rest = fold != number
        slope, intercept = fit_platt(score[rest], target[rest])
        probability[~rest] = expit(slope * score[~rest] + intercept)
    return [auc(target, score, weights, strata=fold), mean((probability - target) ** 2, weights)]


def _tabulate(metric: str, patients, values: np.ndarray) -> pd.DataFrame:
    low, high = np.percentile(values[1:], [2.5, 97.5], axis=0)
    columns = {"metric": metric, "patients": np.rint(patients).astype(int)}
    return pd.DataFrame(columns | {"value": values[0], "low": low, "high": high})
