"""Fit a head on frozen features, with patient-grouped cross-validation."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import scipy.linalg
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils.class_weight import compute_sample_weight
from tqdm.auto import tqdm

from cxrlib.metrics.calibration import fit_platt
from cxrlib.model._keras import keras

FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2)  # C, the inverse of the L2 penalty
EPSILON = 1e-3  # added to each feature's variance, so that a dead feature stays near zero


class TrainError(ValueError):
    """Training that cannot start, with what is missing."""


@dataclass(frozen=True)
class Fitted:
    """A model fitted on training patients, with what is known of it without the test patients.

    Attributes
    ----------
    model : keras.Model
        From features (a head) or from films (a fine-tuned network) to the logit, (n, 1).
    stage : 'head' or 'finetuned'
    probability : (films,) in 0..1
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


def patient_folds(films: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Return the fold 0..4 of each film: all films of a patient in one, classes in proportion.

    Raises
    ------
    TrainError
        Fewer than five patients with the finding, or without.
    """
    for side, name in ((1, "with the finding"), (0, "without")):
        patients = films.loc[films["target"] == side, "patient"].nunique()
        if patients < FOLDS:
            raise TrainError(
                f"{patients} training patients {name}: {FOLDS}-fold cross-validation needs at "
                f"least {FOLDS}. Add films, or choose another finding."
            )
    fold = np.empty(len(films), int)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(splitter.split(films, films.target, films.patient)):
        fold[held_out] = number
    return fold


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

    A linear head is an L2-regularised logistic regression; cross-validation chooses the penalty,
    and an outer cross-validation repeats that choice without the held-out patients (nested, Varma
    and Simon, BMC Bioinformatics 2006). A dense head has a hidden layer and dropout, is trained by
    Adam (Kingma and Ba, ICLR 2015), and stops after a fixed number of epochs. Both classes weigh
    the same in a fit; a logistic calibration on held-out logits (Platt, 1999) then brings the
    probabilities to the prevalence of the training films.

    Parameters
    ----------
    features : (films, grid, grid, channels)
    films : DataFrame with target, patient and split; training patients only
    kind : 'linear' or 'dense'
    learning_rate, epochs, units : of a dense head; a linear one has none
    seed : of the folds and of a dense head's start

    Raises
    ------
    TrainError
        Too few patients, a film of the test patients, or another kind.
    """
    refuse_test_films(films)
    if kind not in ("linear", "dense"):
        raise TrainError(f"head '{kind}': give 'linear' or 'dense'")
    target = films["target"].to_numpy()
    fold = patient_folds(films, seed)
    facts: dict = {"kind": kind, "held_out": f"{FOLDS}-fold cross-validation, grouped by patient"}
    if kind == "dense":
        facts |= {"units": units, "learning_rate": learning_rate, "epochs": epochs, "seed": seed}
    logit = np.empty(len(features))
    for number in tqdm(range(FOLDS), desc="folds", unit="fold"):
        rest = fold != number
        head, _ = fit_uncalibrated(features[rest], target[rest], fold[rest], facts)
        logit[~rest] = head(features[~rest].astype(np.float32)).numpy()[:, 0]
    head, history = fit_uncalibrated(features, target, fold, facts)
    if kind == "linear":
        facts["strength"] = float(history.groupby("strength")["auc"].mean().idxmax())
    return calibrate(Fitted(head, "head", logit, fold, history, facts), target)


def fit_uncalibrated(
    features: np.ndarray, target: np.ndarray, fold: np.ndarray, facts: dict
) -> tuple[keras.Model, pd.DataFrame]:
    """Fit one head of the kind in `facts`, as `fit_head` does; return it and its history."""
    flat = features.reshape(len(features), -1).astype(np.float32)
    rows, back, mean, scale = span_of_films(flat)
    if facts["kind"] == "linear":
        layers, history = _fit_linear(rows, target, fold)
    else:
        layers, history = _fit_dense(rows, target, facts)
    (kernel, bias), *rest = layers
    return _head(features.shape[1:], mean, scale, [(back @ kernel, bias), *rest]), history


def span_of_films(
    flat: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Standardise features and express them in the space that the films span.

    n films span n dimensions at most. In orthonormal coordinates of that space an L2 penalty is the
    same as on all features, and a fit costs a fraction.

    Parameters
    ----------
    flat : float32 array, (films, features)

    Returns
    -------
    rows : (films, rank), the standardised films in those coordinates
    back : (features, rank); `back @ coef` are coefficients of standardised features
    mean, scale : (features,), of the standardisation
    """
    mean = flat.mean(axis=0)
    scale = np.sqrt(flat.var(axis=0) + EPSILON)
    standard = (flat - mean) / scale
    variance, axes = scipy.linalg.eigh((standard @ standard.T).astype(np.float64))
    kept = variance > variance[-1] * 1e-7
    rows = axes[:, kept] * np.sqrt(variance[kept])
    back = standard.T @ (axes[:, kept] / np.sqrt(variance[kept])).astype(np.float32)
    return rows, back, mean, scale


def calibrate(fitted: Fitted, target: np.ndarray) -> Fitted:
    """Fold a logistic calibration into the last layer; `fitted.probability` holds logits so far."""
    known = ~np.isnan(fitted.probability)
    logit, ill = fitted.probability[known], target[known]
    slope, intercept = fit_platt(logit, ill)
    if slope <= 0:
        raise TrainError(
            "the scores of held-out patients rank no better than chance, so there is nothing to "
            "calibrate. Check labels and images, or add films."
        )
    head = fitted.model if fitted.stage == "head" else fitted.model.get_layer("head")
    kernel, bias = head.get_layer("logit").get_weights()
    head.get_layer("logit").set_weights([slope * kernel, slope * bias + intercept])
    calibration = {"method": "Platt", "slope": slope, "intercept": intercept}
    return replace(
        fitted,
        probability=expit(slope * fitted.probability + intercept),
        facts=fitted.facts | {"calibration": calibration},
    )


def refuse_test_films(films: pd.DataFrame) -> None:
    """Raise TrainError where a film of a test patient is among `films`."""
    test = films.loc[films["split"] != "train", "filename"]
    if len(test):
        raise TrainError(
            f"{len(test)} films of test patients ({test.iloc[0]} the first) were given to "
            "training. Pass films[films.split == 'train']."
        )


def _fit_linear(rows, target, fold):
    """Choose the penalty over `fold`, then fit on all rows."""

    def logistic(strength):
        # Newton's method with conjugate gradients: the fastest of scikit-learn's on such rows.
        return LogisticRegression(C=strength, class_weight="balanced", solver="newton-cg")

    history, scores = [], {strength: np.empty(len(rows)) for strength in STRENGTHS}
    for strength, score in scores.items():
        for number in np.unique(fold):
            held_out = fold == number
            model = logistic(strength).fit(rows[~held_out], target[~held_out])
            score[held_out] = model.decision_function(rows[held_out])
            auc = roc_auc_score(target[held_out], score[held_out])
            history.append((strength, int(number), auc))
    history = pd.DataFrame(history, columns=["strength", "fold", "auc"])
    best = history.groupby("strength")["auc"].mean().idxmax()
    model = logistic(best).fit(rows, target)
    # Logits grow with C. Folds that chose another one are pooled for calibration, and the final
    # head may differ from them all: bring each to a held-out mean of 0 and deviation of 1.
    mean, scale = scores[best].mean(), scores[best].std()
    return [(model.coef_.T / scale, (model.intercept_ - mean) / scale)], history


def _fit_dense(rows, target, facts):
    unit = np.sqrt((rows**2).mean())  # Adam's steps suit inputs of about one
    keras.utils.set_random_seed(facts["seed"])
    model = keras.Sequential(
        [
            keras.Input(rows.shape[1:]),
            keras.layers.Dense(facts["units"], "relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile(
        keras.optimizers.Adam(facts["learning_rate"]),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )
    log = model.fit(
        rows / unit,
        target[:, None],
        epochs=facts["epochs"],
        sample_weight=compute_sample_weight("balanced", target),
        verbose=0,
    )
    history = pd.DataFrame({"epoch": np.arange(facts["epochs"]) + 1, "loss": log.history["loss"]})
    kernel, bias, *last = model.get_weights()
    return [(kernel / unit, bias), tuple(last)], history


def _head(shape, mean, scale, layers) -> keras.Model:
    """Return standardisation and dense `layers` of (kernel, bias) as one model, up to the logit."""
    # A frozen batch normalisation is a standardisation that every export format knows.
    standardise = keras.layers.BatchNormalization(
        epsilon=EPSILON, center=False, scale=False, trainable=False, name="standardise"
    )
    hidden = [keras.layers.Dense(kernel.shape[1], "relu") for kernel, _ in layers[:-1]]
    dense = [*hidden, keras.layers.Dense(1, name="logit")]
    model = keras.Sequential(
        [keras.Input(shape, name="features"), keras.layers.Flatten(), standardise, *dense],
        name="head",
    )
    standardise.set_weights([mean, scale**2 - EPSILON])
    for layer, weights in zip(dense, layers, strict=True):
        layer.set_weights(weights)
    return model
