"""Scores in memory: films are read, checked and given a probability, batch by batch."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cxrlib.data.files import walk_films
from cxrlib.data.frontal import find_reason_in_file, find_reasons
from cxrlib.data.images import ImageError, read_image
from cxrlib.data.study import Study, choose_films, digest_films
from cxrlib.metrics.report import evaluate
from cxrlib.model.backbone import BATCH, read_ahead
from cxrlib.model.run import Run, RunError, record_test

MISSING = "the file does not exist"
COLUMNS = ["path", "status", "probability", "decision", "reason"]


def score_films(
    run: Run, paths: Iterable[str | Path | BinaryIO], check: bool = True
) -> pd.DataFrame:
    """Score films in memory; one that cannot be read or is refused gets a row that says why.

    For more films than memory holds, `cxrlib.scoring.write_scores` writes the same table to a file.

    Parameters
    ----------
    run : Run
    paths : image files, folders, or binary file objects with a `name`
    check : refuse what is not an upright frontal chest radiograph, see `cxrlib.data.frontal`

    Returns
    -------
    DataFrame, one row per film
        path, status ('ok', 'refused' or 'unreadable'), probability of the finding (0..1, at the
        prevalence of the training films; NaN unless ok), decision ('positive', 'negative' or ''),
        reason.

    Raises
    ------
    FileNotFoundError
        A folder without an image file, or no path at all. A file that is missing gets a row.
    """
    films, rows = list(walk_films(paths)), []
    with tqdm(total=len(films), desc="scores", unit="film", disable=len(films) == 1) as progress:
        for batch in score_batches(run, split_films(films), check):
            rows += batch
            progress.update(len(batch))
    return pd.DataFrame(rows, columns=COLUMNS)


def score_test(run: Run, study: Study) -> Run:
    """Score the test patients of the run's question once, and record the result in the run.

    Called again on the same films it returns what is recorded. No film is refused here: who
    labelled it says that it is one, and leaving out odd films would flatter the classifier.

    Raises
    ------
    RunError
        The study is not the one the run was trained on, has a test patient in training, a test
        film that cannot be read, or no test film with the finding or without.
    """
    films = choose_run_films(run, study)
    if "test" in run.facts["metrics"]:
        return run
    test = films[films["split"] == "test"].reset_index(drop=True)
    crossed = set(test["patient"]) & set(run.facts["split"]["patients"]["train"])
    if crossed:
        raise RunError(f"patient {min(crossed)} stands in training and in test. Train again.")
    if test["target"].nunique() < 2:
        raise RunError(
            f"{study.folder}: {test['patient'].nunique()} test patients have "
            f"{test['target'].sum()} films with the finding and {(1 - test['target']).sum()} "
            "without; a measurement needs both. Add patients."
        )
    scores = score_films(replace(run, engine=None), test["path"], check=False)
    unread = scores[scores["status"] != "ok"]
    if len(unread):
        raise RunError(
            f"test film {unread['path'].iloc[0]}: {unread['reason'].iloc[0]}. Replace the file, or "
            "delete its rows from labels.csv, and train again."
        )
    test["probability"] = scores["probability"]
    return record_test(run, test, evaluate(test, run.threshold, run.facts["seed"]))


def choose_run_films(run: Run, study: Study) -> pd.DataFrame:
    """Return all films of a run's question, as `choose_films` gave them to it.

    Raises
    ------
    RunError
        The study is not the one the run was trained on.
    """
    films = choose_films(study, run.finding, run.against)
    if digest_films(films) != run.facts["data"]["digest"]:
        raise RunError(
            f"{study.folder} does not hold the films that {run.folder} was made from. Give the "
            "study it was trained on, or train a new run on this one."
        )
    return films


def split_films(films: Iterable) -> Iterator[list]:
    """Yield batches of films; the last may be shorter."""
    films = iter(films)
    while batch := list(islice(films, BATCH)):
        yield batch


def score_batches(run: Run, batches: Iterable[list], check: bool) -> Iterator[list[tuple]]:
    """Yield the rows of each batch, ordered as COLUMNS, reading the next one meanwhile.

    Parameters
    ----------
    run : Run
    batches : lists of paths, or of binary file objects with a `name`
    check : refuse what is no frontal chest film, see `cxrlib.data.frontal`
    """
    for batch in read_ahead(partial(_read_films, check), batches, run.facts["image_size"]):
        yield _score_batch(run, batch)


def _read_films(check: bool, films: list, size: int, pool: Executor) -> list[tuple]:
    """Return (path, pixels), or (path, (status, reason)) where a film gets no score."""

    def read(path):
        try:
            reason = find_reason_in_file(path) if check else ""
            return path, ("refused", reason) if reason else read_image(path, size)
        except FileNotFoundError:
            return path, ("unreadable", MISSING)
        except ImageError as error:
            return path, ("unreadable", error.reason)

    batch = list(pool.map(read, films))
    return _refuse(batch) if check else batch


def _refuse(batch: list[tuple]) -> list[tuple]:
    """Put a reason in the place of pixels that show no frontal chest film."""
    read = {n: pixels for n, (_, pixels) in enumerate(batch) if not isinstance(pixels, tuple)}
    if read:
        reasons = find_reasons(np.stack(list(read.values())))["reason"]
        for n, reason in zip(read, reasons, strict=True):
            if reason:
                batch[n] = batch[n][0], ("refused", reason)
    return batch


def _score_batch(run: Run, batch: list[tuple]) -> list[tuple]:
    readable = [pixels for _, pixels in batch if not isinstance(pixels, tuple)]
    if readable:
        probabilities = iter(run.predict(np.stack(readable)[..., None]))
    rows = []
    for path, pixels in batch:
        if isinstance(pixels, tuple):
            status, reason = pixels
            rows.append((name_of(path), status, np.nan, "", reason))
        else:
            probability = float(next(probabilities))
            decision = "positive" if probability >= run.threshold else "negative"
            rows.append((name_of(path), "ok", probability, decision, ""))
    return rows


def name_of(film: str | Path | BinaryIO) -> str:
    """Return the name of a film; what is not UTF-8 in it is escaped, and what ends a CSV's row."""
    name = film.name if hasattr(film, "read") else str(film)
    return name.encode("utf-8", "backslashreplace").decode().replace("\r", "\\r")
