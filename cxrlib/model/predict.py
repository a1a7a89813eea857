"""Scores in memory: films are read, checked and given a probability each."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from scipy.special import expit
from tqdm.auto import tqdm

from cxrlib.data.files import walk_films
from cxrlib.data.frontal import find_reason_in_file, find_reasons
from cxrlib.data.images import ImageError, read_ahead, read_image, short_digest
from cxrlib.data.study import Study, choose_films, digest_films
from cxrlib.metrics.report import evaluate
from cxrlib.model.backbone import BATCH
from cxrlib.model.embeddings import EmbeddingError, Embeddings
from cxrlib.model.facts import COLUMNS, RunError, are_sides_kept
from cxrlib.model.head import score_blocks
from cxrlib.model.run import DIGITS, Run, decide, decided_rows, rewrite_run

MISSING = "the file does not exist"
SEEN = "was among the training films"


def score_films(
    run: Run, paths: Iterable[str | Path | BinaryIO], check: bool = True
) -> pd.DataFrame:
    """Score films in memory; one that cannot be read or is refused gets a row that says why.

    For more films than memory holds, use `cxrlib.scoring.write.write_scores`, which writes a file.

    Parameters
    ----------
    paths : image files, folders, or binary file objects with a `name`
    check : refuse what is not an upright frontal chest radiograph, see `cxrlib.data.frontal`

    Returns
    -------
    DataFrame, one row per film
        path; status ('ok', 'refused' or 'unreadable'); probability of the finding (0..1 with six
        decimals, at the prevalence of the training films; NaN unless ok); decision ('positive' from
        the run's threshold on, 'negative' or ''); reason. An ok film that the run was trained on,
        told by its digest, has the reason SEEN. Its score tells nothing of new films.

    Raises
    ------
    FileNotFoundError
        A folder without an image file, or no path at all. A file that is missing gets a row.
    RunError
        The run's model gives what is not a number.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> run = cxr.load_run("medical/models/cardiomegaly")
    >>> scores = cxr.score_films(run, ["medical/images/00060001_000.jpg", "no such file.png"])
    >>> scores["status"].tolist()
    ['ok', 'unreadable']
    """
    films, rows = list(walk_films(paths)), []
    with tqdm(total=len(films), desc="scores", unit="film", disable=len(films) == 1) as progress:
        for batch in score_batches(run, films, check):
            rows += batch
            progress.update(len(batch))
    return pd.DataFrame(rows, columns=COLUMNS)


def score_embeddings(
    run: Run, embeddings: Embeddings, films: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Score films by their embeddings, with a run that was trained on embeddings of the same kind.

    Parameters
    ----------
    films : DataFrame with filename, in whose order the rows come; None is all of `embeddings`

    Returns
    -------
    DataFrame, one row per film, as `score_films` returns it; path is the film's name

    Raises
    ------
    EmbeddingError
        Embeddings of another network or another dimension than the run's, or a run without; a film
        without an embedding.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> import numpy as np
    >>> from tempfile import mkdtemp
    >>> study = cxr.read_study("medical")
    >>> films = cxr.choose_films(study, "Cardiomegaly")
    >>> folder, names = mkdtemp(), films["filename"].to_numpy().astype(str)
    >>> noise = np.random.default_rng(0).normal(size=(len(films), 8))
    >>> numbers = noise + films[["target"]].to_numpy()
    >>> np.savez(f"{folder}/mine.npz", names=names, embeddings=numbers)
    >>> embeddings = cxr.read_embeddings(f"{folder}/mine.npz", study)
    >>> train = films[films["split"] == "train"]
    >>> fitted = cxr.fit_head(embeddings.of(train), train)
    >>> run = cxr.save_run(f"{folder}/run", study, films, "Cardiomegaly", embeddings, fitted)
    >>> cxr.score_embeddings(run, embeddings)["status"].value_counts().to_dict()
    {'ok': 236}
    """
    wanted = run.facts.get("embeddings")
    if not wanted:
        raise EmbeddingError(
            f"{run.folder} was trained on images, not on embeddings: use cxr.score_films."
        )
    name, size = run.facts["backbone"]["name"], wanted["dimension"]
    if (embeddings.name, embeddings.dimension) != (name, size):
        raise EmbeddingError(
            f"{embeddings.path} has embeddings of '{embeddings.name}' with {embeddings.dimension} "
            f"numbers; {run.folder} was trained on '{name}' with {size}. Give those, or say by "
            "read_embeddings(..., name=...) that they are the same network's."
        )
    films = pd.DataFrame({"filename": list(embeddings.row)}) if films is None else films
    logit = score_blocks(run.model, embeddings.of(films)).astype(float)
    probability = expit(logit).round(DIGITS)
    decision = decide(probability, run.threshold)
    names = films["filename"].to_numpy()
    told = {"path": names, "status": "ok", "probability": probability, "decision": decision}
    return pd.DataFrame(told | {"reason": ""}, columns=COLUMNS)


def score_test(run: Run, study: Study, embeddings: Embeddings | None = None) -> Run:
    """Score the test patients of the run's question once, and record the result in the run.

    `embeddings` are those of `read_embeddings`, for a run that was trained on them, and no others.
    Called again on the same films it returns what is recorded. No film is refused here: who
    labelled it says that it is one, and leaving out odd films would flatter the classifier.

    Raises
    ------
    RunError
        The study is not the one the run was trained on, or has patients on other sides. A test film
        cannot be read, or none has the finding, or none is without.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> run = cxr.load_run("medical/models/cardiomegaly")
    >>> tested = cxr.score_test(run, cxr.read_study("medical"))
    >>> cxr.format_interval(tested.metrics["test"]["auc"])
    '0.95 (0.88 to 0.99)'
    """
    films = choose_run_films(run, study)
    if "test" in run.metrics:
        return run
    if not are_sides_kept(run.facts["split"], films):
        raise RunError(
            f"{study.folder}: patients stand on other sides than when {run.folder} was made: "
            "training may have seen test patients. Train again."
        )
    test = films[films["split"] == "test"].reset_index(drop=True)
    if test["target"].nunique() < 2:
        raise RunError(
            f"{study.folder}: {test['patient'].nunique()} test patients have "
            f"{test['target'].sum()} films with the finding and {(1 - test['target']).sum()} "
            "without; a measurement needs both. Add patients."
        )
    if embeddings:
        if embeddings.digest != run.facts["backbone"]["digest"]:
            raise EmbeddingError(
                f"{embeddings.path} does not hold the embeddings that {run.folder} was trained on. "
                "Give the same file and study."
            )
        scores = score_embeddings(run, embeddings, test)
    else:
        scores = score_films(replace(run, engine=None), test["path"], check=False)
    unread = scores[scores["status"] != "ok"]
    if len(unread):
        raise RunError(
            f"test film {unread['path'].iloc[0]}: {unread['reason'].iloc[0]}. Replace the file, or "
            "delete its rows from labels.csv, and train again."
        )
    test["probability"] = scores["probability"]
    both = pd.concat([run.split("train"), decided_rows(test, run.threshold)])
    measured = evaluate(test, run.threshold, run.facts["seed"])

    def fill(folder):
        both.to_csv(folder / "predictions.csv", index=False)
        return ["predictions.csv"]

    return rewrite_run(run, {"metrics": run.metrics | {"test": measured}}, fill)


def choose_run_films(run: Run, study: Study) -> pd.DataFrame:
    """Return all films of a run's question; RunError where it was trained on another study."""
    films = choose_films(study, run.finding, run.against)
    if digest_films(films) != run.facts["data"]["digest"]:
        raise RunError(
            f"{study.folder} does not hold the films that {run.folder} was made from. Give the "
            "study it was trained on, or train a new run on this one."
        )
    return films


def score_batches(run: Run, films: Iterable, check: bool) -> Iterator[list[tuple]]:
    """Yield the rows of `score_films`, without folders, some at a time and reading ahead.

    A row depends on its film alone, never on the films beside it.
    """
    films, size = iter(films), run.image_size
    batches = iter(lambda: list(islice(films, BATCH)), [])
    one = partial(_read_film, check, run.trained_on, size)
    for batch in read_ahead(lambda some, _, pool: list(pool.map(one, some)), batches, size):
        yield [_score(run, *film) for film in batch]


def _read_film(check: bool, trained_on: frozenset[str], size: int, film) -> tuple:
    """Return a film, its status, the reason for it, and its pixels where it gets a score."""
    try:
        reason = find_reason_in_file(film) if check else ""
        pixels = None if reason else read_image(film, size)
    except FileNotFoundError:
        return film, "unreadable", MISSING, None
    except ImageError as error:
        return film, "unreadable", error.reason, None
    if check and pixels is not None:
        reason = find_reasons(pixels[None])["reason"].item()
    if reason:
        return film, "refused", reason, None
    return film, "ok", SEEN if trained_on and short_digest(film) in trained_on else "", pixels


def _score(run: Run, film, status: str, reason: str, pixels: np.ndarray | None) -> tuple:
    if pixels is None:
        return name_of(film), status, np.nan, "", reason
    probability = round(float(run.predict(pixels[None, ..., None]).item()), DIGITS)
    if not np.isfinite(probability):
        raise RunError(
            f"{run.folder} gives {probability} for {name_of(film)}, not a probability: its model "
            "is damaged. Train again."
        )
    return name_of(film), status, probability, str(decide(probability, run.threshold)), reason


def name_of(film: str | Path | BinaryIO) -> str:
    """Return the name of a film; what is not UTF-8 in it is escaped, and what ends a CSV's row."""
    name = str(film) if isinstance(film, str | Path) else film.name
    return name.encode("utf-8", "backslashreplace").decode().replace("\r", "\\r")
