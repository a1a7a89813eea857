"""Images that are not upright frontal chest radiographs, made of radiographs to test the check."""

import numpy as np
import pandas as pd
from PIL import Image

from cxrlib.data.frontal import TURNS, find_reasons

GROUPS = {
    "inverted or turned": list(TURNS),
    "a part": ["part"],
    "not a film": ["noise", "blank", "saturated"],
}


def cut_parts(films: np.ndarray, low: float, high: float, seed: int) -> np.ndarray:
    """Return a square part of each film, `low` to `high` of its side long, at the film's size."""
    rng, size = np.random.default_rng(seed), films.shape[1]
    parts = np.empty_like(films)
    for film, part in zip(films, parts, strict=True):
        side = int(size * rng.uniform(low, high))
        y, x = rng.integers(0, size - side + 1, 2)
        cut = Image.fromarray(film[y : y + side, x : x + side])
        part[:] = cut.resize((size, size), Image.Resampling.BILINEAR)
    return parts


def spoil_films(films: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Return images that are not frontal radiographs, made of films (n, size, size), by kind."""
    rng = np.random.default_rng(seed)
    return {
        "inverted": 1 - films,
        "upside down": films[:, ::-1, ::-1],
        "on its left side": np.rot90(films, 1, (1, 2)),
        "on its right side": np.rot90(films, -1, (1, 2)),
        "part": cut_parts(films, 0.3, 0.5, seed),  # 9 to 25 % of the area
        "noise": rng.random(films.shape, np.float32),
        "blank": np.full_like(films, 0.5),
        "saturated": np.where(films > np.median(films), 1, 0).astype(np.float32),
    }


def judge_strangers(films: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Return what `find_reasons` says of films (n, size, size), 0..1, and of what is made of them.

    One row per image: `kind` ('film', or a key of `spoil_films`), `score` and `reason`.
    """
    pictures = {"film": films} | spoil_films(films, seed)
    judged = {kind: find_reasons(made) for kind, made in pictures.items()}
    return pd.concat(judged, names=["kind"]).reset_index("kind")
