"""Is this an upright frontal chest radiograph? Asked of each image before it gets a probability.

Of several explanations of an image the likeliest holds: it is a frontal film; such a film inverted,
upside down or on its side; a part of one; a lateral; or something else. Each is a density of
histograms of oriented gradients (Dalal and Triggs, CVPR 2005): of films, parts and laterals a
probabilistic principal component analysis (Tipping and Bishop, J R Stat Soc B 1999). That of films
serves for turned ones too, since turning permutes the histogram; 'something else' is as likely
everywhere. `tools/make_frontal.py` fitted them on training patients; they hold for every run.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cxrlib.data.images import colour_of, view_of

BUNDLED = Path(__file__).with_name("frontal.npz")
SIDE, CELLS, BINS = 64, 8, 8  # pixels, cells a side and directions of the gradient
TINT = 0.03  # mean range of the colour channels
CONTRAST = 0.05  # range from the 2nd to the 98th percentile of the grey values
EXTREME = 0.75  # share of values that are black or white

TURNS = {
    "inverted": "inverted: black and white are exchanged",
    "upside down": "upside down",
    "upside down, mirrored": "upside down",
    "on its left side": "on its side: turn it clockwise",
    "on its right side": "on its side: turn it counter-clockwise",
}
REASONS = TURNS | {
    "part": "not a whole chest: a part of one, or something else",
    "lateral": "looks like a lateral radiograph",
    "else": "does not look like a frontal chest radiograph",
}


@dataclass(frozen=True)
class Density:
    """A Gaussian with `variance` (k,) along `axes` (k, d), and `rest` in each direction across.

    As a PCA of scikit-learn scores; that one would have to be kept as a pickle, which runs code.
    """

    mean: np.ndarray
    axes: np.ndarray
    variance: np.ndarray
    rest: float

    def surprise(self, rows: np.ndarray) -> np.ndarray:
        """Return the negative log likelihood of rows (n, d) over d, less a constant."""
        away = rows - self.mean
        along = away @ self.axes.T
        across = (away**2).sum(axis=1) - (along**2).sum(axis=1)
        d = rows.shape[1]
        volume = np.log(self.variance).sum() + (d - len(self.axes)) * np.log(self.rest)
        return ((along**2 / self.variance).sum(axis=1) + across / self.rest + volume) / (2 * d)


@dataclass(frozen=True)
class Check:
    """Densities of 'film', 'part' and 'lateral', and what each other explanation has to gain."""

    densities: dict[str, Density]
    margins: dict[str, float]


def gains_of(densities: dict[str, Density], rows: np.ndarray) -> pd.DataFrame:
    """Return by how much each other explanation surprises less than that of an upright film."""
    film = densities["film"]
    surprises = {name: film.surprise(turned) for name, turned in turn(rows).items()}
    surprises |= {name: densities[name].surprise(rows) for name in ("part", "lateral")}
    as_film = film.surprise(rows)
    return pd.DataFrame({name: as_film - s for name, s in (surprises | {"else": 0}).items()})


def find_reasons(films: np.ndarray) -> pd.DataFrame:
    """Say why each of films (n, size, size) in 0..1, as of `read_image`, gets no probability.

    One row per film: reason ('' where it gets one); score, what the likeliest other explanation has
    over that of a film, above 0 where refused, infinite where grey values alone decide.
    """
    gains = rank_explanations(films)
    found = pd.DataFrame({"reason": gains.idxmax(axis=1).map(REASONS), "score": gains.max(axis=1)})
    found.loc[found["score"] <= 0, "reason"] = ""
    for row, film in enumerate(films):
        if grey := _grey_reason(film):
            found.loc[row] = grey, np.inf
    return found


def rank_explanations(films: np.ndarray) -> pd.DataFrame:
    """Return by how much each other explanation, a column each, beats that of a film."""
    check = load_check()
    return gains_of(check.densities, describe(films)) - pd.Series(check.margins)


def find_reason_in_file(path) -> str:
    """Say why a file gets no probability, where colour or a lateral DICOM decides; else ''."""
    if view_of(path) == "lateral":
        return "a lateral radiograph, by its DICOM header"
    return "coloured: radiographs are grey" if colour_of(path) > TINT else ""


def describe(films: np.ndarray) -> np.ndarray:
    """Return histograms of oriented gradients of films (n, size, size) in 0..1, float32 (n, 512).

    The square root of the mean gradient in each of 8 x 8 cells and 8 directions. Borders without
    contrast are cut off and the rest is stretched to a square, as the films of NIH are. Grey values
    are standardised, so that neither exposure nor window decides.
    """
    shown = [Image.fromarray(np.ascontiguousarray(_content(f), np.float32)) for f in films]
    small = [image.resize((SIDE, SIDE), Image.Resampling.BILINEAR) for image in shown]
    thumbs = np.stack([np.asarray(image) for image in small])
    thumbs -= thumbs.mean(axis=(1, 2), keepdims=True)
    thumbs /= thumbs.std(axis=(1, 2), keepdims=True) + 0.02
    down, right = np.gradient(thumbs, axis=(1, 2))
    length = np.hypot(down, right) + 1e-9
    rows = np.empty((len(films), CELLS, CELLS, BINS), np.float32)
    for number, angle in enumerate(2 * np.pi * np.arange(BINS) / BINS):
        cosine = np.maximum(0, (right * np.cos(angle) + down * np.sin(angle)) / length)
        share = (length * cosine**4).reshape(-1, *[CELLS, SIDE // CELLS] * 2)
        rows[..., number] = np.sqrt(share.mean(axis=(2, 4)))
    return rows.reshape(len(films), -1)


def turn(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return what `describe` would give of the films inverted or turned back, by `TURNS`."""
    grid = rows.reshape(-1, CELLS, CELLS, BINS)
    mirrored = -np.arange(BINS) % BINS
    turned = (
        np.roll(grid, BINS // 2, axis=3),
        np.roll(grid[:, ::-1, ::-1], BINS // 2, axis=3),
        grid[:, ::-1][..., mirrored],
        np.roll(np.rot90(grid, -1, (1, 2)), BINS // 4, axis=3),
        np.roll(np.rot90(grid, 1, (1, 2)), -BINS // 4, axis=3),
    )
    return {name: t.reshape(rows.shape) for name, t in zip(TURNS, turned, strict=True)}


@cache
def load_check() -> Check:
    """Read the check that comes with cxrlib."""
    with np.load(BUNDLED) as arrays:
        named = {name: arrays[name].astype(np.float32) for name in arrays}
    densities = {
        name: Density(*(named[f"{name} {part}"] for part in ("mean", "axes", "variance", "rest")))
        for name in ("film", "part", "lateral")
    }
    return Check(densities, {name: float(named[f"margin {name}"]) for name in REASONS})


def _grey_reason(film: np.ndarray) -> str:
    shown = _content(film)[::2, ::2]
    if np.ptp(np.percentile(shown, [2, 98])) < CONTRAST:
        return "blank: hardly any contrast"
    if ((shown <= 1 / 255) | (shown >= 254 / 255)).mean() > EXTREME:
        return "saturated: most of it is black or white"
    return ""


def _content(film: np.ndarray) -> np.ndarray:
    """Cut off rows and columns at the rim without contrast; the film as it is if none is left."""
    rows, columns = (np.flatnonzero(np.ptp(film, axis=axis) > CONTRAST) for axis in (1, 0))
    if len(rows) < 2 or len(columns) < 2:
        return film
    return film[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
