"""Fit a head on frozen features, with patient-grouped cross-validation."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.utils.class_weight import compute_sample_weight
from tqdm.auto import tqdm

from cxrlib.metrics.calibration import fit_platt
from cxrlib.model._keras import keras
from cxrlib.model.folds import FOLDS, TrainError, patient_folds, refuse_test_films
from cxrlib.model.logistic import choose_strength, fit_nested
from cxrlib.model.span import EPSILON, MANY, span_of_films
from cxrlib.model.store import Rows

BLOCK = 1000  # films that a head scores at once
STRENGTHS = (1e-4, 1e-3, 1e-2)  # C, the inverse of the L2 penalty


@dataclass(frozen=True)
class Fitted:
    """A model fitted on training patients, with what is known of it without the test patients.

    Attributes
    ----------
    model : keras.Model, from features or films to the logit, (n, 1)
    stage : 'head', on features, or 'finetuned', a network on films
    probability : (films,) in 0..1, calibrated
        For each training film by a model that did not see its patient; NaN where there is none.
    fold : (films,) the fold of each film's patient
    history : DataFrame
        Of a linear head: strength, fold, auc (of the fold). Of a dense one: epoch, loss. Of
        fine-tuning: epoch, loss, auc, val_loss, val_auc.
    facts : dict, what a reader has to know to fit it again
    """

    model: keras.Model
    stage: str
    probability: np.ndarray
    fold: np.ndarray
    history: pd.DataFrame
    facts: dict = field(default_factory=dict)


def fit_head(
    features: np.ndarray,
    films: pd.DataFrame,
    kind: str = "linear",
    learning_rate: float = 1e-3,
    epochs: int = 20,
    units: int = 64,
    seed: int = 0,
) -> Fitted:
    """Fit a head on standardised features, and score each film by one that never saw its patient.

    A linear head is an L2-regularised logistic regression. Cross-validation chooses the penalty,
    and an outer cross-validation repeats that choice without the held-out patients (nested, Varma
    and Simon, BMC Bioinformatics 2006). A dense head has a hidden layer and dropout. It is trained
    by Adam (Kingma and Ba, ICLR 2015) for a fixed number of epochs. Both classes weigh the same in
    a fit. A logistic calibration on held-out logits (Platt, 1999) then brings the probabilities to
    the prevalence of the training films.

    Of more than 2,000 films, all linear heads are fitted together from blocks of films. Memory and
    time then grow with the films alone, and each head standardises by the films that it is fitted
    to. A dense head then sees the 2,000 leading directions of as many films. A fit that is
    interrupted (Ctrl-C) leaves nothing behind: start it again on the same features.

    Parameters
    ----------
    features : (films, grid, grid, channels), or (films, numbers); an array or a memory map of any
        float type, which is read in blocks
    films : DataFrame with target, patient and split; training patients only
    kind : 'linear' or 'dense'
    learning_rate, epochs, units : of a dense head; a linear one has none
    seed : of the folds and of a dense head's start

    Raises
    ------
    TrainError
        Too few patients, a film of the test patients, or another kind.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> import numpy as np
    >>> films = cxr.choose_films(cxr.read_study("medical"), "Cardiomegaly")
    >>> train = films[films["split"] == "train"]
    >>> noise = np.random.default_rng(0).normal(size=(len(train), 2, 2, 3))
    >>> fitted = cxr.fit_head(noise + train["target"].to_numpy()[:, None, None, None], train)
    >>> fitted.probability.shape == (len(train),)
    True
    """
    refuse_test_films(films)
    if kind not in ("linear", "dense"):
        raise TrainError(f"head '{kind}': give 'linear' or 'dense'")
    target = films["target"].to_numpy()
    fold = patient_folds(films, seed)
    facts: dict = {"kind": kind, "held_out": f"{FOLDS}-fold cross-validation, grouped by patient"}
    if kind == "dense":
        facts |= {"units": units, "learning_rate": learning_rate, "epochs": epochs, "seed": seed}
    if kind == "linear" and len(features) > MANY:
        weights, logit, history = fit_nested(features, target, fold, STRENGTHS, nested=True)
        head = _build(features.shape[1:], facts, weights)
    else:
        logit = np.empty(len(features))
        for number in tqdm(np.unique(fold), desc="folds", unit="fold"):
            rest, out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            head, _ = fit_uncalibrated(Rows(features, rest), target[rest], fold[rest], facts)
            logit[out] = score_blocks(head, Rows(features, out))
        head, history = fit_uncalibrated(features, target, fold, facts)
    if kind == "linear":
        facts["strength"] = float(history.groupby("strength")["auc"].mean().idxmax())
    probability, facts["calibration"] = calibrate(head, logit, target)
    return Fitted(head, "head", probability, fold, history, facts)


def fit_uncalibrated(
    features: np.ndarray | Rows, target: np.ndarray, fold: np.ndarray, facts: dict
) -> tuple[keras.Model, pd.DataFrame]:
    """Fit one head of the kind in `facts`, as `fit_head` does; return it and its history."""
    if facts["kind"] == "linear" and len(features) > MANY:
        weights, _, history = fit_nested(features, target, fold, STRENGTHS, nested=False)
    else:
        rows, back, mean, scale = span_of_films(features)
        fit = _fit_linear if facts["kind"] == "linear" else _fit_dense
        (kernel, *more), history = fit(rows, target, fold, facts)
        weights = [mean, scale**2 - EPSILON, back @ kernel, *more]
    return _build(features.shape[1:], facts, weights), history


def _build(shape: tuple[int, ...], facts: dict, weights: list[np.ndarray]) -> keras.Model:
    # A frozen batch normalisation is a standardisation that every export format knows.
    standardise = keras.layers.BatchNormalization(
        epsilon=EPSILON, center=False, scale=False, trainable=False, name="standardise"
    )
    hidden = [keras.layers.Dense(facts["units"], "relu")] if facts["kind"] == "dense" else []
    layers = [keras.layers.Flatten(), standardise, *hidden, keras.layers.Dense(1, name="logit")]
    head = keras.Sequential([keras.Input(shape, name="features"), *layers], name="head")
    head.set_weights(weights)
    return head


def calibrate(model: keras.Model, logit: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, dict]:
    """Fold a logistic calibration on held-out logits, (films,), into the last layer of `model`.

    Returns probabilities, (films,), NaN where logits are, and the facts of the calibration.
    """
    known = ~np.isnan(logit)
    slope, intercept = fit_platt(logit[known], target[known])
    if slope <= 0:
        raise TrainError(
            "the scores of held-out patients rank no better than chance, so there is nothing to "
            "calibrate. Check labels and images, or add films."
        )
    scale_logit(model, slope, intercept)
    facts = {"method": "Platt", "slope": slope, "intercept": intercept}
    return expit(slope * logit + intercept), facts


def score_blocks(head: keras.Model, features) -> np.ndarray:
    """Return the logits, (films,), that a head gives to features in memory or on disk."""
    blocks = (features[i : i + BLOCK] for i in range(0, len(features), BLOCK))
    return np.concatenate([head(x.astype(np.float32)).numpy()[:, 0] for x in blocks])


def scale_logit(model: keras.Model, slope: float, intercept: float) -> None:
    """Make the last layer of a head, or of a fine-tuned network, give slope * logit + intercept."""
    head = model if model.name == "head" else model.get_layer("head")
    kernel, bias = head.get_layer("logit").get_weights()
    head.get_layer("logit").set_weights([slope * kernel, slope * bias + intercept])


def _fit_linear(rows, target, fold, facts):
    """Choose the penalty over `fold`, then fit on all rows; return [kernel, bias] and history."""
    # Newton's method with conjugate gradients: the fastest of scikit-learn's on such rows.
    balanced = {"class_weight": "balanced", "solver": "newton-cg"}
    models = [LogisticRegression(C=strength, **balanced) for strength in STRENGTHS]
    way = {"cv": PredefinedSplit(fold), "method": "decision_function"}
    scores = np.column_stack([cross_val_predict(model, rows, target, **way) for model in models])
    best, mean, scale, history = choose_strength(scores, target, fold, STRENGTHS)
    model = models[best].fit(rows, target)
    return [model.coef_.T / scale, (model.intercept_ - mean) / scale], history


def _fit_dense(rows, target, fold, facts):
    """Train a hidden layer and a last one; return [kernel, bias, kernel, bias] and history."""
    unit = np.sqrt((rows**2).mean())  # Adam's steps suit inputs of about one
    keras.utils.set_random_seed(facts["seed"])
    hidden = keras.layers.Dense(facts["units"], "relu")
    layers = [hidden, keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input(rows.shape[1:]), *layers])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(facts["learning_rate"]), loss)
    given = {"sample_weight": compute_sample_weight("balanced", target), "epochs": facts["epochs"]}
    losses = model.fit(rows / unit, target[:, None], **given, verbose=0).history["loss"]
    history = pd.DataFrame({"epoch": np.arange(len(losses)) + 1, "loss": losses})
    kernel, *more = model.get_weights()
    return [kernel / unit, *more], history
