"""Copies of a film under two patients."""

from contextlib import suppress

import numpy as np
import pandas as pd
from sklearn.neighbors import radius_neighbors_graph
from tqdm.auto import tqdm

from cxrlib.audit.table import AuditError
from cxrlib.data.files import SUFFIXES
from cxrlib.data.images import read_image
from cxrlib.data.study import Study

ALIKE = 0.99  # correlation of thumbnails; the most of two patients was 0.973 in 1,266 NIH films
THUMBNAIL = 32  # pixels
SUFFIX = f"(?i)({'|'.join(SUFFIXES)})$".replace(".", r"\.")


def match_films(ids: pd.Series, study: Study) -> pd.Series:
    """Return the row of `study.films` that each id names, NaN where none or more than one does.

    Of file names, without their ending, as many last parts count as tell the films apart. Raises
    AuditError where none is found.
    """
    names = study.films["filename"]
    bare = [x.str.replace("\\", "/").str.replace(SUFFIX, "", regex=True) for x in (names, ids)]
    for depth in range(1, names.str.count("/").max() + 2):
        known, named = (x.str.split("/").str[-depth:].str.join("/") for x in bare)
        if known.is_unique:
            break
    known = known.drop_duplicates(keep=False)
    film = named.map(pd.Series(known.index, known)).mask(named.duplicated(keep=False))
    if film.isna().all():
        raise AuditError(
            f"no image of the table is in {study.folder}. The table names images such as "
            f"'{ids.iloc[0]}', the study such as '{names.iloc[0]}'. Give the study they are of."
        )
    return film


def find_near_copies(paths: pd.Series, patient: pd.Series) -> tuple[list[tuple], int]:
    """Return the pairs of films of two patients that look alike, and how many cannot be read.

    `paths` and `patient` are columns with the same labels, by which films are named. Films that
    were scaled, compressed or brightened are found, those that were cropped are not.
    """
    films = {}
    for name, path in tqdm(paths.items(), "thumbnails", len(paths), unit="film"):
        with suppress(OSError, ValueError):
            films[name] = read_image(path, THUMBNAIL).ravel()
    if not films:
        return [], len(paths)
    small = np.stack(list(films.values()))
    small -= small.mean(axis=1, keepdims=True)  # so that cosines are correlations
    alike = radius_neighbors_graph(small, 1 - ALIKE, metric="cosine").tocoo()
    names = list(films)
    pairs = [(names[i], names[j]) for i, j in zip(*alike.coords, strict=True) if i < j]
    return [(a, b) for a, b in pairs if patient[a] != patient[b]], len(paths) - len(films)
