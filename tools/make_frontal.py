"""Fit the check for frontal chest films on the training patients of studies, and write it.

    python tools/make_frontal.py medical path/to/nih-sample

What is written are means, axes and variances of gradient histograms over all films, and no film.
Descriptor, components, ranges and margins were chosen on held-out training patients, against
photographs that came with Debian's wallpapers, scikit-learn and matplotlib.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.model_selection import GroupKFold

from cxrlib.audit.strangers import cut_parts
from cxrlib.data.frontal import BUNDLED, Check, Density, describe, gains_of
from cxrlib.data.images import read_batch
from cxrlib.data.study import read_study
from cxrlib.phantom import film
from cxrlib.phantom.site import draw_films

PIXELS = 256
COMPONENTS = {"film": 40, "part": 40, "lateral": 10}
PARTS = (0.25, 0.5)  # side of a part, of the film's
TURN, LEAST = 8, 0.8  # a film may be turned by so many degrees, and be cut to this share of a side
LOST = 0.001  # share of held-out films that each other explanation may take
LATERALS, SEED = 120, 101


def fit_check(films: np.ndarray, patients: np.ndarray, laterals: np.ndarray) -> Check:
    """Fit densities; margins are such that few held-out films are lost to each explanation.

    Parameters
    ----------
    films : float array (n, size, size) in 0..1, of training patients alone
    patients : (n,), by which films are held out, in ten folds
    laterals : float array (n, size, size) in 0..1
    """
    plain = describe(films)
    rows = {
        "film": [plain, *(describe(jitter(films, seed)) for seed in (0, 1))],
        "part": [describe(cut_parts(films, *PARTS, seed)) for seed in (0, 1)],
    }
    lateral = {"lateral": fit_density(describe(laterals), COMPONENTS["lateral"])}

    def fit(chosen):
        return lateral | {
            name: fit_density(np.concatenate([r[chosen] for r in several]), COMPONENTS[name])
            for name, several in rows.items()
        }

    folds = GroupKFold(10).split(plain, groups=patients)
    margins = pd.concat([gains_of(fit(rest), plain[held]) for rest, held in folds])
    margins = margins.quantile(1 - LOST)
    likelihoods = margins.index != "else"
    margins[likelihoods] = margins[likelihoods].clip(lower=0)
    return Check(fit(slice(None)), margins.to_dict())


def fit_density(rows: np.ndarray, components: int) -> Density:
    """Fit a probabilistic principal component analysis to rows (n, d), by its closed form."""
    mean = rows.mean(axis=0)
    _, deviation, axes = np.linalg.svd(rows - mean, full_matrices=False)
    variance = deviation**2 / len(rows)
    rest = variance[components:].sum() / (rows.shape[1] - components)
    return Density(mean, axes[:components], variance[:components], rest)


def jitter(films: np.ndarray, seed: int) -> np.ndarray:
    """Return films a little turned and cut: they are films still."""
    rng, size = np.random.default_rng(seed), films.shape[1]
    changed = np.empty_like(films)
    for before, after in zip(films, changed, strict=True):
        turned = Image.fromarray(before).rotate(rng.uniform(-TURN, TURN), Image.Resampling.BILINEAR)
        width, height = (int(size * share) for share in rng.uniform(LEAST, 1, 2))
        x, y = rng.integers(0, size - width + 1), rng.integers(0, size - height + 1)
        box = (x, y, x + width, y + height)
        after[:] = turned.resize((size, size), Image.Resampling.BILINEAR, box)
    return changed


def simulate_laterals(count: int, seed: int) -> np.ndarray:
    """Simulate chests turned by 90 degrees before a detector further off, uint8 (n, 512, 512)."""
    films = []
    deep = {"FRONT_BACK": (-22.0, 22.0), "GAP": {"PA": 10.0, "AP": 10.0}}
    with patch.multiple(film, **deep):
        for number in range(count):
            _, patient, visit, _ = draw_films(seed, number)[0]
            turned = replace(visit, rotation=90.0 if number % 2 else -90.0)
            films.append(film.simulate_film(patient, turned))
    return np.stack(films)


def save_check(check: Check, path: str | Path = BUNDLED) -> None:
    """Write a check as arrays; axes in half precision."""
    arrays = {f"margin {name}": np.float32(v) for name, v in check.margins.items()}
    for name, density in check.densities.items():
        arrays |= {f"{name} {part}": np.float32(v) for part, v in asdict(density).items()}
        arrays[f"{name} axes"] = density.axes.astype(np.float16)
    np.savez_compressed(path, **arrays)


def main(folders: list[str]) -> None:
    films, patients = [], []
    for folder in folders:
        train = read_study(folder).films.query("split == 'train' and view in ('PA', 'AP', '')")
        with ThreadPoolExecutor() as pool:
            films.append(read_batch(train["path"], PIXELS, pool)[..., 0])
        patients += train["patient"].tolist()
    laterals = simulate_laterals(LATERALS, SEED).astype(np.float32) / 255
    save_check(fit_check(np.concatenate(films), np.array(patients), laterals))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", help="studies")
    main(parser.parse_args().folders)
