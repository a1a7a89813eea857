"""How well maps of evidence find the boxes that radiologists drew."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.images import boxes_on_square
from cxrlib.data.labels import BOX
from cxrlib.data.study import Study
from cxrlib.metrics.bootstrap import RESAMPLES, interval, mean, resample_patients, share
from cxrlib.metrics.report import format_interval
from cxrlib.model._keras import keras
from cxrlib.model.backbone import join, load_backbone
from cxrlib.model.evidence import evidence_of, feature_maps
from cxrlib.model.run import Run, load_run_backbone
from cxrlib.plots.evidence import resize_map

SIDE = 100  # of the square on which maps and boxes are compared; a film spans it
SHARES = (0.25, 0.5, 0.75)  # of a map's largest value, from which a cell counts as marked
CONTROLS = ["random weights", "centre", "average box"]
MEASURES = ["pointing game", "energy in box", *(f"IoU at {share:g}" for share in SHARES)]


def map_films(run: Run, paths: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """Return maps of each film, over the padded square film; high where they speak for the finding.

    By method, float32 (films, height, width): 'evidence' as `map_evidence`, in logits; 'Grad-CAM'
    (Selvaraju et al., ICCV 2017), at least 0 and without a unit, of the logit at the last layer of
    the backbone: its channels weighted by their mean gradient, and what is below 0 cut off.
    """
    maps: dict[str, list] = {"evidence": [], "Grad-CAM": []}
    for channels in feature_maps(run, paths):
        evidence, _, slope = evidence_of(run, channels)
        maps["evidence"].append(evidence)
        importance = slope.mean(axis=(1, 2), keepdims=True)
        maps["Grad-CAM"].append(np.maximum((channels * importance).sum(axis=-1), 0))
    return {method: np.concatenate(parts) for method, parts in maps.items()}


def randomise(run: Run, seed: int = 0) -> Run:
    """Return a run with random weights in its backbone and a shuffled last layer of its head.

    A map that does not change under this tells nothing of what was learned (Adebayo et al.,
    NeurIPS 2018).
    """
    made_of = run.facts["backbone"]
    if str(made_of["weights"]).endswith(".keras"):
        own = load_run_backbone(run.folder, run.facts)
        keras.utils.set_random_seed(seed)
        backbone = replace(own, model=keras.models.clone_model(own.model))  # which starts anew
    else:
        backbone = load_backbone(made_of["name"], None, run.image_size, made_of["layer"], seed)
    return replace(run, model=join(backbone, shuffle_head(run.model.get_layer("head"), seed)))


def shuffle_head(given: keras.Model, seed: int = 0) -> keras.Model:
    """Return a copy of a head whose last layer has its weights in another order."""
    head = keras.models.clone_model(given)
    *others, kernel, bias = given.get_weights()
    shuffled = np.random.default_rng(seed).permutation(kernel.ravel()).reshape(kernel.shape)
    head.set_weights([*others, shuffled, bias])  # the last layer's come last
    return head


def boxed_films(study: Study, films: pd.DataFrame, finding: str) -> pd.DataFrame:
    """Return the films that have a box of the finding, with `mask`: (SIDE, SIDE) of bool.

    The mask is on the padded square that the network sees; several boxes of a film are joined.
    """
    findings, finding = study.findings, study.name_of(finding)
    boxes = findings[findings["label"] == finding].dropna(subset="xmin").groupby("filename")
    boxed = films[films["filename"].isin(boxes.groups)]
    masks = np.zeros((len(boxed), SIDE, SIDE), bool)
    for mask, film in zip(masks, boxed.itertuples(), strict=True):
        of_film = boxes.get_group(film.filename)[BOX].to_numpy()
        corners = np.rint(boxes_on_square(of_film, film.width, film.height) * SIDE).astype(int)
        for left, top, right, bottom in corners:
            mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return boxed.assign(mask=list(masks)).reset_index(drop=True)


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
    """Score the run's maps, and maps that know nothing of the finding, against boxes.

    `films` are of patients that the run was not trained on and `training` of those that it was,
    both as `boxed_films` gives them; `seed` is of random weights. Returns scores, a DataFrame with
    one row per film and method: filename, patient, method and the MEASURES; and maps, a dict of
    (films, height, width) by method. Methods: 'evidence' and 'Grad-CAM' as `map_films`; 'random
    weights' is the evidence of `randomise`; 'centre' a Gaussian in the middle of the film; 'average
    box' the mean of the training films' boxes.
    """
    paths, across = list(films["path"]), np.linspace(-1, 1, SIDE)
    centre = np.exp(-2 * (across**2 + across[:, None] ** 2))  # standard deviation: a quarter film
    maps = {
        **map_films(run, paths),
        "random weights": map_films(randomise(run, seed), paths)["evidence"],
        "centre": [centre] * len(paths),
        "average box": [np.mean(list(training["mask"]), axis=0)] * len(paths),
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
        rows[method] = {name: mean(part[name].to_numpy(), weights) for name in MEASURES}
        hits, films = part["pointing game"].to_numpy() == 1, np.ones(len(part), bool)
        rows[method]["pointing game"] = share(hits, films, part["patient"].to_numpy(), weights)
    table = pd.DataFrame(rows).map(lambda values: format_interval(interval(values)))
    return table.T.rename_axis("method")


def compare_with_controls(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the energy in the box of the evidence less that of each control.

    One row per control: value, low and high, 95 % intervals over patients; see `locate`.
    """
    films = scores.pivot_table("energy in box", ["patient", "filename"], "method")
    weights = resample_patients(films.index.get_level_values("patient"), RESAMPLES, seed)
    less = films[CONTROLS].rsub(films["evidence"], axis=0)
    rows = {name: interval(mean(less[name].to_numpy(), weights)) for name in CONTROLS}
    return pd.DataFrame(rows).T.rename_axis("control")
