"""Measure features in 8 bits against those in full: films per second, and what AUC they cost.

    CXR_DATA=folder python tests/benchmarks/fast_features.py --cache FOLDER [--finding NAME]

Of a study's training patients alone, at the settings of notebook 02. Both ways are timed in turns,
with reading and without. The AUC is of `fit_head`, on the same films and folds for both, by seed of
the folds; the paired difference of the means over seeds has an interval over patients. Features are
kept in --cache, so that a call that was interrupted goes on.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

import cxrlib as cxr
from cxrlib.data.images import read_image
from cxrlib.deploy.engine import quantise_backbone
from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval, resample_patients
from cxrlib.model import backbone as module

ROOT = Path(__file__).parents[2]


def time_ways(ways: dict, paths: list, rounds: int) -> pd.DataFrame:
    """Return milliseconds a film of each way, by the clock and of processors; a batch warms up."""
    batches = [paths[i : i + module.BATCH] for i in range(0, len(paths), module.BATCH)]
    spent = {name: [] for name in ways}
    for _ in range(rounds):
        for name, network in ways.items():
            steps = module.compute_features(network, 5, enumerate([batches[0], *batches]))
            next(steps)
            start, cpu = time.perf_counter(), time.process_time()
            assert sum(len(rows) for _, rows in steps) == len(paths)
            spent[name].append((time.perf_counter() - start, time.process_time() - cpu))
    table = {name: 1000 * np.mean(took, axis=0) / len(paths) for name, took in spent.items()}
    return pd.DataFrame(table, index=["clock", "CPU"]).T


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder to keep features in")
    parser.add_argument("--finding", default="Cardiomegaly")
    parser.add_argument("--timed", type=int, default=32, help="films that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=8, help="0 measures speed alone")
    args = parser.parse_args()
    study = cxr.read_study(os.environ.get("CXR_DATA", ROOT / "medical"))
    films = cxr.choose_films(study, args.finding)
    train = films[films["split"] == "train"].reset_index(drop=True)
    full = cxr.load_backbone()
    start = time.perf_counter()
    ways = {"full": full, "fast": quantise_backbone(full, train["path"], args.cache)}
    print(f"8 bits: made in {time.perf_counter() - start:.0f} s")

    paths, read = train["path"].tolist()[: args.timed], module.read_batch
    pixels = {path: read_image(path, full.image_size) for path in paths}
    for what, reading in (
        ("with reading", read),
        ("without", lambda paths, *_: np.stack([pixels[path] for path in paths])[..., None]),
    ):
        module.read_batch = reading
        spent = time_ways(ways, paths, args.rounds)
        print(f"\nmilliseconds a film, {what}", spent.round(1).to_string(), sep="\n")
        print("times as fast:", (spent.loc["full"] / spent.loc["fast"]).round(2).to_dict())
    module.read_batch = read
    if not args.seeds:
        return

    features = {k: cxr.extract_features(x, train["path"], 5, args.cache) for k, x in ways.items()}
    target, weights = train["target"].to_numpy(), resample_patients(train["patient"], RESAMPLES, 0)
    rows = []
    for seed in range(args.seeds):
        heads = {name: cxr.fit_head(x, train, seed=seed) for name, x in features.items()}
        rows.append({k: auc(target, head.probability, weights) for k, head in heads.items()})
        told = ", ".join(f"{name} {values[0]:.4f}" for name, values in rows[-1].items())
        print(f"seed {seed}: AUC {told}", flush=True)
    means = {name: np.mean([row[name] for row in rows], axis=0) for name in ways}
    by_seed = [row["fast"][0] - row["full"][0] for row in rows]
    print(f"\n{args.finding}, {len(train)} films: mean AUC over {args.seeds} seeds")
    for name, values in (means | {"fast less full": means["fast"] - means["full"]}).items():
        x = interval(values)
        print(f"{name}: {x['value']:.4f} ({x['low']:.4f} to {x['high']:.4f})")
    print(f"fast less full by seed: {min(by_seed):.4f} to {max(by_seed):.4f}")


if __name__ == "__main__":
    main()
