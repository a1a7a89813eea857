"""Folds of training patients for cross-validation, and a guard against test patients."""

import numpy as np
import pandas as pd
from sklearn.model_selection import BaseCrossValidator, StratifiedGroupKFold

FOLDS = 5


class TrainError(ValueError):
    """Training that cannot start, with what is missing."""


def patient_folds(films: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Return the fold 0..4 of each film: all films of a patient in one, classes in proportion."""
    for side, name in ((1, "with the finding"), (0, "without")):
        patients = films.loc[films["target"] == side, "patient"].nunique()
        if patients < FOLDS:
            raise TrainError(
                f"{patients} training patients {name}: {FOLDS}-fold cross-validation needs at "
                f"least {FOLDS}. Add films, or choose another finding."
            )
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return number_folds(splitter, films["target"], films["patient"])


def number_folds(splitter: BaseCrossValidator, target, groups=None) -> np.ndarray:
    """Return the number of the fold, (n,), in which scikit-learn's splitter holds out each film."""
    fold = np.empty(len(target), int)
    for number, (_, held_out) in enumerate(splitter.split(target, target, groups)):
        fold[held_out] = number
    return fold


def refuse_test_films(films: pd.DataFrame) -> None:
    """Raise TrainError where a film of a test patient is among `films`, or they are no table."""
    if not isinstance(films, pd.DataFrame):
        raise TrainError(
            f"films is of type {type(films).__name__}: give the table of choose_films, one row per "
            "film; features come before it"
        )
    test = films.loc[films["split"] != "train", "filename"]
    if len(test):
        raise TrainError(
            f"{len(test)} films of test patients ({test.iloc[0]} the first) were given to "
            "training. Pass films[films.split == 'train']."
        )
