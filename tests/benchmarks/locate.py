"""Where maps of evidence from earlier layers lie, beside the AUC of a head on each layer.

    python tests/benchmarks/locate.py --cache FOLDER [--study FOLDER] [--finding NAME]

The study is --study, else CXR_DATA, else the bundled one. Training patients alone take part: in
each of the five folds of `fit_head` a head is fitted on the other four, scores the films of this
one, and maps its evidence on those with a box of the finding. Three controls stand beside: the same
layer of a network with random weights under a shuffled head, a Gaussian in the middle, and the
average box of the four folds. Features are kept in --cache, film by film, so that a call that was
interrupted goes on. The table goes to stdout, as Markdown.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxrlib.audit import localise
from cxrlib.data.images import film_digest, read_image
from cxrlib.data.study import choose_films, read_study
from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval, mean, resample_patients
from cxrlib.metrics.report import format_interval
from cxrlib.model._keras import keras
from cxrlib.model.backbone import join, load_backbone
from cxrlib.model.evidence import evidence_of
from cxrlib.model.folds import patient_folds
from cxrlib.model.head import fit_uncalibrated

BUNDLED = Path(__file__).parents[2] / "medical"
LAYERS = ["mixed2", "mixed4", "mixed6", "mixed8", "mixed10"]
SIZE, GRID = 399, 5


@dataclass
class Cut:
    """As much of a run as a map needs."""

    model: keras.Model


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--study", type=Path, default=os.environ.get("CXR_DATA", BUNDLED))
    parser.add_argument("--finding", default="Cardiomegaly")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    study = read_study(args.study)
    films = choose_films(study, args.finding)
    train = films[films["split"] == "train"].reset_index(drop=True)
    fold = patient_folds(train, args.seed)
    boxed = localise.boxed_films(study, train.assign(fold=fold), args.finding)
    backbones = {layer: load_backbone(image_size=SIZE, layer=layer) for layer in LAYERS}
    features = extract(backbones, train["path"], args.cache)

    weights = resample_patients(train["patient"], RESAMPLES, args.seed)
    target = train["target"].to_numpy()
    rows, cuts, controls = {}, {}, {}
    for layer, backbone in tqdm(backbones.items(), desc="heads"):
        logit = np.empty(len(train))
        for number in np.unique(fold):
            rest = fold != number
            kind = {"kind": "linear"}
            head, _ = fit_uncalibrated(features[layer][rest], target[rest], fold[rest], kind)
            logit[~rest] = head(features[layer][~rest].astype(np.float32)).numpy()[:, 0]
            cuts[layer, number] = Cut(join(backbone, head))
            controls[layer, number] = Cut(join(backbone, localise.shuffle_head(head, args.seed)))
        area = interval(auc(target, logit, weights, strata=fold))
        size = " x ".join(map(str, backbone.model.output_shape[1:3]))
        rows[layer] = {"positions": size, "AUC, held out": format_interval(area)}
    random = load_backbone(weights=None, image_size=SIZE, layer=LAYERS[-1], seed=args.seed)
    ways = {
        "": (whole(backbones[LAYERS[-1]].model), cuts),
        ", random weights": (whole(random.model), controls),
    }
    heats: dict[str, list] = {layer + way: [] for layer in LAYERS for way in ways}
    for film in tqdm(list(boxed.itertuples()), desc="maps"):
        pixels = read_image(film.path, SIZE)[None, ..., None]
        for way, (network, made) in ways.items():
            for layer, channels in zip(LAYERS, network.predict_on_batch(pixels), strict=True):
                heats[layer + way].append(evidence_of(made[layer, film.fold], channels)[0][0])
    across = np.linspace(-1, 1, localise.SIDE)
    centre = np.exp(-2 * (across**2 + across[:, None] ** 2))
    heats["centre"] = [centre] * len(boxed)
    average = {n: np.mean(list(boxed["mask"][boxed["fold"] != n]), axis=0) for n in set(fold)}
    heats["average box"] = [average[n] for n in boxed["fold"]]

    print(f"{len(train)} films of {train['patient'].nunique()} patients, {len(boxed)} with a box\n")
    weights = resample_patients(boxed["patient"], RESAMPLES, args.seed)
    scored = {
        name: pd.DataFrame(map(localise.score_map, maps, boxed["mask"]))
        for name, maps in heats.items()
    }
    for name, scores in scored.items():
        row = rows.setdefault(name, {})
        for measure in ("pointing game", "energy in box", "IoU at 0.5"):
            value = interval(mean(scores[measure].to_numpy(), weights))
            row[measure] = format_interval(value)
        if name in LAYERS:
            for control in (f"{name}, random weights", "centre", "average box"):
                less = (scores - scored[control])["energy in box"].to_numpy()
                column = f"energy less {control.removeprefix(f'{name}, ')}"
                row[column] = format_interval(interval(mean(less, weights)))
    print(to_markdown(pd.DataFrame(rows).T.fillna("")))


def extract(backbones: dict, paths, cache: Path) -> dict[str, np.ndarray]:
    """Return each layer's features on the grid, (films, GRID, GRID, channels), in one pass."""
    pool = keras.layers.AdaptiveAveragePooling2D(GRID)
    deepest = backbones[LAYERS[-1]].model
    outputs = [pool(deepest.get_layer(layer).output) for layer in LAYERS]
    model, films = keras.Model(deepest.input, outputs), []
    cache.mkdir(parents=True, exist_ok=True)
    for path in tqdm(paths, desc="features"):
        file = cache / f"{film_digest(path)}.npz"
        if not file.exists():
            made = model.predict_on_batch(read_image(path, SIZE)[None, ..., None])
            part = file.with_suffix(".part.npz")
            np.savez(
                part, **{k: v[0].astype(np.float16) for k, v in zip(LAYERS, made, strict=True)}
            )
            part.rename(file)
        films.append(dict(np.load(file)))
    return {layer: np.stack([film[layer] for film in films]) for layer in LAYERS}


def whole(model: keras.Model) -> keras.Model:
    """Return a network whose outputs are those of all LAYERS."""
    return keras.Model(model.input, [model.get_layer(layer).output for layer in LAYERS])


def to_markdown(table: pd.DataFrame) -> str:
    rows = [["layer", *table.columns], ["---"] * (table.shape[1] + 1)]
    rows += [
        [name, *map(str, row)] for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
