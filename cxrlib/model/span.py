"""Features in memory or on disk, read in blocks of films, and the space that films span."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.linalg

EPSILON = 1e-3  # added to each feature's variance, so that a dead feature stays near zero
MANY = 2000  # films whose span is exact; that of more is the span of so many
ROWS = 256  # films of a block, 33 MB of 32,000 features
PARTS = 4  # of a block, which is brought to float32 in threads: that takes as long as the products


def sweep(features, coef: np.ndarray | None, answer: Callable, width: int) -> np.ndarray:
    """Read all films once, block by block; return the sum of `answer.T @ block`, (width, p).

    `answer` makes (films, width) of a slice of films and their products with `coef`, (films, fits).
    """
    size = int(np.prod(features.shape[1:]))
    buffer = np.empty((min(ROWS, len(features)), size), np.float32)
    total = np.zeros((width, size), np.float32)
    # Beside anything of 64 bits the whole block would be converted, and products take longer.
    coef = None if coef is None else coef.astype(np.float32)
    with ThreadPoolExecutor(PARTS) as pool:
        for start in range(0, len(features), ROWS):
            rows = slice(start, min(start + ROWS, len(features)))
            block = buffer[: rows.stop - start]
            both = block, features[rows].reshape(len(block), -1)
            list(pool.map(np.copyto, *(np.array_split(x, PARTS) for x in both)))
            mass = answer(rows, None if coef is None else block @ coef.T)
            total += mass.astype(np.float32, copy=False).T @ block
    return total


def measure_moments(features, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sums and sums of squares, (folds, p), and the number of films of each fold, (folds,).

    Squares are of the distance from the first film, which keeps float32 exact enough.
    """
    names, number = np.unique(fold, return_inverse=True)
    first = np.asarray(features[:1], np.float64).reshape(-1)
    sums, squares = np.zeros((2, len(names), len(first)))
    for start in range(0, len(features), ROWS):
        block = features[start : start + ROWS].reshape(-1, len(first)) - first
        for name in np.unique(number[start : start + ROWS]):
            part = block[number[start : start + ROWS] == name]
            sums[name] += part.sum(axis=0)
            squares[name] += np.einsum("ij,ij->j", part, part)
    return sums, squares, np.bincount(number)


def span_of_films(features) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Standardise features and express them in the space that the films span.

    n films span n dimensions at most. In orthonormal coordinates of that space an L2 penalty is the
    same as on all features, and a fit costs a fraction. Of more than 2,000 films the space is that
    of 2,000 among them, so memory and time grow with the films and not with their square.

    Returns (films, rank), the standardised films in those coordinates; (p, rank), by which
    coefficients in them become those of standardised features; mean and scale, (p,).
    """
    if len(features) <= MANY:
        flat = np.asarray(features[:]).reshape(len(features), -1).astype(np.float32)
        mean = flat.mean(axis=0)
        scale = np.sqrt(flat.var(axis=0) + EPSILON)
        back, rows = orthonormal_basis((flat - mean) / scale)
        return rows, back, mean, scale
    (sums,), (squares,), _ = measure_moments(features, np.zeros(len(features), int))
    mean, scale = standardise(features, sums, squares, len(features))
    if mean.size <= MANY:
        back = np.eye(mean.size, dtype=np.float32)
    else:
        back = orthonormal_basis(draw_rows(features, MANY, mean, scale))[0]
    rows = np.empty((len(features), back.shape[1]), np.float32)
    shift = (mean / scale) @ back

    def project(block, product):
        rows[block] = product - shift
        return rows[block][:, :0]

    sweep(features, (back / scale[:, None]).T, project, 0)
    return rows, back, mean, scale


def standardise(features, sums, squares, films) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale, (p,), of what `measure_moments` summed."""
    first = np.asarray(features[:1], np.float64).reshape(-1)
    middle = sums / films
    variance = np.maximum(squares / films - middle**2, 0)
    return (first + middle).astype(np.float32), np.sqrt(variance + EPSILON).astype(np.float32)


def draw_rows(features, most: int, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return up to `most` films, drawn evenly, as standardised rows."""
    drawn = np.random.default_rng(0).permutation(len(features))[:most]
    rows = [features[i : i + 1] for i in np.sort(drawn)]
    return (np.concatenate(rows).reshape(len(rows), -1).astype(np.float32) - mean) / scale


def orthonormal_basis(standard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an orthonormal basis, (p, rank), of the span of rows, and the rows in it."""
    variance, axes = scipy.linalg.eigh((standard @ standard.T).astype(np.float64))
    kept = variance > variance[-1] * 1e-7
    rows = axes[:, kept] * np.sqrt(variance[kept])
    return standard.T @ (axes[:, kept] / np.sqrt(variance[kept])).astype(np.float32), rows
