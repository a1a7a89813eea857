"""Films changed on purpose: what of a score hangs on which part of the film."""

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cxrlib.data.images import read_image
from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval, mean, resample_patients
from cxrlib.metrics.report import format_interval
from cxrlib.model.backbone import BATCH
from cxrlib.model.evidence import resize_map
from cxrlib.model.run import Run

BORDER = 0.1  # of the side, masked on each of the four
CORNER = (0.25, 0.2)  # height and width of an upper corner, where side markers mostly stand
CHANGES = (
    "box hidden",
    "as much elsewhere hidden",
    "all but the box hidden",
    "border hidden",
    "upper corners hidden",
    "mirrored",
)


def change_film(film: np.ndarray, mask: np.ndarray, change: str) -> np.ndarray:
    """Return a film with one change; what is hidden takes the film's mean grey.

    Parameters
    ----------
    film : (side, side) in 0..1
    mask : (side, side) of bool, the box
    change : one of CHANGES. 'as much elsewhere hidden' moves the box to the corner of the film
        where it overlaps itself least: a grey patch changes a score wherever it lies.
    """
    side = len(film)
    hidden = np.zeros_like(mask)
    if change == "mirrored":
        return film[:, ::-1]
    if change == "box hidden":
        hidden = mask
    elif change == "as much elsewhere hidden":
        hidden = _elsewhere(mask)
    elif change == "all but the box hidden":
        hidden = ~mask
    elif change == "border hidden":
        width = round(BORDER * side)
        hidden[:] = True
        hidden[width:-width, width:-width] = False
    elif change == "upper corners hidden":
        height, width = (round(share * side) for share in CORNER)
        hidden[:height, :width] = hidden[:height, -width:] = True
    else:
        raise ValueError(f"change '{change}': give one of {', '.join(CHANGES)}")
    return np.where(hidden, film.mean(), film)


def add_controls(
    boxed: pd.DataFrame, films: pd.DataFrame, training: pd.DataFrame, seed: int = 0
) -> pd.DataFrame:
    """Return `boxed` and as many films without the finding, drawn at random, each lent a box.

    The boxes lent are those of training films with the finding, so that the size of what is hidden
    tells nothing of the label.

    Parameters
    ----------
    boxed, training : DataFrames as `boxed_films` gives them, of test and of training patients
    films : DataFrame with target, of test patients
    seed : of the draw
    """
    without = films[films["target"] == 0]
    drawn = without.sample(min(len(without), len(boxed)), random_state=seed)
    lent = training["mask"].sample(len(drawn), replace=True, random_state=seed)
    return pd.concat([boxed, drawn.assign(mask=lent.tolist())], ignore_index=True)


def perturb_films(run: Run, films: pd.DataFrame) -> pd.DataFrame:
    """Score films as they are and under each change.

    Parameters
    ----------
    run : Run
    films : DataFrame with filename, path, patient, target and `mask`, (n, n) of bool over the
        padded square film, as `add_controls` gives it

    Returns
    -------
    DataFrame, one row a film
        filename, patient, target, 'unchanged' and a column for each of CHANGES, in logits.
    """
    size = run.facts["image_size"]
    variants = ["unchanged", *CHANGES]
    logits = np.empty((len(films), len(variants)))
    per_batch = BATCH // len(variants)
    with tqdm(total=len(films), desc="changes", unit="film") as progress:
        for start in range(0, len(films), per_batch):
            part = films.iloc[start : start + per_batch]
            batch = np.zeros((BATCH, size, size, 1), np.float32)
            for number, film in enumerate(part.itertuples()):
                pixels = read_image(film.path, size)
                mask = resize_map(film.mask, size) > 0.5
                changed = [pixels, *(change_film(pixels, mask, change) for change in CHANGES)]
                first = number * len(variants)
                batch[first : first + len(variants), ..., 0] = changed
            scored = run.model.predict_on_batch(batch)[: len(part) * len(variants), 0]
            logits[start : start + len(part)] = scored.reshape(len(part), -1)
            progress.update(len(part))
    table = films[["filename", "patient", "target"]].reset_index(drop=True)
    return table.join(pd.DataFrame(logits, columns=variants))


def tabulate_changes(scores: pd.DataFrame, threshold: float, seed: int = 0) -> pd.DataFrame:
    """Return what each change does to the scores, with 95 % intervals over patients.

    Parameters
    ----------
    scores : DataFrame as `perturb_films` gives it
    threshold : probability from which a film is called positive
    seed : of the bootstrap

    Returns
    -------
    DataFrame, one row a change, as text
        the mean change of the logit on films with the finding and on films without; AUC, and AUC
        less that of the unchanged films; decisions changed (share of films).
    """
    weights = resample_patients(scores["patient"], RESAMPLES, seed)
    target = scores["target"].to_numpy()
    cut = np.log(threshold / (1 - threshold))
    unchanged = auc(target, scores["unchanged"].to_numpy(), weights)
    rows = {}
    for change in CHANGES:
        after, before = scores[change].to_numpy(), scores["unchanged"].to_numpy()
        row = {}
        for side, name in ((1, "with the finding"), (0, "without")):
            part = target == side
            moved = interval(mean((after - before)[part], weights[:, part]))
            row[f"logit, {name}"] = format_interval(moved)
        areas = auc(target, after, weights)
        row["AUC"] = format_interval(interval(areas))
        row["AUC less unchanged"] = format_interval(interval(areas - unchanged))
        crossed = ((after >= cut) != (before >= cut)).astype(float)
        row["decisions changed"] = format_interval(interval(mean(crossed, weights)))
        rows[change] = row
    return pd.DataFrame(rows).T.rename_axis("change")


def _elsewhere(mask: np.ndarray) -> np.ndarray:
    """Return the mask moved into the corner where it overlaps itself least."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    patch = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = patch.shape
    moved = []
    for top in (0, len(mask) - height):
        for left in (0, len(mask) - width):
            candidate = np.zeros_like(mask)
            candidate[top : top + height, left : left + width] = patch
            moved.append(candidate)
    return min(moved, key=lambda candidate: (candidate & mask).sum())
