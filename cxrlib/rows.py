"""Rows of scores: films are read, checked and given a probability, batch by batch."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cxrlib.backbone import BATCH, read_ahead
from cxrlib.images import ImageError, read_image
from cxrlib.refuse import find_reason_in_file, find_reasons
from cxrlib.run import Run

MISSING = "the file does not exist"


def split_films(films: Iterable) -> Iterator[list]:
    """Yield batches of films; the last may be shorter."""
    films = iter(films)
    while batch := list(islice(films, BATCH)):
        yield batch


def score_batches(run: Run, batches: Iterable[list], check: bool) -> Iterator[list[tuple]]:
    """Yield the rows of each batch, ordered as `tables.COLUMNS`, reading the next one meanwhile.

    Parameters
    ----------
    run : Run
    batches : lists of paths, or of binary file objects with a `name`
    check : refuse what is no frontal chest film, see `cxrlib.refuse`
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
