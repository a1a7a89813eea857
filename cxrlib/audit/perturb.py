"""Films changed on purpose: which part of a film a score depends on."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import logit
from tqdm.auto import tqdm

from cxrlib.data.images import read_image
from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval, mean, resample_patients
from cxrlib.metrics.report import format_interval
from cxrlib.plots.evidence import resize_map

if TYPE_CHECKING:
    from cxrlib.model.run import Run

BORDER = 0.1  # of the side, masked on each of the four
CORNER = (0.25, 0.2)  # height and width of an upper corner, where side markers mostly stand
HIDDEN = ("box", "as much elsewhere", "all but the box", "border", "upper corners")
CHANGES = (*(f"{part} hidden" for part in HIDDEN), "mirrored")


def change_film(film: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Return a film under each of CHANGES; what is hidden takes the film's mean grey.

    'as much elsewhere hidden' moves the box to the corner of the film where it overlaps itself
    least: a grey patch changes a score wherever it lies (occlusion, Zeiler and Fergus, ECCV 2014).
    `film` is (side, side) in 0..1, `mask` (side, side) of bool, True in the box.
    """
    width, border = round(BORDER * len(film)), np.ones_like(mask)
    border[width:-width, width:-width] = False
    (height, width), corners = (round(x * len(film)) for x in CORNER), np.zeros_like(mask)
    corners[:height, :width] = corners[:height, -width:] = True
    hidden = (mask, _elsewhere(mask), ~mask, border, corners)
    changed = [np.where(part, film.mean(), film) for part in hidden]
    return dict(zip(CHANGES, [*changed, film[:, ::-1]], strict=True))


def add_controls(
    boxed: pd.DataFrame, films: pd.DataFrame, training: pd.DataFrame, seed: int = 0
) -> pd.DataFrame:
    """Return `boxed` and as many films without the finding, drawn at random, each lent a box.

    The boxes lent are those of training films with the finding, so that the size of what is hidden
    tells nothing of the label. `boxed` and `training` are as `boxed_films` gives them, of test and
    of training patients; `films` with target are of test patients.
    """
    without = films[films["target"] == 0]
    drawn = without.sample(min(len(without), len(boxed)), random_state=seed)
    lent = training["mask"].sample(len(drawn), replace=True, random_state=seed)
    return pd.concat([boxed, drawn.assign(mask=lent.tolist())], ignore_index=True)


def perturb_films(run: Run, films: pd.DataFrame) -> pd.DataFrame:
    """Score films, as `add_controls` gives them, unchanged and under each change.

    Returns filename, patient, target, 'unchanged' and a column for each of CHANGES, in logits.
    """
    size, logits = run.image_size, []
    for film in tqdm(films.itertuples(), desc="changes", unit="film", total=len(films)):
        pixels = read_image(film.path, size)
        variants = change_film(pixels, resize_map(film.mask, size) > 0.5).values()
        batch = np.stack([pixels, *variants], dtype=np.float32)[..., None]
        logits.append(run.model.predict_on_batch(batch)[:, 0])
    table = films[["filename", "patient", "target"]].reset_index(drop=True)
    return table.join(pd.DataFrame(logits, columns=["unchanged", *CHANGES], dtype=float))


def tabulate_changes(scores: pd.DataFrame, threshold: float, seed: int = 0) -> pd.DataFrame:
    """Return what each change does to the scores of `perturb_films`, one row per change, as text.

    The mean change of the logit on films with the finding and on films without; AUC, and AUC less
    that of the unchanged films; decisions changed (share of films, called positive from the
    probability `threshold` on); each with its 95 % interval over patients.
    """
    weights = resample_patients(scores["patient"], RESAMPLES, seed)
    target, before = scores["target"].to_numpy(), scores["unchanged"].to_numpy()
    ill, cut, unchanged, rows = target == 1, logit(threshold), auc(target, before, weights), {}
    for change in CHANGES:
        after = scores[change].to_numpy()
        moved, area = after - before, auc(target, after, weights)
        rows[change] = {
            "logit, with the finding": mean(moved[ill], weights[:, ill]),
            "logit, without": mean(moved[~ill], weights[:, ~ill]),
            "AUC": area,
            "AUC less unchanged": area - unchanged,
            "decisions changed": mean((after >= cut) != (before >= cut), weights),
        }
    table = pd.DataFrame(rows).map(lambda values: format_interval(interval(values)))
    return table.T.rename_axis("change")


def _elsewhere(mask: np.ndarray) -> np.ndarray:
    """Return the mask moved into the corner where it overlaps itself least."""
    inside = np.argwhere(mask)
    shifts = np.transpose([-inside.min(axis=0), len(mask) - 1 - inside.max(axis=0)])
    moved = [np.roll(mask, shift, (0, 1)) for shift in product(*shifts)]
    return min(moved, key=lambda candidate: (candidate & mask).sum())
