"""Scores of any number of radiographs in a file: a folder, or a million of them."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

from tqdm.auto import tqdm

from cxrlib import versions
from cxrlib.data.files import file_digest, walk_films
from cxrlib.data.frontal import BUNDLED as CHECK_FILE
from cxrlib.model._keras import THREADS
from cxrlib.model.predict import MISSING, name_of, score_batches
from cxrlib.model.run import Run, load_run
from cxrlib.scoring.cluster import ClusterError, Scheduler, one_part, refuse_other, spread
from cxrlib.scoring.parts import open_parts

PART = 64  # films: what a killed process loses, and what a worker is sent


def write_scores(
    run: Run,
    paths: Iterable[str | Path],
    out: str | Path,
    check: bool = True,
    scheduler: Scheduler = None,
    workers: int | None = None,
    part: int = PART,
) -> Counter:
    """Score any number of films into a file, in memory that does not grow with them.

    What is done stands in `OUT.parts`, in whole parts. A call that ended early, by `kill -9` or by
    a full disk, goes on there when it is given again. On one machine the file is the same to the
    last byte, however often it went on and whatever the number of workers. Other processors may
    give another last digit (docs/reproducibility.md). Returns the number of films by status. Raises
    the errors of `score_films`, before scoring those of `open_parts`, and those of `spread`;
    ClusterError where a worker sees another run or other versions than here.

    Parameters
    ----------
    paths : image files and folders
    out : file to write, whole or not at all, with the columns of `score_films`: Parquet where its
        name ends so, else CSV in UTF-8 (what a file name has beyond it is escaped)
    check : refuse what is not a frontal chest radiograph, see `cxrlib.data.frontal`
    scheduler, workers : where to compute, see `cluster.spread`; here, if neither is given.
        Other machines need the same versions, and the run and the films under the same paths.
    part : films per part
    """
    if part < 1:
        raise ValueError(f"part is {part}: give 1 or more")
    settings = _settings(run, check)
    with open_parts(out, map(_path, walk_films(paths)), settings, part) as parts:
        count = {"total": parts.count, "initial": parts.done, "disable": parts.count == 1}
        with tqdm(desc="scores", unit="film", **count) as progress:
            if scheduler is not None or workers is not None:
                load = run.engine.load if run.engine else load_run
                there = partial(_score_part, load, str(run.folder.absolute()), settings)
                tasks = ((task, list(map(os.path.abspath, task[1]))) for task in parts.todo())
                for (number, films), rows in spread(there, tasks, scheduler, workers):
                    parts.write(number, [_own_row(*pair) for pair in zip(films, rows, strict=True)])
                    progress.update(len(films))
            else:
                for number, films in parts.todo():
                    rows = []
                    for batch in score_batches(run, films, check):
                        rows += batch
                        progress.update(len(batch))
                    parts.write(number, rows)
        return parts.finish()


def _path(film: Path | BinaryIO) -> str:
    if not isinstance(film, Path):
        raise TypeError(f"{film.name} is in memory: `score_films` scores it")
    return str(film)


def _settings(run: Run, check: bool) -> dict:
    """Return what decides a score beside the film."""
    # Not when it was made, nor what testing it adds, nor an engine that is not used.
    later = {"made", "metrics", "predictions.csv"}
    if not run.engine:
        later |= {"engine", *run.facts.get("engine", {}).get("files", ())}
    facts = {n: fact for n, fact in run.facts.items() if n not in later}
    facts["files"] = {n: d for n, d in facts["files"].items() if n not in later}
    return {
        "run": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(),
        "versions": versions(),
        "check": file_digest(CHECK_FILE) if check else "",
        "engine": run.engine.name if run.engine else "",
        "threads": THREADS,
    }


def _score_part(load: Callable, folder: str, settings: dict, films: list[str]) -> list[tuple]:
    """Return the rows of a part; what a worker of a cluster runs."""
    with one_part:
        run = _load_once(load, folder, json.dumps(settings))
        return [row for rows in score_batches(run, films, settings["check"]) for row in rows]


def _own_row(film: str, row: tuple) -> tuple:
    """Return the row of a film, as a worker gave it, under the film's name here."""
    if row[-1] == MISSING and os.path.exists(film):
        raise ClusterError(
            f"a worker does not find {film}, which is there: its machine must see films and run "
            "under the same paths as this one"
        )
    return name_of(film), *row[1:]


@lru_cache(1)
def _load_once(load: Callable, folder: str, settings: str) -> Run:
    """Return a run; other `settings` have it loaded anew, as where a new one took its place."""
    run, wanted = load(folder), json.loads(settings)
    refuse_other(_settings(run, wanted["check"]), wanted, f"another run at {folder}")
    return run
