"""How well maps of evidence find the boxes that radiologists drew."""

import numpy as np
import pandas as pd

from cxrlib.audit.maps import map_films, randomise
from cxrlib.data.images import boxes_on_square
from cxrlib.data.labels import BOX
from cxrlib.data.study import Study
from cxrlib.metrics.bootstrap import RESAMPLES, interval, mean, resample_patients, share
from cxrlib.metrics.report import format_interval
from cxrlib.model.run import Run
from cxrlib.plots.evidence import resize_map

SIDE = 100  # of the square on which maps and boxes are compared; a film spans it
SHARES = (0.25, 0.5, 0.75)  # of a map's largest value, from which a cell counts as marked
CONTROLS = ["random weights", "centre", "average box"]
MEASURES = ["pointing game", "energy in box", *(f"IoU at {share:g}" for share in SHARES)]


def boxed_films(study: Study, films: pd.DataFrame, finding: str) -> pd.DataFrame:
    """Return the films that have a box of the finding, with `mask`: (SIDE, SIDE) of bool.

    The mask is on the padded square that the network sees; several boxes of a film are joined.
    """
    findings, finding = study.findings, study.name_of(finding)
    boxes = findings[findings["label"] == finding].dropna(subset="xmin").groupby("filename")
    boxed = films[films["filename"].isin(boxes.groups)]
    masks = [_mask(film, boxes.get_group(film.filename)) for film in boxed.itertuples()]
    return boxed.assign(mask=masks).reset_index(drop=True)


def score_map(heat: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Score a map, (height, width) over the padded square film, against a mask of `boxed_films`.

    What is above 0 counts as evidence. 'pointing game': 1 where the highest point lies in the box,
    else 0 (Zhang et al., ECCV 2016); 'energy in box': the share of the map that lies in it (Wang et
    al., CVPR Workshops 2020); 'IoU at 0.5': intersection over union of the box and the part of the
    map that reaches half of its highest value, likewise for the other SHARES.
    """
    fine = np.maximum(resize_map(heat, SIDE), 0)
    total, peak = fine.sum(), fine.max()
    scores = [mask.flat[fine.argmax()] if peak > 0 else 0, fine[mask].sum() / total if total else 0]
    for part in SHARES:
        marked = (fine >= part * peak) & (fine > 0)
        scores.append((marked & mask).sum() / (marked | mask).sum())
    return dict(zip(MEASURES, map(float, scores), strict=True))


def locate(
    run: Run, films: pd.DataFrame, training: pd.DataFrame, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Score the run's maps, and maps that know nothing of the film, against boxes.

    `films` are of patients that the run was not trained on and `training` of those that it was,
    both as `boxed_films` gives them; `seed` is of random weights.

    Returns
    -------
    scores : DataFrame, one row per film and method
        filename, patient, method and the MEASURES. Methods: 'evidence' and 'Grad-CAM' as
        `map_films`; 'random weights' is the evidence of `randomise`; 'centre' a Gaussian in the
        middle of the film; 'average box' the mean of the training films' boxes.
    maps : dict of (films, height, width), by method
    """
    paths = list(films["path"])
    across = np.linspace(-1, 1, SIDE)
    centre = np.exp(-2 * (across**2 + across[:, None] ** 2))  # standard deviation: a quarter film
    average = np.mean(list(training["mask"]), axis=0)
    maps = {
        **map_films(run, paths),
        "random weights": map_films(randomise(run, seed), paths)["evidence"],
        "centre": [centre] * len(paths),
        "average box": [average] * len(paths),
    }
    rows = [
        {"filename": film.filename, "patient": film.patient, "method": method}
        | score_map(heat, film.mask)
        for method, heats in maps.items()
        for film, heat in zip(films.itertuples(), heats, strict=True)
    ]
    return pd.DataFrame(rows), maps


def tabulate_locations(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the mean of each measure as text, with its 95 % interval over patients, by method."""
    rows = {}
    for method, part in scores.groupby("method", sort=False):
        weights = resample_patients(part["patient"], RESAMPLES, seed)
        values = {name: mean(part[name].to_numpy(), weights) for name in MEASURES}
        hits, films = part["pointing game"].to_numpy() == 1, np.ones(len(part), bool)
        values["pointing game"] = share(hits, films, part["patient"].to_numpy(), weights)
        rows[method] = {name: format_interval(interval(value)) for name, value in values.items()}
    return pd.DataFrame(rows).T.rename_axis("method")


def compare_with_controls(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the energy in the box of the evidence less that of each map that knows nothing.

    One row per control: value, low and high, 95 % intervals over patients; see `locate`.
    """
    films = scores.pivot_table("energy in box", ["patient", "filename"], "method")
    weights = resample_patients(films.index.get_level_values("patient"), RESAMPLES, seed)
    less = {name: (films["evidence"] - films[name]).to_numpy() for name in CONTROLS}
    rows = {name: interval(mean(values, weights)) for name, values in less.items()}
    return pd.DataFrame(rows).T.rename_axis("control")


def _mask(film, boxes: pd.DataFrame) -> np.ndarray:
    """Return where the boxes lie on the square that `read_image` pads a film to."""
    mask = np.zeros((SIDE, SIDE), bool)
    on_square = boxes_on_square(boxes[BOX].to_numpy(), film.width, film.height)
    for left, top, right, bottom in np.rint(on_square * SIDE).astype(int):
        mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask
