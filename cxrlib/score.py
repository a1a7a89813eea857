"""Apply a run to films: a file, a folder, or the test patients of a study."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cxrlib.backbone import BATCH
from cxrlib.images import SUFFIXES, ImageError, is_film, read_image, view_of
from cxrlib.metrics import evaluate
from cxrlib.run import Run, RunError, record_test
from cxrlib.study import Study, choose_films, digest_films

COLUMNS = ["path", "status", "probability", "decision", "reason"]


def list_films(paths: Iterable[str | Path | BinaryIO]) -> list[Path | BinaryIO]:
    """Return the files named, and the image files in the folders named and below them, sorted.

    A binary file object, such as an upload in memory, stands for itself.

    Raises
    ------
    FileNotFoundError
        A folder without an image file, or no path at all. A file that is missing is no error here:
        it gets its row among the scores.
    """
    films = []
    for path in (p if hasattr(p, "read") else Path(p) for p in paths):
        if isinstance(path, Path) and path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and is_film(p))
            if not found:
                raise FileNotFoundError(
                    f"{path} holds no image file ({', '.join(sorted(SUFFIXES))})"
                )
            films += found
        else:
            films.append(path)
    if not films:
        raise FileNotFoundError("no film to score: give image files or folders")
    return films


def score_films(
    run: Run, paths: Iterable[str | Path | BinaryIO], out: str | Path | None = None
) -> pd.DataFrame:
    """Score films; one that cannot be read gets a row that says why, and the rest go on.

    Parameters
    ----------
    run : Run
    paths : image files and folders; binary file objects with a `name` are read from memory
    out : CSV to write, whole or not at all, in UTF-8; what a file name has beyond it is escaped

    Returns
    -------
    DataFrame, one row a film
        path, status ('ok', 'unreadable', or 'refused' for a DICOM film whose header says lateral),
        probability of the finding (0..1, at the prevalence of the training films; NaN unless ok),
        decision ('positive', 'negative' or ''), reason.

    Raises
    ------
    FileNotFoundError
        As `list_films`; or `out` is not a file in a folder that exists, found before scoring.
    """
    films = list_films(paths)
    if out and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
        raise FileNotFoundError(f"{out} cannot be written: give a file in a folder that exists")
    rows = []
    with tqdm(total=len(films), desc="scores", unit="film", disable=len(films) == 1) as progress:
        for batch in _read_batches(films, run.facts["image_size"]):
            rows += _score_batch(run, batch)
            progress.update(len(batch))
    scores = pd.DataFrame(rows, columns=COLUMNS)
    if out:
        part = Path(f"{out}.{os.getpid()}.part")
        try:
            scores.to_csv(part, index=False, errors="backslashreplace")
            os.replace(part, out)
        finally:
            part.unlink(missing_ok=True)
    return scores


def score_test(run: Run, study: Study) -> Run:
    """Score the test patients of the run's question once, and record the result in the run.

    Called again on the same films it returns what is recorded.

    Raises
    ------
    RunError
        The study is not the one the run was trained on, has a test patient in training, a test
        film that cannot be read, or no test film with the finding or without.
    """
    films = choose_films(study, run.facts["finding"])
    if digest_films(films) != run.facts["data"]["digest"]:
        raise RunError(
            f"{study.folder} does not hold the films that {run.folder} was made from. Give the "
            "study it was trained on, or train a new run on this one."
        )
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
    scores = score_films(replace(run, engine=None), test["path"])
    unread = scores[scores["status"] != "ok"]
    if len(unread):
        raise RunError(
            f"test film {unread['path'].iloc[0]}: {unread['reason'].iloc[0]}. Replace the file, or "
            "delete its rows from labels.csv, and train again."
        )
    test["probability"] = scores["probability"]
    return record_test(run, test, evaluate(test, run.threshold, run.facts["seed"]))


def _read_batches(films: list, size: int) -> Iterator[list[tuple]]:
    """Yield batches of (path, pixels), or (path, (status, reason)) where a film gets no score."""

    def read(path):
        try:
            if view_of(path) == "lateral":
                return path, ("refused", "a lateral film, by its DICOM header")
            return path, read_image(path, size)
        except FileNotFoundError:
            return path, ("unreadable", "the file does not exist")
        except ImageError as error:
            return path, ("unreadable", error.reason)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(films), BATCH):
            yield list(pool.map(read, films[start : start + BATCH]))


def _score_batch(run: Run, batch: list[tuple]) -> list[tuple]:
    readable = [pixels for _, pixels in batch if not isinstance(pixels, tuple)]
    size = run.facts["image_size"]
    films = np.zeros((BATCH, size, size, 1), np.float32)
    if readable:
        films[: len(readable), ..., 0] = readable
        probabilities = iter(run.predict(films)[: len(readable)])
    rows = []
    for path, pixels in batch:
        if isinstance(pixels, tuple):
            status, reason = pixels
            rows.append((_name(path), status, np.nan, "", reason))
        else:
            probability = float(next(probabilities))
            decision = "positive" if probability >= run.threshold else "negative"
            rows.append((_name(path), "ok", probability, decision, ""))
    return rows


def _name(film: Path | BinaryIO) -> str:
    return str(film) if isinstance(film, Path) else film.name
