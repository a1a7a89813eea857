"""Copies of a film under two patients."""

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cxrlib.data.images import read_image

ALIKE = 0.99  # correlation of thumbnails; the most of two patients was 0.973 in 1,266 NIH films
THUMBNAIL = 32  # pixels


def find_near_copies(paths: pd.Series, patient: pd.Series) -> list[tuple]:
    """Return the pairs of films of two patients that look alike, by the labels of the columns.

    `paths` and `patient` are columns with the same labels. Films that were scaled, compressed or
    brightened are found, those that were cropped are not.
    """
    if paths.empty:
        return []
    reading = tqdm(paths, desc="thumbnails", unit="film")
    small = np.stack([read_image(path, THUMBNAIL).ravel() for path in reading])
    small -= small.mean(axis=1, keepdims=True)
    small /= np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
    pairs = []
    for start in range(0, len(small), 1000):
        rows, columns = np.nonzero(small[start : start + 1000] @ small.T > ALIKE)
        pairs += [(row + start, column) for row, column in zip(rows, columns, strict=True)]
    who, label = patient.to_numpy(), paths.index
    return [(label[i], label[j]) for i, j in pairs if i < j and who[i] != who[j]]
