"""A run at another place: its scores of a second study."""

import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.images import short_digest
from cxrlib.data.patients import plain_id
from cxrlib.data.study import Study, choose_films
from cxrlib.model.facts import COLUMNS, RunError
from cxrlib.model.predict import score_films
from cxrlib.model.run import Run

TRAINING = "training"  # status of a film that the run has seen, or whose patient it has


def score_study(run: Run, study: Study) -> pd.DataFrame:
    """Score all films of the run's question in any labelled study, such as another hospital's.

    Films of patients whom training saw would flatter the run. They are told by the patient's id
    (case, blanks and leading zeros aside) and by the film's digest. They get no score, and a
    warning counts them. Films that the check refuses, or that cannot be read, keep their row.

    Returns
    -------
    DataFrame, one row per film
        The columns of `choose_films` (target is 0 or 1), and study (name of its folder), digest,
        status ('ok', 'refused', 'unreadable' or 'training'), probability (0..1, NaN unless ok),
        decision ('positive' from the run's threshold on, 'negative' or '') and reason.

    Raises
    ------
    StudyError
        The study has no film with the finding, or none to hold against it.
    RunError
        Training has seen all patients with the finding, or all without it.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> from dataclasses import replace
    >>> run, study = cxr.load_run("medical/models/cardiomegaly"), cxr.read_study("medical")
    >>> few = replace(study, films=study.films[::8])  # of its own study: the test patients
    >>> cxr.score_study(run, few)["status"].value_counts().to_dict()
    {'training': 19, 'ok': 10}
    """
    films = choose_films(study, run.finding, run.against)
    known = {"study": study.folder.resolve().name, "digest": films["path"].map(_digest)}
    films = films.assign(**known, status=TRAINING, reason="", probability=np.nan, decision="")
    same = films["digest"].isin(run.trained_on)
    seen = films["patient"].map(plain_id).isin(_training_of(run)) | same
    if films.loc[~seen, "target"].nunique() < 2:
        raise RunError(
            f"{study.folder}: training of {run.folder} has seen {seen.sum()} of {len(films)} films "
            "or their patients, and the others are of one label at the most. Give a study of other "
            "patients. Where an id means other people there, write it with a prefix."
        )
    if seen.any():
        text = f"{study.folder}: {seen.sum()} films of {films.loc[seen, 'patient'].nunique()} "
        text += "patients are not scored, since training has seen the patients or the films"
        warnings.warn(text, stacklevel=2)
    films.loc[seen, "reason"] = (
        same.map({True: "the film", False: "its patient"}) + " was trained on"
    )
    scores = score_films(replace(run, engine=None), films.loc[~seen, "path"])
    films.loc[~seen, COLUMNS[1:]] = scores[COLUMNS[1:]].to_numpy()  # all but the path
    return films.astype({"probability": float})


def _digest(path: Path) -> str:
    with suppress(OSError, ValueError):  # scoring says what is wrong with it
        return short_digest(path)
    return ""


def _training_of(run: Run) -> set[str]:
    """Return the patients that training has seen."""
    patients = {*run.split("train")["patient"], *run.unscored["patient"]}
    trained = run.facts["split"]["patients"]["train"]
    if isinstance(trained, list):  # format 2
        patients |= {*trained}
    elif len(patients) < trained:
        text = f"{run.folder} names {len(patients)} of its {trained} training patients only, so "
        text += "films of the others cannot be told. Train again to have them all named."
        warnings.warn(text, stacklevel=3)
    return set(map(plain_id, patients))
